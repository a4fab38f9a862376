"""The scalars that GraphQL lacks, over what rows hold: ISO text, JSON text, 64-bit integers."""

from typing import Any, NewType

import strawberry
from orjson import Fragment

from app.domain.ids import parse_timestamp

DateTime = NewType("DateTime", str)
Json = NewType("Json", str)
Long = NewType("Long", int)


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
        parse_value=parse_timestamp,
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
