"""The queue that the supervisor looks at, however many runs wait for trainers of their own."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from app.db.changes import SUPERVISOR
from app.db.database import Database
from app.domain.priority import Priority
from app.domain.recipes import BUILT_IN
from app.domain.requests import ExperimentRequest, RunRequest, UpdateRunRequest
from app.services import edits, experiments, live_runs, runs
from app.services.live_runs import QueueCursor
from app.supervisor.reconcile import reconcile
from tests.support.database import sqlite_only
from tests.support.stage import Stage
from tests.support.supervisor import Recorder, open_state

RECIPES = {recipe.name: recipe for recipe in BUILT_IN}


@pytest.mark.anyio
async def test_a_run_that_waits_for_its_own_trainer_costs_the_supervisor_no_tick(
    db: Database,
) -> None:
    experiment = await db.write(
        experiments.create, ExperimentRequest(name="wake", task_type="test")
    )
    with db.changes.subscribe(SUPERVISOR) as wakeup, db.changes.subscribe(experiment.id) as changed:
        await db.write(runs.submit, experiment.id, RunRequest(model="m"), RECIPES)
        await asyncio.wait_for(changed.wait(), 30)  # so what else it woke has been woken, too
        assert not wakeup.is_set()
        await db.write(runs.submit, experiment.id, RunRequest(model="m", recipe="demo"), RECIPES)
        await asyncio.wait_for(wakeup.wait(), 30)


@sqlite_only  # the planner of PostgreSQL decides by what the table holds
def test_external_runs_that_wait_are_not_read_past(database_url: str) -> None:
    queued = live_runs._queued.compiled("sqlite")
    with sqlite3.connect(database_url.removeprefix("sqlite:///")) as connection:
        params = {**queued.own, "priority": -1, "id": "", "most": 1}
        plan = connection.execute(f"EXPLAIN QUERY PLAN {queued.text}", params)
        assert [row[3] for row in plan] == [
            "SEARCH run USING INDEX ix_run_queue (status=? AND (priority,id)>(?,?))",
            "SEARCH experiment USING INDEX sqlite_autoindex_experiment_1 (id=?)",
            "SEARCH attempt_usage USING INDEX sqlite_autoindex_attempt_usage_1"
            " (run_id=? AND attempt=?) LEFT-JOIN",
        ]
    connection.close()


@sqlite_only
def test_external_runs_that_train_are_not_read_past_to_find_those_of_the_service(
    database_url: str,
) -> None:
    with sqlite3.connect(database_url.removeprefix("sqlite:///")) as connection:
        for statement, index in (
            (live_runs._LAUNCHED, "ix_run_launched"),
            (live_runs._ENDING, "ix_run_ending"),
        ):
            compiled = statement.compiled("sqlite")
            plan = connection.execute(f"EXPLAIN QUERY PLAN {compiled.text}", compiled.own)
            assert f"SEARCH run USING INDEX {index} (status=?)" in [row[3] for row in plan]
    connection.close()


@pytest.mark.anyio
async def test_external_runs_that_train_are_read_off_the_loop_and_not_at_every_look(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    external = [await stage.run("running", recipe=None) for _ in range(3)]
    own = await stage.run("running")
    reads: list[str] = []
    scans: list[str] = []
    for names, method in ((reads, "read"), (scans, "scan")):
        monkeypatch.setattr(db, method, noted(names, getattr(db, method)))
    for _ in range(3):
        await reconcile(state)
    assert reads.count(own.id) == 3
    assert scans == [each.id for each in external]
    assert not set(reads) & set(scans)
    await stage.report(external[1], finished=True)
    await reconcile(state)
    assert (await stage.get(external[1])).status == "succeeded"


@pytest.mark.anyio
async def test_the_queue_is_by_priority_and_then_by_time(db: Database) -> None:
    experiment = await db.write(experiments.create, ExperimentRequest(name="e", task_type="t"))
    ids = {}
    for name in ("low", "normal", "high", "late normal", "late high"):
        request = RunRequest(model="m", recipe="demo", priority=Priority(name.split()[-1]))
        ids[name] = (await db.write(runs.submit, experiment.id, request, RECIPES)).id

    async def queue() -> list[str]:
        """Return the names in the order of the queue, read a run at a time."""
        found, cursor = [], QueueCursor()
        while page := await db.read(live_runs.list_queued, cursor, 1):
            cursor = QueueCursor(page[0].priority, page[0].id)
            found.append(page[0].id)
            assert await db.read(live_runs.count_waiting, cursor) == len(found)
        return [name for id in found for name in ids if ids[name] == id]

    assert await queue() == ["high", "late high", "normal", "late normal", "low"]
    change = UpdateRunRequest(priority=Priority.HIGH)
    await db.write(edits.update_run, ids["low"], change)
    assert await queue() == ["low", "high", "late high", "normal", "late normal"]


def noted(names: list[str], method: Any) -> Any:
    """The method of a database, which notes the ids of the runs that it reads."""

    async def reading(use_case: Any, *args: Any) -> Any:
        found = await method(use_case, *args)
        if isinstance(found, list):
            names.extend(each.id for each in found if isinstance(each, live_runs.LiveRun))
        return found

    return reading
