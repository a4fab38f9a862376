"""Errors that are nobody's input: a bug is a problem too, and tells strangers nothing."""

import json
import logging
import re
import sys
from typing import Any

import pytest

from app import errors
from app.server.jsonlines import JsonLines
from tests.api.conftest import Api
from tests.api.paths import PARAMETERS
from tests.api.problem import problem, tree


def test_the_codes_are_those_of_the_map_at_the_top_of_the_error_tree() -> None:
    listed = re.findall(r"── (\w+) +(\d+) (\w+)", errors.__doc__ or "")
    found = {each for each in tree() if each.__module__ == errors.__name__}
    assert sorted(listed) == sorted(
        (each.__name__, str(each.status), each.code) for each in found - {errors.ServiceError}
    )
    codes = [each.code for each in tree()]
    assert len(codes) == len(set(codes))  # none stands for two things


def test_a_bug_is_a_problem_that_leaks_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("the password is geheim, see /etc/shadow")

    monkeypatch.setattr("app.services.experiments.create", broken)
    before = api.digest()
    answer = api.send("POST", "/v1/experiments", json={"name": "a", "task_type": "b"})
    told = problem(answer, "internal_error")
    assert answer.status_code == 500
    for word in ("geheim", "shadow", "RuntimeError", "Traceback", __file__):
        assert word not in answer.text
    assert set(told) == {"type", "title", "status", "code", "detail"}
    assert api.digest() == before


def test_a_busy_service_says_when_to_try_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: Any) -> Any:
        raise errors.Busy("Too much is waiting; try again.", retry_after=7)

    monkeypatch.setattr("app.services.experiments.create", busy)
    answer = api.send("POST", "/v1/experiments", json={"name": "a", "task_type": "b"})
    problem(answer, "busy")
    assert answer.headers["retry-after"] == "7"


def test_what_is_no_id_in_a_path_is_named(api: Api) -> None:
    told = problem(api.send("GET", f"/v1/experiments/exp_{'0' * 26}/runs/exp_1/status"))
    assert told["detail"] == "In the path, 'exp_1' is no run_id; see /docs."
    told = problem(api.send("GET", f"/v1/experiments/{'x' * 5000}/detail"), "not_found")
    assert "is no experiment_id" in told["detail"] and len(told["detail"]) < 200


def test_an_unknown_field_is_told_the_known_ones(api: Api) -> None:
    def refused(path: str, body: Any, **headers: str) -> dict[str, str]:
        told = problem(api.send("POST", path, json=body, headers=headers), "invalid_input")
        return {each["pointer"]: each["detail"] for each in told["errors"]}

    experiment = api.post("/v1/experiments", {"name": "a", "task_type": "b"})["experiment_id"]
    runs = f"/v1/experiments/{experiment}/runs"
    assert refused(runs, {"model": "m", "hyperparms": {}, "resources": {"gpus": 1}}) == {
        "/hyperparms": "unknown field; known are model, recipe, dataset, hyperparams, resources, "
        "notes, name, tags, priority",
        "/resources/gpus": "unknown field; known are gpu_type, count, cpus, memory_gb, nodes, "
        "time_limit_minutes",
    }
    run = api.post(runs, {"model": "m"})
    lists = "unknown field; /docs lists the fields of this request"
    cancel = f"{runs}/{run['run_id']}/cancel"
    assert refused(cancel, {"force": True}) == {"/force": lists}
    bearer = {"Authorization": f"Bearer {run['run_token']}"}
    point = {"key": "a", "step": 1, "value": 1, "time": 1}
    columns: dict[str, list[int]] = {"steps": [], "values": [], "time": []}
    body = {"points": [point], "metrics": {"a": columns}, "checkpoints": [{"nam": "a"}]}
    assert refused(f"/v1/runs/{run['run_id']}/reports", body, **bearer) == {
        "/points/0/time": lists,
        "/metrics/a/time": lists,
        "/checkpoints/0/name": "required",
        "/checkpoints/0/step": "required",
        "/checkpoints/0/nam": lists,
    }


def test_an_unknown_parameter_is_told_the_known_ones(api: Api) -> None:
    described = api.send("GET", "/openapi.json").json()["paths"]
    asked = 0
    for path, operations in described.items():
        parameters = operations.get("get", {}).get("parameters", [])
        known = [each["name"] for each in parameters if each["in"] == "query"]
        if not known or operations["get"]["tags"] == ["agents"]:
            continue
        asked += 1
        here = path.format(**PARAMETERS)
        told = problem(api.send("GET", f"{here}?kep=1"), "invalid_input")
        (detail,) = [each["detail"] for each in told["errors"] if each["parameter"] == "kep"]
        assert detail == f"unknown; known are {', '.join(known)}"
    assert asked >= 8, described.keys()


def test_a_log_line_is_one_line_of_json_with_its_traceback() -> None:
    try:
        raise ValueError("two\nlines \ud800")
    except ValueError:
        record = logging.LogRecord(
            "uvicorn.error", logging.ERROR, __file__, 1, "it\n%s", ("broke",), sys.exc_info()
        )
    line = JsonLines().format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert (told["level"], told["logger"], told["message"]) == (
        "error",
        "uvicorn.error",
        "it\nbroke",
    )
    assert "test_problems.py" in told["exception"] and "ValueError: two\nlines" in told["exception"]
    assert json.loads(line.encode(errors="backslashreplace")) == told  # as stderr writes it


UNSTORABLE = ("%00", "a%00b", "%ED%A0%80", "%FF")
"""NUL, which PostgreSQL does not take, a lone surrogate, and a byte that is no UTF-8."""


@pytest.mark.parametrize("text", UNSTORABLE)
def test_no_text_in_a_query_is_a_bug_of_the_service(api: Api, text: str) -> None:
    experiment = api.post("/v1/experiments", {"name": "a", "task_type": "b"})["experiment_id"]
    run = api.post(f"/v1/experiments/{experiment}/runs", {"model": "m"})["run_id"]
    asked = 0
    for path, operations in api.send("GET", "/openapi.json").json()["paths"].items():
        here = path.format(**PARAMETERS | {"experiment_id": experiment, "run_id": run})
        for each in operations.get("get", {}).get("parameters", ()):
            if each["in"] == "query":
                asked += 1
                answer = api.send("GET", f"{here}?{each['name']}={text}")
                assert answer.status_code < 500, (path, each["name"], answer.text)
    assert asked >= 40


def test_a_wrong_cursor_is_told_as_the_parameter_that_it_is(api: Api) -> None:
    experiment = api.post("/v1/experiments", {"name": "a", "task_type": "b"})["experiment_id"]
    for path in ("", f"/{experiment}/runs", f"/{experiment}/checkpoints", f"/{experiment}/events"):
        told = problem(api.send("GET", f"/v1/experiments{path}?after=x"), "invalid_input")
        (wrong,) = told["errors"]
        assert (wrong["pointer"], wrong["parameter"]) == ("", "after")


def test_parameters_that_do_not_go_together_are_named(api: Api) -> None:
    experiment = api.post("/v1/experiments", {"name": "a", "task_type": "b"})["experiment_id"]
    runs = f"/v1/experiments/{experiment}/runs"
    run = api.post(runs, {"model": "m"})["run_id"]
    for path, names in (
        (f"{runs}?order=metric", {"metric_key"}),
        (f"{runs}?metric_key=loss", {"metric_key"}),
        (f"{runs}/{run}/metrics?points=10&after_step=1", {"points"}),
    ):
        told = problem(api.send("GET", path), "invalid_input")
        assert {each["parameter"] for each in told["errors"]} == names
