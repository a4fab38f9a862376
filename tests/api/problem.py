"""What every refusal must be: a valid problem, with a code of the tree in app/errors.py."""

from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs

from app.errors import ServiceError
from app.rest.problems import Problem

_VALID = jsonschema_rs.validator_for(Problem.model_json_schema())


def tree(error: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """An error class and all below it."""
    yield error
    for each in error.__subclasses__():
        yield from tree(each)


STATUS = {error.code: error.status for error in tree()}


def problem(answer: httpx.Response, code: str | None = None) -> dict[str, Any]:
    """The problem of an answer, checked; `code` is the one it must have."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    told: dict[str, Any] = answer.json()
    _VALID.validate(told)
    assert code in (None, told["code"]), f"{answer.request.method} {answer.request.url}: {told}"
    assert told["type"] == f"urn:llm-train-api:{told['code']}"
    assert STATUS[told["code"]] == told["status"] == answer.status_code
    assert told["detail"].endswith((".", "…")), told["detail"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    return told
