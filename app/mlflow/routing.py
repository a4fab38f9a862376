"""Routes whose errors have MLflow's form: `{"error_code": …, "message": …}`."""

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from app.errors import InvalidInput, NameTaken, ServiceError

API = "/mlflow/api/2.0/mlflow"
ARTIFACTS = "/mlflow/api/2.0/mlflow-artifacts/artifacts"

_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "INVALID_STATE",
    413: "INVALID_PARAMETER_VALUE",
    415: "BAD_REQUEST",
    429: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
}


class MlflowRoute(APIRoute):
    """A route that answers a ServiceError as MLflow's server would, and has no OpenAPI entry."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answering(request: Request) -> Response:
            try:
                return await handle(request)
            except ServiceError as error:
                return error_response(error)

        return answering


def router() -> APIRouter:
    """Return a router for the endpoints of one resource."""
    return APIRouter(route_class=MlflowRoute, include_in_schema=False)


def json(body: object) -> Response:
    """Return a response of this JSON."""
    return Response(orjson.dumps(body), media_type="application/json")


def error_response(error: ServiceError) -> Response:
    """Return an error in MLflow's form; its clients decide by `error_code`."""
    status, code = error.status, _CODES.get(error.status, "INTERNAL_ERROR")
    if isinstance(error, InvalidInput):
        status, code = 400, "INVALID_PARAMETER_VALUE"
    elif isinstance(error, NameTaken):
        status, code = 400, "RESOURCE_ALREADY_EXISTS"
    body = orjson.dumps({"error_code": code, "message": error.detail})
    response = Response(body, status, media_type="application/json")
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="LLM Train API"'
    return response
