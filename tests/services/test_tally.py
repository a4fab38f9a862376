"""Counts of runs and checkpoints are those of the tables, whatever was done to the rows."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from sqlalchemy import create_engine, inspect, text

from app.db import counting, groups, keyset, migrate, tally
from app.db.connect import connect
from app.db.counting import Count
from app.db.cursors import Order, Window
from app.db.database import Database
from app.db.listing import CHECKPOINTS, RUNS
from app.db.sql import Tx
from app.domain.lifecycle import TERMINAL, RunStatus
from app.domain.requests import ExperimentRequest, MarkRequest, RunRequest, UpdateRunRequest
from app.services import deletion, edits, experiments, marks, runs
from tests.services.conftest import Write

Groups = Counter[tuple[str, str, str, int]]
_COUNTED = text(
    "SELECT 'run', experiment_id, status, CASE WHEN archived_at IS NULL THEN 0 ELSE 1 END, count(*)"
    " FROM run GROUP BY 1, 2, 3, 4 UNION ALL"
    " SELECT 'checkpoint', experiment_id, state, 0, count(*) FROM checkpoint GROUP BY 1, 2, 3, 4"
)
_TALLIED = text(
    "SELECT listed, experiment_id, state, archived, sum(number) FROM tally GROUP BY 1, 2, 3, 4"
)
_ROWS = text("SELECT count(*) FROM tally")


def read(url: str, query: object) -> list[Sequence[int]]:
    """Return the rows of a query, read beside the service."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(query).all()  # type: ignore[call-overload]
    engine.dispose()
    return [tuple(row) for row in found]


def grouped(url: str, query: object) -> Groups:
    """Return the groups that are not empty."""
    return Counter({tuple(row[:4]): int(row[4]) for row in read(url, query) if row[4]})  # type: ignore[misc]


KINDS = ("submit",) * 4 + ("cancel", "cancel", "archive", "restore", "mark", "delete")


