"""`llm_train.Client` against the service, and against the OpenAPI document; its examples run."""

import doctest
import json
import re
from typing import Any

import pytest
from llm_train import ApiError, Client, client, runs
from llm_train.requests import Connection
from llm_train.runs import RunFailed

from tests.api.conftest import Api
from tests.support.database import sqlite_only

pytestmark = sqlite_only  # the client sees no difference


@pytest.fixture
def made(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Client:
    monkeypatch.setenv("LLM_TRAIN_API_URL", url)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    return Client()


class Judge:
    """Holds every request of a client against the OpenAPI document."""

    def __init__(self, document: Any) -> None:
        self.document = document
        self.seen: set[str] = set()

    def check(self, method: str, path: str, body: Any, query: Any) -> None:
        template, operation = self.operation(method, path)
        self.seen.add(f"{method} {template}")
        if body is not None:
            content = operation["requestBody"]["content"]["application/json"]
            name = content["schema"]["$ref"].rpartition("/")[2]
            schema = self.document["components"]["schemas"][name]
            assert set(body) <= set(schema["properties"]), name
            assert set(schema.get("required", ())) <= set(body), name
        known = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"}
        assert set(query or ()) <= known, template

    def operation(self, method: str, path: str) -> tuple[str, Any]:
        for template, operations in self.document["paths"].items():
            pattern = re.sub(r"\{\w+\}", "[^/]+", template)
            if re.fullmatch(pattern, path) and method.lower() in operations:
                return template, operations[method.lower()]
        raise AssertionError(f"{method} {path} is not in the document")


def test_the_examples_are_true_and_every_request_is_documented(
    api: Api, made: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge(json.loads(api.send("GET", "/openapi.json").content))
    send = Connection.open

    def judged(self: Connection, method: str, path: str, body: Any = None, **more: Any) -> Any:
        judge.check(method, path, body, more.get("query"))
        return send(self, method, path, body, **more)

    monkeypatch.setattr(Connection, "open", judged)
    monkeypatch.setattr(runs, "POLL_SECONDS", 0.05)
    for module in (client, runs):
        done = doctest.testmod(module, extraglobs={"Client": Client})
        assert done.failed == 0 and done.attempted
    first, second = made.runs(status="succeeded")[:2]
    assert made.compare(first, second)["params"]
    assert made.compare(first, second, everything=True)._repr_html_().startswith("<table>")
    assert first.mark("candidate", metrics={"loss": 0.5})["tag_type"] == "candidate"
    assert first.update(name="the best", archived=True).data["name"] == "the best"
    assert made.run("the best").id == first.id
    assert first.log()
    assert made.recipes() and made.experiments()
    run = made.submit("stopped", recipe="demo", steps=100_000, step_delay_ms=5)
    assert run.cancel()["ckpt_path"]
    with pytest.raises(RunFailed, match="cancelled"):
        run.wait()
    assert judge.seen == {
        "GET /v1/experiments", "POST /v1/experiments", "GET /v1/recipes", "GET /v1/runs",
        "GET /v1/runs/compare", "POST /v1/experiments/{experiment_id}/runs",
        "GET /v1/experiments/{experiment_id}/runs/{run_id}",
        "PATCH /v1/experiments/{experiment_id}/runs/{run_id}",
        "POST /v1/experiments/{experiment_id}/runs/{run_id}/cancel",
        "POST /v1/experiments/{experiment_id}/runs/{run_id}/resume",
        "POST /v1/experiments/{experiment_id}/checkpoints/mark",
        "GET /v1/experiments/{experiment_id}/runs/{run_id}/metrics",
        "GET /v1/experiments/{experiment_id}/runs/{run_id}/logs",
    }  # fmt: skip


def test_every_point_comes_over_many_pages(api: Api, made: Client) -> None:
    experiment = made.experiment_id("long curves", create=True)
    run = made.submit(experiment, model="m")
    headers = {"Authorization": f"Bearer {run.data['run_token']}"}
    for batch, (key, size) in enumerate((("a", 25_000), ("b", 12_000), ("c", 3)), 1):
        for start in range(0, size, 5_000):
            steps = list(range(start, min(size, start + 5_000)))
            columns = {key: {"steps": steps, "values": ["NaN" if s == 7 else s for s in steps]}}
            body = {"session": "s", "batch": batch * 100 + start // 5_000, "metrics": columns}
            path = f"/v1/runs/{run.id}/reports"
            assert api.send("POST", path, json=body, headers=headers).status_code == 200
    curves = run.metrics(points=None)
    for key, size in (("a", 25_000), ("b", 12_000), ("c", 3)):
        assert curves[key]["steps"] == list(range(size))
        assert len(curves[key]["values"]) == len(curves[key]["wall_times"]) == size
        assert curves[key]["special"] == ([{"step": 7, "value": "NaN"}] if size > 7 else [])


def test_html_of_a_notebook_holds_no_script(made: Client) -> None:
    evil = "<script>alert(1)</script>"
    run = made.submit("evil", model=evil, name=evil, hyperparams={evil: evil})
    for shown in (run, made.runs("evil"), made.compare(run, everything=True), run.metrics()):
        assert "<script>" not in shown._repr_html_()


def test_what_is_refused_is_told_with_its_code(made: Client) -> None:
    with pytest.raises(ApiError) as caught:
        made.submit("x", recipe="no-such-recipe")
    assert (caught.value.status, caught.value.code) == (422, "unknown_recipe")
    for name, status in (("nothing", 404), ("@last:failed", 404), ("", 422)):
        with pytest.raises(ApiError) as caught:
            made.run(name)
        assert caught.value.status == status


def test_a_request_whose_answer_was_lost_is_not_done_twice(
    made: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: without the Idempotency-Key there are two runs."""
    experiment = made.experiment_id("once", create=True)
    opener = made.connection._opener
    lost: list[bytes] = []

    class Losing:
        def open(self, request: Any, timeout: float) -> Any:
            answer = opener.open(request, timeout=timeout)
            if request.method == "POST" and not lost:
                lost.append(answer.read())
                raise ConnectionResetError
            return answer

    monkeypatch.setattr(made.connection, "_opener", Losing())
    monkeypatch.setattr("llm_train.requests.RETRY_SECONDS", 0.01)
    run = made.submit(experiment, model="m")
    assert [each.id for each in made.runs(experiment)] == [run.id]
    assert len(lost) == 1
