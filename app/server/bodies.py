"""Bodies of tracking clients: JSON, of which fields that are not known are ignored.

Their clients of other versions send more.
"""

from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError

from app.errors import BodyTooLarge, InvalidInput, MalformedBody, UnsupportedMediaType

B = TypeVar("B", bound="Body")

_LONGEST = 200


class Body(BaseModel):
    """A request of a tracking client."""

    model_config = ConfigDict(extra="ignore", defer_build=True)


async def read(request: Request, model: type[B], most: int = 0) -> B:
    """Return the body as `model`. Raises UnsupportedMediaType, MalformedBody, InvalidInput.

    Args:
        most: bytes of a body that may be larger than the settings allow.

    Anything but JSON is refused by its type: what a page elsewhere can send without asking first
    never counts as a request.
    """
    if (declared := request.headers.get("content-length", "")).isdigit():
        most = max(most, request.app.state.settings.max_body_bytes)
        if int(declared) > most:
            raise BodyTooLarge(f"A body may have at most {most} bytes; send less at once.")
    content = await request.body()
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content and media_type != "application/json":
        raise UnsupportedMediaType("Send JSON, with the header `Content-Type: application/json`.")
    return parse(model, content or b"{}")


def parse(model: type[B], content: bytes) -> B:
    """Return JSON as `model`. Raises MalformedBody, InvalidInput."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise _refusal(error) from None


def read_query(request: Request, model: type[B]) -> B:
    """Return the query parameters as `model`. Raises InvalidInput."""
    try:
        return model.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> MalformedBody | InvalidInput:
    if error.error_count() > 1000:  # to look at each would take seconds
        return InvalidInput(f"{error.error_count()} things are wrong with this request.")
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return MalformedBody(first["msg"].replace("Invalid", "The body is not", 1) + ".")
    where = ".".join(str(part)[:_LONGEST] for part in first["loc"])
    return InvalidInput(f"{where or 'The body'}: {first['msg'].removeprefix('Value error, ')}.")
