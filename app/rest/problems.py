"""Every error of the REST face as `application/problem+json`."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from app.errors import InvalidInput, MethodNotAllowed, NotFound, ServiceError
from app.guard import problem


class FieldError(BaseModel):
    """One wrong field."""

    pointer: str = Field(description="JSON pointer into the request's body.")
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details. `code` is stable; `detail` says what to do."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[FieldError] | None = None


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of the errors that a route may answer with."""
    return {
        status: {
            "model": Problem,
            "description": _MEANING[status],
            "content": {"application/problem+json": {}},
        }
        for status in sorted({400, 401, 403, 413, 422, 429, 503, *statuses})
    }


_MEANING = {
    400: "The body is not JSON that this service reads.",
    401: "No token, or one that is not right.",
    403: "This Host, Origin or token is not allowed here.",
    404: "No such experiment, run or checkpoint.",
    409: "The present state does not allow it.",
    413: "The body is too large.",
    422: "A field is missing, unknown, of the wrong type or out of range.",
    429: "Too much is waiting; see Retry-After.",
    503: "The service cannot answer now; see Retry-After.",
}


def answer(error: ServiceError) -> Response:
    """The response that tells this error."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(
        problem(error),
        status_code=error.status,
        media_type="application/problem+json",
        headers=headers,
    )


def pointer(location: tuple[int | str, ...]) -> str:
    """A Pydantic location as a JSON pointer."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def invalid(errors: list[Any], *, skip: int = 0) -> InvalidInput:
    """Pydantic's errors as one of ours."""
    found = [
        {
            "pointer": pointer(tuple(each["loc"])[skip:]),
            "detail": each["msg"].removeprefix("Value error, "),
        }
        for each in errors
    ]
    first = found[0]
    return InvalidInput(
        f"{first['pointer'] or 'The body'}: {first['detail']}."
        + (f" And {len(found) - 1} more." if len(found) > 1 else ""),
        errors=found,
    )


def install(app: FastAPI) -> None:
    """Makes the app answer every error in this form."""

    async def service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return answer(error)

    async def validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(invalid(list(error.errors()), skip=1))

    async def pydantic_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ValidationError)
        return answer(invalid(list(error.errors(include_url=False, include_context=False))))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, ServiceError):  # FastAPI wraps what reading raised
            return answer(error.__cause__)
        if error.status_code == 404:
            return answer(NotFound(f"There is no {request.url.path} here; see /docs."))
        if error.status_code == 405:
            response = answer(
                MethodNotAllowed(f"{request.method} is not for this path; see /docs.")
            )
            response.headers["Allow"] = (error.headers or {}).get("Allow", "")
            return response
        return answer(ServiceError(error.detail))

    async def bug(request: Request, error: Exception) -> Response:
        return answer(ServiceError("A bug in the service; its log has the details."))

    app.add_exception_handler(ServiceError, service_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(ValidationError, pydantic_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, bug)
