"""/openapi.json: FastAPI's document of the routes, completed with models, errors and security."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from app.rest.parameters import answered, bodies
from app.rest.problems import Problem, describe_errors

TAGS = {
    "experiments": "A task, and the runs under it.",
    "runs": "Trainings: submit, watch, cancel, resume.",
    "checkpoints": "Saved states of runs: mark candidates and releases, verify.",
    "metrics": "Curves of metrics.",
    "trainers": "Reports of a trainer on its own run.",
    "agents": "How an agent on a machine without the service's files starts and watches a trainer.",
    "webhooks": "URLs that receive events, and the messages that are sent to them.",
    "alerts": "Rules that raise alerts, and the alerts.",
    "team": "Projects, their members, users and tokens.",
    "service": "The service itself.",
}
_SCHEMES = {
    "apiToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of a user (`llmt_…`), or LLM_TRAIN_API_TOKEN, where the operator "
        "has set one.",
    },
    "browser": {
        "type": "http",
        "scheme": "basic",
        "description": "Any user name, and the API token as the password.",
    },
    "claimCode": {
        "type": "http",
        "scheme": "bearer",
        "description": "The code that an attempt's job carries, for its claim.",
    },
    "attemptToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "The answer to a claim: for everything else of that attempt.",
    },
    "runToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token of one run: for its trainer's spec and reports, nothing else.",
    },
}
_REPLAYED = {
    "Idempotent-Replayed": {
        "description": "`true` where this is the stored first answer to the same key.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}


def describe(app: FastAPI, *, needs_token: bool) -> None:
    """Make `app.openapi()` return the complete document, built on first use."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, needs_token)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI, needs_token: bool) -> dict[str, Any]:
    from app.rest.examples import EXAMPLES  # made of rows, which no start waits for

    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
    )
    models: dict[type, Any] = dict.fromkeys((Problem, *bodies.values()), "validation")
    models |= dict.fromkeys(answered.values(), "serialization")
    _, definitions = TypeAdapter.json_schemas(
        [(model, mode, TypeAdapter(model)) for model, mode in models.items()],
        ref_template="#/components/schemas/{model}",
    )
    components = document["components"]
    components["schemas"] |= definitions["$defs"]
    for name, example in EXAMPLES.items():
        components["schemas"][name]["examples"] = [example]
    components["securitySchemes"] = _SCHEMES
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    with_token: list[dict[str, list[str]]] = [{"apiToken": []}, {"browser": []}]
    document["security"] = with_token if needs_token else [{}, *with_token]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete(operation, answered.get(operation["operationId"]))
            if path in ("/healthz", "/readyz"):
                operation["security"] = []
            elif operation["tags"] == ["agents"]:
                scheme = "claimCode" if path.endswith("/claim") else "attemptToken"
                operation["security"] = [{scheme: []}]
                if "/attempts/" not in path:  # a trainer's, wherever it was started
                    operation["security"] = [{"runToken": []}, {"attemptToken": []}]
            elif operation["tags"] == ["trainers"]:
                operation["security"] = [{"runToken": []}, {"apiToken": []}]
    return document


def _complete(operation: dict[str, Any], model: type | None) -> None:
    responses = operation["responses"]
    if "application/json" in responses.get("422", {}).get("content", {}):
        # FastAPI's own. A malformed id in a path is a 404 here.
        del responses["422"]
        if any(parameter["in"] == "query" for parameter in operation["parameters"]):
            responses["422"] = describe_errors(422)[422]
    done = [response for status, response in responses.items() if status.startswith("2")]
    if model is not None:
        schema = {"$ref": f"#/components/schemas/{model.__name__}"}
        for response in done:
            others = response.get("content", {})
            response["content"] = {**others, "application/json": {"schema": schema}}
    if any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", ())):
        for response in done:
            response["headers"] = _REPLAYED
