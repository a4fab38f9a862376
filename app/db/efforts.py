"""What reading a page or a number of rows may cost, which decides where it is read: `Effort`."""

from collections.abc import Mapping
from typing import Any

from app.db.cursors import Order, Window
from app.db.database import Effort
from app.db.matching import SEARCH

MOST = 100
"""Rows of a page that is read on the event loop."""
SHORT_LIST = 20_000
"""Rows of a list that is read there whatever the filter, in the order of creation."""
OF_OTHER_TABLES = frozenset(("tags", "metric"))
"""But for filters whose cost for each row PostgreSQL overestimates so much that a plan for any
values may walk the wrong index. In a scan it plans for these."""


def of_page(
    filters: Mapping[str, Any], order: Order, window: Window, length: int | None = None
) -> Effort:
    """Return what reading a page may cost.

    Args:
        length: rows that the list has at most, where that is known.
    """
    if SEARCH in filters:
        return Effort.SEARCH
    if window.size > MOST:
        return Effort.LONG
    if order.field not in ("created_at", "seq"):
        return Effort.LONG  # the rows that lack another value are all sorted
    if length is not None and length <= SHORT_LIST and OF_OTHER_TABLES.isdisjoint(filters):
        return Effort.SHORT
    # Without filters a page is a walk of an index.
    return Effort.LONG if filters.keys() - {"active"} else Effort.SHORT


def of_list(filters: Mapping[str, Any]) -> Effort:
    """Return what it may cost to read the rows of a whole list."""
    return Effort.SEARCH if SEARCH in filters else Effort.LONG
