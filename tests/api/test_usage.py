"""The table of what runs took: all of it, page by page, and only as much as somebody asks for."""

import asyncio
import csv
from typing import Any

from app.db.sql import Tx
from app.db.tables import AttemptUsage
from app.domain.ids import new_id
from app.services.usage import MAX_GROUPS
from tests.api.conftest import Api


def table(api: Api, **query: Any) -> list[str]:
    answer = api.send("GET", "/v1/usage", params={"by": "run", "csv": True, **query})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/csv")
    return [row["group"] for row in csv.DictReader(answer.text.splitlines())]


def test_a_table_in_csv_has_every_run_also_those_of_further_pages(api: Api) -> None:
    body = {"name": "many", "task_type": "t"}
    experiment = api.post("/v1/experiments", body)["experiment_id"]
    runs = sorted(new_id("run") for _ in range(2 * MAX_GROUPS + 1))

    def ended(tx: Tx) -> None:
        tx.insert(*(
            AttemptUsage(
                run_id=run, attempt=1, experiment_id=experiment, ended_at=tx.now,
                outcome="succeeded", gpus=1, used_seconds=1.0, wasted_seconds=0.0,
                waited_seconds=0.0, saved_seconds=0.0,
            )
            for run in runs
        ))  # fmt: skip

    work = api.app.state.db.write(ended)
    asyncio.run_coroutine_threadsafe(work, api.loop).result(30)
    assert table(api, experiment_id=experiment) == runs
    assert table(api, experiment_id=experiment, after=runs[2]) == runs[3:]
    assert table(api, experiment_id=experiment, limit=5) == runs[:5]
    assert table(api, until="2020-01-01T00:00:00Z") == []
