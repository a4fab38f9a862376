"""What routes have in common: ids in paths, and how a POST takes its body and its key."""

from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel

from app.domain.ids import PATTERN
from app.domain.requests import EXPERIMENT_ID, RUN_ID
from app.rest.problems import documented

ExperimentId = Annotated[str, Path(pattern=PATTERN.format("exp"), examples=[EXPERIMENT_ID])]
RunId = Annotated[str, Path(pattern=PATTERN.format("run"), examples=[RUN_ID])]

_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "example": "a-name-for-this-request",
    "description": "The same key with the same body replays the first answer.",
}
bodies: dict[str, type[BaseModel]] = {}
"""Every model that a route takes, by the name of its schema."""


def takes(
    model: type[BaseModel], *errors: int, also: dict[int, str] | None = None
) -> dict[str, Any]:
    """The decorator's arguments for a route that reads `model` and heeds an Idempotency-Key.

    Args:
        errors: the statuses it may refuse with, beside those of every body.
        also: other statuses of the same answer, with what they mean.
    """
    bodies[model.__name__] = model
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    required = any(field.is_required() for field in model.model_fields.values())
    entry = {
        "parameters": [_KEY],
        "requestBody": {"required": required, "content": {"application/json": {"schema": schema}}},
    }
    more = {status: {"description": meaning} for status, meaning in (also or {}).items()}
    return {"openapi_extra": entry, "responses": documented(400, 415, 422, *errors) | more}
