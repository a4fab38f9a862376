"""Reading JSON from strangers: strictly, once, and with errors that point."""

import re
from collections.abc import Callable
from typing import Any, TypeVar, get_args

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from app.errors import BodyTooLarge, InvalidInput, MalformedBody, ServiceError, UnsupportedMediaType

M = TypeVar("M", bound=BaseModel)

MOST_BYTES = 1024 * 1024
"""Largest body of a request other than a trainer's report."""
MOST_ERRORS = 20
_LONGEST_NAME = 200
_JSON = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)


async def read(
    request: Request,
    model: type[M],
    most: int = MOST_BYTES,
    quick: Callable[[bytes], M | None] | None = None,
) -> M:
    """Return the body as `model`; an absent body is an empty object.

    Args:
        quick: reads what it can sooner than the model does; None: the model has to.

    Read in one pass straight from the bytes: a detour through Python objects would turn
    integers beyond 64 bits into other numbers before anyone could object. Raises
    UnsupportedMediaType, MalformedBody, InvalidInput, BodyTooLarge.
    """
    body = await request.body()
    if len(body) > most:
        raise BodyTooLarge(f"A body may have at most {most} bytes here; send less.")
    # Anything but JSON is refused by its type: what a page elsewhere can send without
    # asking first (a form, text, a typeless blob) never counts as a request.
    if body and not _JSON.fullmatch(", ".join(request.headers.getlist("content-type"))):
        raise UnsupportedMediaType("Send JSON, with the header `Content-Type: application/json`.")
    if quick is not None and (made := quick(body)) is not None:
        return made
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise _refusal(error, body, model) from None


def _refusal(error: ValidationError, body: bytes, model: type[BaseModel]) -> ServiceError:
    if error.error_count() > 1000:  # to look at each would take seconds
        wrong = f"{error.error_count()} things are wrong with it; /docs describes what is read"
        return make_invalid([{"pointer": "", "detail": wrong}])
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    if errors[0]["type"] == "json_invalid":
        if body.startswith(b"\xef\xbb\xbf"):
            return MalformedBody("The body begins with a byte order mark; send it without.")
        return MalformedBody(errors[0]["msg"].replace("Invalid", "The body is not", 1) + ".")
    document = from_json(body or b"{}")
    details: dict[str, list[str]] = {}
    for item in errors:
        reasons = details.setdefault(_pointer(item["loc"], item["type"], document), [])
        match item["type"]:
            case "missing":
                reasons.append("required")
            case "extra_forbidden":
                known = ", ".join(_fields(model, item["loc"][:-1]))
                hint = f"known are {known}" if known else "/docs lists the fields of this request"
                reasons.append(f"unknown field; {hint}")
            case _:
                reasons.append(item["msg"].removeprefix("Value error, "))
    return make_invalid(
        [{"pointer": at, "detail": ", or: ".join(reasons)} for at, reasons in details.items()]
    )


def _fields(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """Return the fields of the model at a location within a model; none if it is a union."""
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        model = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
    return list(getattr(model, "model_fields", ()))


def _pointer(location: tuple[int | str, ...], type: str, document: Any) -> str:
    """Return a location in the document as a JSON pointer.

    Pydantic's locations also name what it tried (the members of a union, `[key]`); they end
    where the document does, but for the name of a field that is missing.
    """
    pointer = ""
    for part in location:
        inside = isinstance(document, dict if isinstance(part, str) else list)
        if not inside or len(str(part)) > _LONGEST_NAME:
            break
        if part in document if isinstance(document, dict) else True:
            document = document[part]
        elif type == "missing" and part == location[-1]:
            document = None
        else:
            break
        pointer += "/" + str(part).replace("~", "~0").replace("/", "~1")
    return pointer


def make_invalid(errors: list[dict[str, str]]) -> InvalidInput:
    """Return an error that names the first wrong field and lists at most `MOST_ERRORS`."""
    where = errors[0].get("parameter") or errors[0]["pointer"] or "The body"
    more = f" And {len(errors) - 1} more." if len(errors) > 1 else ""
    return InvalidInput(f"{where}: {errors[0]['detail']}.{more}", errors=errors[:MOST_ERRORS])
