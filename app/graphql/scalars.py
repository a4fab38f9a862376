"""The scalars that GraphQL lacks, over what rows hold: ISO text, JSON text, 64-bit integers."""

from datetime import datetime
from typing import Any, NewType

import strawberry
from orjson import Fragment

from app.domain.ids import timestamp

DateTime = NewType("DateTime", str)
Json = NewType("Json", str)
Long = NewType("Long", int)


def _moment(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("DateTime must be a string such as 2026-01-31T12:00:00Z")
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("DateTime must have an offset, such as Z or +01:00")
    try:
        return timestamp(moment)
    except OverflowError:
        raise ValueError("DateTime is out of range") from None


def _long(value: Any) -> int:
    if isinstance(value, str) and len(value) <= 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("Long must be an integer")
    if not -(2**63) <= value < 2**63:
        raise ValueError("Long must fit in 64 bits")
    return value


SCALARS: dict[object, Any] = {
    DateTime: strawberry.scalar(
        name="DateTime",
        description="A moment: ISO 8601 with offset; answers are UTC with microseconds.",
        specified_by_url="https://datatracker.ietf.org/doc/html/rfc3339",
        parse_value=_moment,
    ),
    # Rows hold JSON as text, which is passed on as it is.
    Json: strawberry.scalar(
        name="JSON",
        description="Any JSON value.",
        specified_by_url="https://datatracker.ietf.org/doc/html/rfc8259",
        serialize=Fragment,
        parse_value=lambda value: value,
    ),
    Long: strawberry.scalar(
        name="Long",
        description="A 64-bit integer (steps, sizes in bytes, sequence numbers).",
        parse_value=_long,
    ),
}
