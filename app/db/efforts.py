"""What reading a page or a number of rows may cost, which decides where it is read: `Effort`."""

from collections.abc import Mapping
from typing import Any

from app.db.cursors import METRIC, Order, Window
from app.db.database import Effort
from app.db.matching import SEARCH

MOST = 100
"""Rows of a page that is read on the event loop."""
SHORT_LIST = 20_000
"""Rows of a list that is read there, too."""
OF_OTHER_TABLES = frozenset(("tags", "metric"))
"""Filters that PostgreSQL's planner thinks so dear that it does not mind which index of runs it
walks, unless it plans for their values, as it does in a scan."""


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
    if length is not None and length <= SHORT_LIST:
        # By a metric, those that lack it are all sorted.
        joined = order.field == METRIC or not OF_OTHER_TABLES.isdisjoint(filters)
        return Effort.LONG if joined else Effort.SHORT
    # Without filters, and in the order of creation, a page is a walk of an index.
    filtered = filters.keys() - {"active"}
    return Effort.LONG if filtered or order.field not in ("created_at", "seq") else Effort.SHORT


def of_list(filters: Mapping[str, Any]) -> Effort:
    """Return what it may cost to read the rows of a whole list."""
    return Effort.SEARCH if SEARCH in filters else Effort.LONG
