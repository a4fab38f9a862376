"""Routes whose errors have the form that W&B's client shows: `{"error": …}`."""

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from app.errors import ServiceError

ROOT = "/wandb"
FILES = f"{ROOT}/files/{{entity}}/{{project}}/{{name}}"
ENTITY = "llm-train"
"""The one team that there is."""


class WandbRoute(APIRoute):
    """A route that answers a ServiceError with a sentence, and has no OpenAPI entry."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answering(request: Request) -> Response:
            try:
                return await handle(request)
            except ServiceError as error:
                return error_response(error)

        return answering


def router() -> APIRouter:
    """Return a router for some of the endpoints."""
    return APIRouter(route_class=WandbRoute, include_in_schema=False)


def json(body: object, status: int = 200) -> Response:
    """Return a response of this JSON."""
    return Response(orjson.dumps(body), status, media_type="application/json")


def error_response(error: ServiceError) -> Response:
    """Return an error; the client repeats 409, 429 and 5xx, and gives the others up."""
    status = 422 if error.status == 409 else error.status
    response = json({"error": error.detail, "code": error.code}, status)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="LLM Train API"'
    return response
