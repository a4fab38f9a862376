"""Every error of REST as `application/problem+json`."""

import logging
from functools import cache
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app.errors import MethodNotAllowed, NotFound, ServiceError
from app.rest.body import make_invalid
from app.server import exchange

MEDIA_TYPE = "application/problem+json"

log = logging.getLogger(__name__)


class FieldError(BaseModel):
    """One error in the request."""

    pointer: str = Field(description="JSON pointer into the body; empty: not one field of it.")
    parameter: str | None = Field(None, description="The query parameter, if it is one.")
    header: str | None = Field(None, description="The header, if it is one.")
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details. `code` is stable; `detail` says what to do."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:llm-train-api:invalid_input",
                    "title": "Invalid input",
                    "status": 422,
                    "code": "invalid_input",
                    "detail": "/name: required.",
                    "errors": [{"pointer": "/name", "detail": "required"}],
                }
            ]
        },
    )

    type: str = Field(description="urn:llm-train-api: and the code.")
    title: str
    status: int
    code: str
    detail: str
    errors: list[FieldError] | None = None


_MEANING = {
    400: "The body is not valid JSON.",
    401: "The token is missing or wrong.",
    403: "This Host or Origin is not allowed.",
    404: "No such experiment, run or checkpoint.",
    408: "The request took too long to arrive.",
    409: "The current state does not allow it.",
    410: "Retention has removed it.",
    413: "The body is too large.",
    415: "The body is not application/json, or is compressed.",
    422: "A field is missing, unknown, of the wrong type or out of range.",
    431: "The request line and its headers are too large.",
    429: "Too many requests are waiting; see Retry-After.",
    500: "A bug; the service's log has the details.",
    503: "The service is not available now; see Retry-After.",
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_CHALLENGE = {"WWW-Authenticate": {"schema": {"type": "string"}}}
_HEADERS = {401: _CHALLENGE, 409: _RETRY_AFTER, 429: _RETRY_AFTER, 503: _RETRY_AFTER}
_ANYWHERE = (401, 403, 408, 413, 429, 431, 500, 503)


def describe_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entries of a route's errors: `statuses` and those of every route."""
    return {status: _entry(status) for status in sorted({*_ANYWHERE, *statuses})}


@cache
def _entry(status: int) -> dict[str, Any]:
    """Return the entry of one status, which all routes share."""
    return {
        "description": _MEANING[status],
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    } | ({"headers": _HEADERS[status]} if status in _HEADERS else {})


def answer(error: ServiceError) -> Response:
    """Return the response for an error."""
    response = Response(exchange.problem(error), error.status, media_type=MEDIA_TYPE)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = exchange.CHALLENGE
    return response


def install(app: FastAPI) -> None:
    """Register the handlers that render every error of the app in this form."""
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(RequestValidationError, _on_bad_parameter)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_bug)


async def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return answer(error)


async def _on_bad_parameter(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    details = error.errors()
    for detail in details:
        if detail["loc"][0] == "path":
            wrong = f"{detail['input']!r:.80} is no {detail['loc'][1]}"
            return answer(NotFound(f"In the path, {wrong}; see /docs."))
    return answer(
        make_invalid(
            [
                {
                    "pointer": "",
                    "parameter": str(detail["loc"][1]),
                    "detail": f"unknown; known are {', '.join(_parameters(request))}"
                    if detail["type"] == "extra_forbidden"
                    else detail["msg"].removeprefix("Value error, "),
                }
                for detail in details
            ]
        )
    )


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return answer(NotFound("There is nothing at this path; see /docs."))
    if error.status_code == 405:
        methods = _methods(request)
        response = answer(MethodNotAllowed(f"This path knows {methods}; see /docs."))
        response.headers["Allow"] = methods
        return response
    return answer(ServiceError(error.detail))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # for nobody: the client left before it was through


async def _on_bug(request: Request, error: Exception) -> Response:
    response = answer(ServiceError("A bug in the service; its log has the details."))
    response.raw_headers += exchange.SECURITY  # this response is sent outside of the guard
    response.headers["Connection"] = "close"  # as uvicorn does after a bug, without a word
    return response


def _parameters(request: Request) -> list[str]:
    """Return the names of the route's query parameters."""
    parameters = request.scope["route"].dependant.query_params
    models = [parameter.field_info.annotation for parameter in parameters]
    return [name for model in models for name in model.model_fields]


def _methods(request: Request) -> str:
    """Return the methods of all routes at this path, not only of the first."""
    methods: set[str] = set()
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes):
            methods.add(method)
    # What no route knows by its whole path is a file of /static.
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set()))) or "GET, HEAD"