class Work:
    """Use cases at random on a few experiments."""

    def __init__(self, write: Write, seed: int) -> None:
        self.write, self.chance = write, random.Random(seed)
        made = [
            write(experiments.create, ExperimentRequest(name=name, task_type="t")) for name in "abc"
        ]
        self.experiments = [experiment.id for experiment in made]
        self.runs: list[str] = []

    def step(self) -> None:
        """Do one thing to one run."""
        kind = self.chance.choice(KINDS)
        if kind == "submit" or not self.runs:
            experiment = self.chance.choice(self.experiments)
            self.runs.append(self.write(runs.submit, experiment, RunRequest(model="m"), {}).id)
            return
        run = self.write(runs.get, run_id := self.chance.choice(self.runs))
        if kind != "mark" and RunStatus(run.status) not in TERMINAL:
            self.write(runs.cancel, run_id)
        if kind == "mark":
            path = f"/ckpts/{run.experiment_id}/{run_id}/step-{self.chance.randrange(9):06d}"
            mark = MarkRequest(run_id=run_id, ckpt_path=path, tag_type="candidate")
            self.write(marks.mark, run.experiment_id, mark)
        elif kind in ("archive", "restore"):
            self.write(edits.update_run, run_id, UpdateRunRequest(archived=kind == "archive"))
        elif kind == "delete":
            self.write(deletion.delete_run, run_id)
            self.runs.remove(run_id)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_done_the_counts_are_those_of_the_rows(
    write: Write, database_url: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(tally, "FEW", 5)
    work, mark = Work(write, seed), -1
    for number in range(60):
        work.step()
        if number % 7 == 0:
            mark = write(tally.compact, mark)
    counted = grouped(database_url, _COUNTED)
    assert counted and grouped(database_url, _TALLIED) == counted
    for experiment in work.experiments:
        of_runs = {"experiment_id": experiment, "active": True}
        every = {"experiment_id": experiment}
        number = counted_of(counted, "run", experiment)
        assert write(counting.count, RUNS, every).number == number
        assert write(counting.counts, RUNS, "experiment_id", [experiment], {}) == [Count(number)]
        assert write(counting.count, RUNS, of_runs).number == sum(
            count for _, count in write(groups.by_status, of_runs).counts
        )
        saved = counted_of(counted, "checkpoint", experiment)
        assert write(counting.count, CHECKPOINTS, every).number == saved
        totals = write(experiments.get_detail, experiment, 5).totals
        assert (totals["runs"], totals["checkpoints"]) == (number, saved)


def counted_of(counted: Groups, listed: str, experiment: str) -> int:
    """Return how many rows of a table an experiment has."""
    return sum(number for group, number in counted.items() if group[:2] == (listed, experiment))


def test_rows_of_the_tally_are_added_up(
    write: Write, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "FEW", 5)
    monkeypatch.setattr(tally, "MERGED", 16)
    work = Work(write, 7)
    for _ in range(80):
        work.step()
    before, mark = grouped(database_url, _TALLIED), -1
    while (done := write(tally.compact, mark)) != mark:
        mark = done
    assert grouped(database_url, _TALLIED) == before
    (rows,) = read(database_url, _ROWS)[0]
    assert rows <= len(before) + tally.FEW, "one for each group, and what is not worth the work"


@pytest.mark.anyio
async def test_a_reader_never_sees_a_wrong_sum_while_rows_are_added_up(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "FEW", 1)
    made = await db.write(experiments.create, ExperimentRequest(name="a", task_type="t"))
    every, seen = {"experiment_id": made.id}, [0]
    finished = asyncio.Event()

    async def submit() -> None:
        for _ in range(15):
            await db.write(runs.submit, made.id, RunRequest(model="m"), {})

    async def add_up() -> None:
        mark = -1
        while not finished.is_set():
            mark = await db.write(tally.compact, mark)

    async def look() -> None:
        while not finished.is_set():
            seen.append((await db.read(counting.count, RUNS, every)).number)
            counted = await db.read(_both, made.id)
            assert counted[0] == counted[1]
            await asyncio.sleep(0)

    beside = [asyncio.create_task(work()) for work in (add_up, look)]
    await asyncio.gather(*(submit() for _ in range(8)))
    finished.set()
    await asyncio.gather(*beside)
    assert seen == sorted(seen), "submits only add"
    assert await db.read(counting.count, RUNS, every) == Count(120)


def _both(tx: Tx, experiment: str) -> tuple[int, int]:
    """Return the number of runs by the tally and by the table, of one snapshot."""
    every = {"experiment_id": experiment}
    rows = keyset.page(tx, RUNS, every, Order("created_at"), Window(1_000)).rows
    return counting.count(tx, RUNS, every).number, len(rows)


_SQLITE_TRIGGERS = text(
    "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE '%tally%' ORDER BY 1"
)
_POSTGRESQL_TRIGGERS = text(
    "SELECT tgname, pg_get_triggerdef(t.oid), prosrc FROM pg_trigger t"
    " JOIN pg_proc p ON p.oid = tgfoid WHERE tgname LIKE '%tally%' ORDER BY 1"
)


def triggers(url: str) -> list[Sequence[int]]:
    """Return the triggers of a database as it wrote them down."""
    return read(url, _SQLITE_TRIGGERS if url.startswith("sqlite") else _POSTGRESQL_TRIGGERS)


def test_rows_from_before_the_tally_are_counted_by_the_migration(empty_database_url: str) -> None:
    migrate.create(empty_database_url)
    made = triggers(empty_database_url)
    assert len(made) >= 4
    with asyncio.Runner() as runner:
        database = connect(empty_database_url)
        runner.run(database.start())
        work = Work(lambda use_case, *args: runner.run(database.write(use_case, *args)), 3)
        for _ in range(40):
            work.step()
        runner.run(database.stop())
    migrate.downgrade(empty_database_url, "0016")
    engine = create_engine(empty_database_url)
    assert not inspect(engine).has_table("tally")
    engine.dispose()
    migrate.upgrade(empty_database_url)
    assert grouped(empty_database_url, _TALLIED) == grouped(empty_database_url, _COUNTED)
    assert triggers(empty_database_url) == made, "a database that grew counts as a new one does"
