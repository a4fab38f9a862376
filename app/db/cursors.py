"""Pages of an ordered list, and cursors: the place of a row in its order, as opaque text."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import orjson

from app.errors import InvalidInput

RowT = TypeVar("RowT", bound=tuple[Any, ...])

METRIC = "metric"
"""The order by the latest value of one metric of the row."""


class Order(NamedTuple):
    """By what a list is sorted. `metric_key` goes with the field `metric` alone."""

    field: str
    descending: bool = True
    metric_key: str | None = None


class Window(NamedTuple):
    """The page to read: `size` rows after or before a cursor, from the end when `backward`."""

    size: int = 50
    after: str | None = None
    before: str | None = None
    backward: bool = False


class Page(NamedTuple, Generic[RowT]):
    """One page. `cursor` is the place of one of its rows; `values` are what they are sorted by.

    `stopped_at`: the page has fewer rows than asked for, perhaps none, because the list was read
    only up to this cursor. The next page (or the previous one, for a backward window) begins
    there.
    """

    rows: list[RowT]
    values: Sequence[Any]
    order: Order
    has_next: bool
    has_previous: bool
    stopped_at: str | None = None
    backward: bool = False

    def cut(self, number: int) -> "Page[RowT]":
        """Return the same page, ended after so many rows."""
        rows, values = self.rows[:number], self.values[:number]
        return self._replace(rows=rows, values=values, has_next=True, stopped_at=None)

    def start_cursor(self) -> str | None:
        """Return where the previous page ends, None for an empty list."""
        stopped_at = self.stopped_at if self.backward else None
        return stopped_at or (self.cursor(0) if self.rows else None)

    def end_cursor(self) -> str | None:
        """Return where the next page begins, None for an empty list."""
        stopped_at = None if self.backward else self.stopped_at
        return stopped_at or (self.cursor(len(self.rows) - 1) if self.rows else None)

    def cursor(self, index: int) -> str:
        """Return the cursor of a row of this page."""
        row: Any = self.rows[index]
        value = self.values[index] if self.order.field == METRIC else getattr(row, self.order.field)
        return cursor_of(self.order, value, getattr(row, "id", value))


def cursor_of(order: Order, value: Any, tie: Any) -> str:
    """Return the cursor of a place in an order."""
    # JSON has no infinities; their repr is a number to `float` all the same.
    value = repr(value) if isinstance(value, float) else value
    fields = [order.field, order.metric_key, value, tie]
    return base64.urlsafe_b64encode(orjson.dumps(fields)).decode().rstrip("=")


def parse(cursor: str, order: Order, argument: str, *, nullable: bool = True) -> tuple[Any, Any]:
    """Return the sort value and the tie-breaker of a cursor. Raises InvalidInput.

    `nullable`: whether a row may lack the value.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        field, metric_key, value, tie = orjson.loads(base64.b64decode(padded, b"-_", True))
        if (field, metric_key) != (order.field, order.metric_key):
            raise ValueError
        if field == METRIC and isinstance(value, str):
            value = float(value)
        kind: type = {METRIC: float, "step": int, "seq": int}.get(field, str)
        # The very type: to Python true is a number, and to PostgreSQL it is none.
        if type(value) is not kind and not (nullable and value is None):
            raise ValueError
        if type(tie) is not (int if field == "seq" else str) or value != value:
            raise ValueError
        if any(isinstance(part, int) and not -(2**63) <= part < 2**63 for part in (value, tie)):
            raise ValueError
        if any(isinstance(part, str) and "\x00" in part for part in (value, tie)):
            raise ValueError
    except (ValueError, TypeError, binascii.Error):
        raise InvalidInput(
            f"{argument!r} is not a cursor of this list in this order; "
            "use one that an answer of this list has given.",
            errors=[{"pointer": "", "parameter": argument, "detail": "not a cursor of this list"}],
        ) from None
    return value, tie
