"""Routes whose errors have the form that W&B's client shows: `{"error": …}`."""

from fastapi import APIRouter, Response

from app.errors import ServiceError
from app.server import tracking

ROOT = "/wandb"
FILES = f"{ROOT}/files/{{entity}}/{{project}}/{{name}}"
ENTITY = "llm-train"
"""The one team that there is."""


def router() -> APIRouter:
    """Return a router for some of the endpoints."""
    return tracking.make_router(error_response)


def error_response(error: ServiceError) -> Response:
    """Return an error; the client repeats 409, 429 and 5xx, and gives the others up."""
    status = 422 if error.status == 409 else error.status
    return tracking.refusal(error, status, {"error": error.detail, "code": error.code})
