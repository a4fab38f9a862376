"""The table of what runs took: all of it, page by page, and only as much as somebody asks for."""

import asyncio
import csv
import io
from typing import Any

from app.db.sql import Tx
from app.db.tables import AttemptUsage
from app.domain.ids import new_id
from app.services.usage import MAX_GROUPS
from tests.api.conftest import Api

FORMULAS = ("=1+1", "+1", "-1", "@SUM(1)", '=HYPERLINK("http://evil","")', "\uff1d1+1")


def table(api: Api, **query: Any) -> list[dict[str, str]]:
    answer = api.send("GET", "/v1/usage", params={"by": "run", "csv": True, **query})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(answer.text)))


def groups(api: Api, **query: Any) -> list[str]:
    return [row["group"] for row in table(api, **query)]


def ended(api: Api, experiment: str, *runs: str, wasted: float = 0.0) -> None:
    """Record an attempt of each run that took a second."""

    def record(tx: Tx) -> None:
        tx.insert(*(
            AttemptUsage(
                run_id=run, attempt=1, experiment_id=experiment, ended_at=tx.now,
                outcome="succeeded", gpus=1, used_seconds=1.0, wasted_seconds=wasted,
                waited_seconds=0.0, saved_seconds=0.0,
            )
            for run in runs
        ))  # fmt: skip

    work = api.app.state.db.write(record)
    asyncio.run_coroutine_threadsafe(work, api.loop).result(30)


def test_a_table_in_csv_has_every_run_also_those_of_further_pages(api: Api) -> None:
    body = {"name": "many", "task_type": "t"}
    experiment = api.post("/v1/experiments", body)["experiment_id"]
    runs = sorted(new_id("run") for _ in range(2 * MAX_GROUPS + 1))

    ended(api, experiment, *runs)
    assert groups(api, experiment_id=experiment) == runs
    assert groups(api, experiment_id=experiment, after=runs[2]) == runs[3:]
    assert groups(api, experiment_id=experiment, limit=5) == runs[:5]
    assert table(api, until="2020-01-01T00:00:00Z") == []


def test_a_spreadsheet_executes_no_name_of_the_table_and_its_numbers_stay_numbers(api: Api) -> None:
    """An apostrophe makes a text of what Excel, LibreOffice and Sheets take for a formula."""
    for name in (*FORMULAS, "plain"):
        body = {"name": name, "task_type": "t"}
        experiment = api.post("/v1/experiments", body)["experiment_id"]
        body = {"model": "m", "name": name}
        run = api.post(f"/v1/experiments/{experiment}/runs", body)["run_id"]
        ended(api, experiment, run, wasted=-1.5)
        for by, group in (("run", run), ("experiment", experiment)):
            (shown,) = table(api, by=by, experiment_id=experiment)
            path = f"/v1/usage?by={by}&experiment_id={experiment}"
            (exact,) = api.send("GET", path).json()["usage"]
            assert (exact["name"], shown["group"]) == (name, group)
            assert shown["name"] == (name if name == "plain" else f"'{name}")
            assert shown["wasted_seconds"] == "-1.5" and float(shown["goodput"]) == 2.5


def test_a_group_has_its_name_and_none_once_it_is_deleted(api: Api) -> None:
    body = {"name": "named", "task_type": "t"}
    experiment = api.post("/v1/experiments", body)["experiment_id"]
    run = api.post(f"/v1/experiments/{experiment}/runs", {"model": "m"})["run_id"]
    gone = new_id("run")
    ended(api, experiment, run, gone)

    def names(by: str) -> dict[str, Any]:
        query = f'{{ usage(by: {by}, experimentId: "{experiment}") {{ group name }} }}'
        graph = api.send("POST", "/graphql", json={"query": query}).json()["data"]["usage"]
        asked = {"by": by.lower(), "experiment_id": experiment}
        rest = api.send("GET", "/v1/usage", params=asked).json()["usage"]
        both = [{row["group"]: row["name"] for row in rows} for rows in (graph, rest)]
        assert both[0] == both[1]
        return both[0]

    assert names("RUN") == {run: "", gone: None}
    assert names("EXPERIMENT") == {experiment: "named"}
    assert list(names("PROJECT").values()) == ["default"]
    assert list(names("MONTH").values()) == [None]
