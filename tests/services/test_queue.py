"""The queue that the supervisor looks at, however many runs wait for trainers of their own."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from app.db.database import Database
from app.services import live_runs
from app.supervisor.reconcile import reconcile
from tests.support.database import sqlite_only
from tests.support.stage import Stage
from tests.support.supervisor import Recorder, open_state


@sqlite_only  # the planner of PostgreSQL decides by what the table holds
def test_external_runs_that_wait_are_not_read_past(database_url: str) -> None:
    statement, own = live_runs._QUEUED.compiled("sqlite")
    with sqlite3.connect(database_url.removeprefix("sqlite:///")) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", {**own, "id": "", "most": 1})
        assert [row[3] for row in plan] == [
            "SEARCH run USING INDEX ix_run_queue (status=? AND id>?)"
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
            text, own = statement.compiled("sqlite")
            plan = connection.execute(f"EXPLAIN QUERY PLAN {text}", own)
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


def noted(names: list[str], method: Any) -> Any:
    """The method of a database, which notes the ids of the runs that it reads."""

    async def reading(use_case: Any, *args: Any) -> Any:
        found = await method(use_case, *args)
        if isinstance(found, list):
            names.extend(each.id for each in found if isinstance(each, live_runs.LiveRun))
        return found

    return reading
