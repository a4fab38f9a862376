"""/openapi.json tells the truth: complete, with examples that hold, and stable names."""

from typing import Any

import pytest

from tests.api.conftest import Api
from tests.api.problem import STATUS
from tests.support.database import postgresql_heavy
from tests.support.json_schema import closed

pytestmark = postgresql_heavy

METHODS = ("get", "post", "put")


@pytest.fixture(scope="module")
def document(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.send("GET", "/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every operation by `METHOD path`."""
    return {
        f"{method.upper()} {path}": operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


DOCUMENTED = {
    "GET /": "metadata",
    "POST /v1/experiments": "create_experiment",
    "GET /v1/experiments/{experiment_id}/detail": "experiment_detail",
    "POST /v1/experiments/{experiment_id}/runs": "submit_run",
    "GET /v1/experiments/{experiment_id}/runs/{run_id}/status": "run_status",
    "POST /v1/experiments/{experiment_id}/runs/{run_id}/cancel": "cancel_run",
    "POST /v1/experiments/{experiment_id}/runs/{run_id}/resume": "resume_run",
    "POST /v1/experiments/{experiment_id}/checkpoints/mark": "mark_checkpoint",
    "POST /v1/runs/{run_id}/reports": "report",
    "GET /v1/runs/{run_id}/spec": "run_spec",
    "GET /v1/experiments/{experiment_id}/runs/{run_id}/logs": "logs",
}


def test_the_documented_paths_are_there_under_stable_names(document: dict[str, Any]) -> None:
    found = operations(document)
    assert {name: found[name]["operationId"] for name in DOCUMENTED} == DOCUMENTED
    assert len({each["operationId"] for each in found.values()}) == len(found)


def test_every_operation_has_one_known_tag_a_summary_and_a_description(
    document: dict[str, Any],
) -> None:
    known = {each["name"] for each in document["tags"]}
    for name, operation in operations(document).items():
        assert len(operation["tags"]) == 1 and operation["tags"][0] in known, name
        assert operation["summary"] and operation["description"], name


def test_every_reference_leads_somewhere_and_nothing_is_left_over(document: dict[str, Any]) -> None:
    text = repr(document)
    schemas = document["components"]["schemas"]
    for name in schemas:
        assert f"'#/components/schemas/{name}'" in text, f"{name} is used nowhere"
    for part in text.split("'#/components/schemas/")[1:]:
        assert part.partition("'")[0] in schemas


def test_every_error_is_a_problem_and_every_route_names_its_own(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        answers = operation["responses"]
        errors = {status for status in answers if status[0] in "45"}
        for status in errors:
            content = answers[status]["content"]
            assert list(content) == ["application/problem+json"], name
            assert content["application/problem+json"]["schema"]["$ref"].endswith("/Problem")
        expected = {"401", "403", "408", "413", "429", "431", "500", "503"}
        if "{" in name or name.endswith("/compare"):
            expected |= {"404"}
        if name.startswith(("POST", "PATCH")):
            expected |= {"400", "415", "422", "409"}
        if name.startswith("DELETE /v1/experiments"):
            expected |= {"409"}  # it is still needed
        if name.endswith("/spec") or operation["tags"] == ["agents"]:
            expected |= {"409"}  # the run, or the attempt, has ended
        if name.startswith("GET") and name.endswith("/logs"):
            expected |= {"410"}  # retention has removed it
        if name.endswith("/releases/archive"):
            expected |= {"409"}  # its files are lost
        if "/{file}" in name:
            expected |= {"422"}  # no path of a file in a checkpoint
        if any(each["in"] == "query" for each in operation.get("parameters", ())):
            expected |= {"422"}
        assert errors == expected, name
        assert "Retry-After" in answers["429"]["headers"]
    assert {str(each) for each in STATUS.values()} - {"405"} <= {
        status for operation in operations(document).values() for status in operation["responses"]
    }


def test_headers_are_documented(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        # What an agent sends may be repeated without a key, and a claim's token is never stored.
        if name.startswith(("POST", "PATCH")) and operation["tags"] != ["agents"]:
            keys = [each["name"] for each in operation["parameters"] if each["in"] == "header"]
            assert keys == ["Idempotency-Key"], name
            done = [each for status, each in operation["responses"].items() if status[0] == "2"]
            assert all("Idempotent-Replayed" in each["headers"] for each in done), name
    logs = document["paths"]["/v1/experiments/{experiment_id}/runs/{run_id}/logs"]["get"]
    assert "X-Next-Offset" in logs["responses"]["200"]["headers"]
    assert "Last-Event-ID" in {
        each["name"] for each in logs["parameters"] if each["in"] == "header"
    }
    assert "204" in logs["responses"]


def test_security_schemes_say_what_opens_what(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert {(each["type"], each["scheme"]) for each in schemes.values()} == {
        ("http", "bearer"), ("http", "basic"),
    }  # fmt: skip
    assert {} in document["security"]  # without an API token, this machine needs none
    found = operations(document)
    assert found["GET /healthz"]["security"] == []
    assert found["POST /v1/runs/{run_id}/reports"]["security"][0] == {"runToken": []}
    attempt = "POST /v1/runs/{run_id}/attempts/{attempt}"
    assert found[f"{attempt}/claim"]["security"] == [{"claimCode": []}]
    assert found[f"{attempt}/exit"]["security"] == [{"attemptToken": []}]


def examples(schemas: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, each) for name, told in schemas.items() for each in told.get("examples", ())]


def test_examples_hold(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name, example in examples(schemas):
        closed(document, name).validate(example)


def test_every_request_and_every_answer_has_an_example(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    shown = {name for name, _ in examples(schemas)}
    for name, operation in operations(document).items():
        told = [each for status, each in operation["responses"].items() if status[0] == "2"]
        if "requestBody" in operation:
            told.append(operation["requestBody"])
        for each in told:
            schema = each.get("content", {}).get("application/json", {}).get("schema", {})
            reference = schema.get("$ref", "").rpartition("/")[2]
            properties = schemas[reference]["properties"] if reference else {}
            assert not properties or reference in shown, f"{name}: no example of {reference}"
