"""A run is deleted by the command line, by REST and by GraphQL, also where the server is killed."""

import os
from contextlib import suppress
from io import StringIO
from pathlib import Path

import httpx
import pytest

from tests.support import commands
from tests.support.server import alive, wait_until
from tests.support.service import Service, home, running


def files_of(service: Service, run: str) -> list[str]:
    """Return what lies under the data directory; a folder that goes meanwhile is no error."""
    found = os.walk(service.data_dir)
    paths = (f"{place}/{name}" for place, dirs, names in found for name in (*dirs, *names))
    return [path for path in paths if run in path]


@pytest.mark.parametrize("failpoint", ["delete.rows", "delete.checkpoints"])
def test_a_server_killed_while_it_deletes_leaves_all_or_nothing(
    tmp_path: Path, database_url: str, failpoint: str
) -> None:
    with home(tmp_path, database_url) as place:
        with place.serve(FAILPOINT=f"{failpoint}:kill") as service:
            run = service.submit("finishes", steps=6)
            assert service.ended(run)["status"] == "succeeded"
            path = f"/v1/experiments/{service.experiment}/runs/{run}"
            with suppress(httpx.TransportError):  # killed before it has answered
                service.http.delete(f"{service.url}{path}")
            wait_until(lambda: not alive(service.pid), "the server died")
        with place.serve() as service:
            left = service.http.get(f"{service.url}{path}")
            if failpoint == "delete.rows":
                assert left.status_code == 200
                assert service.losses(run) and service.checkpoints(run)
                assert service.http.get(f"{service.url}{path}/logs").text
                service.http.delete(f"{service.url}{path}").raise_for_status()
            assert service.http.get(f"{service.url}{path}").status_code == 404
            wait_until(lambda: not files_of(service, run), lambda: str(files_of(service, run)))
            (record,) = wait_until(
                lambda: [d for d in service.get("/deletions")["deletions"] if d["finished_at"]],
                "it is finished",
            )
            assert record["run_id"] == run
            assert [e["type"] for e in service.events(run)][-1] == "run.deleted"


def test_the_command_says_what_happens_and_deletes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path) as service:
        run = service.submit("finishes", steps=6)
        service.ended(run)
        child = str(service.resume(run)["run_id"])
        service.ended(child)

        def llm(*arguments: str) -> commands.Done:
            return commands.llm_train(*arguments, API_URL=service.url)

        monkeypatch.setattr("sys.stdin", StringIO("n\n"))
        refused = llm("delete", run)
        assert refused.status == 1
        assert "for good" in refused.err and f"run {run[-6:]} tiny, succeeded" in refused.err
        assert service.status(run)["status"] == "succeeded"

        needed = llm("delete", "--yes", run)
        assert needed.status != 0 and "resumed" in needed.err and child in needed.err
        done = llm("delete", "--yes", run, child)  # in whichever order they are named
        assert done.status == 0, done.err
        assert [line.split()[1] for line in done.out.splitlines()] == [child[-6:], run[-6:]]

        query = {
            "query": "mutation ($id: ID!) { deleteExperiment(input: {experimentId: $id}) {"
            " deletion { runs runId name } userErrors { code } } }",
            "variables": {"id": service.experiment},
        }
        answer = service.http.post(f"{service.url}/graphql", json=query).json()
        assert answer["data"]["deleteExperiment"] == {
            "deletion": {"runs": 0, "runId": None, "name": "durable"}, "userErrors": [],
        }  # fmt: skip
        detail = f"{service.url}/v1/experiments/{service.experiment}/detail"
        assert service.http.get(detail).status_code == 404
