"""The queue that the supervisor looks at, however many runs wait for trainers of their own."""

import sqlite3

from app.services import launches
from tests.support.database import sqlite_only


@sqlite_only  # the planner of PostgreSQL decides by what the table holds
def test_external_runs_that_wait_are_not_read_past(database_url: str) -> None:
    statement, own = launches._QUEUED.compiled("sqlite")
    with sqlite3.connect(database_url.removeprefix("sqlite:///")) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", {**own, "id": "", "most": 1})
        assert [row[3] for row in plan] == [
            "SEARCH run USING INDEX ix_run_queue (status=? AND id>?)"
        ]
    connection.close()
