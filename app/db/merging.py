"""One page of several lists, made of the same page of each."""

from collections.abc import Sequence
from typing import Any

from app.db.cursors import METRIC, Order, Page, Window, parse


def _values(page: Page[Any]) -> Sequence[Any]:
    """Return the values by which the rows of a page are sorted."""
    if page.order.field == METRIC:
        return page.values
    return [getattr(row, page.order.field) for row in page.rows]


def merge(pages: Sequence[Page[Any]], order: Order, window: Window) -> Page[Any]:
    """Return the page, in the lists' own order, of the rows of all of them.

    Beyond the place where a list's own page ended early it may have more: the page ends there.
    """
    entries: list[tuple[Any, str, Any]] = [
        (value, row.id, row)
        for page in pages
        for value, row in zip(_values(page), page.rows, strict=True)
    ]
    number = len(entries)
    # Behind a row of the same place, as the sort is stable.
    stops = [page.stopped_at for page in pages if page.stopped_at is not None]
    entries += [(*parse(stop, order, ""), stop) for stop in stops]
    downward = order.descending != window.backward
    valued = [entry for entry in entries if entry[0] is not None]
    lacking = [entry for entry in entries if entry[0] is None]
    valued.sort(key=lambda entry: entry[:2], reverse=downward)
    lacking.sort(key=lambda entry: entry[1], reverse=downward)
    first = (lacking + valued if window.backward else valued + lacking)[: window.size]
    stop = next((item for *_, item in first if isinstance(item, str)), None)
    if stop is not None:
        first = first[: [item for *_, item in first].index(stop)]
    if window.backward:
        first.reverse()
    more = stop is not None or len(first) < number
    more = more or any(page.has_previous if window.backward else page.has_next for page in pages)
    return Page(
        [row for *_, row in first],
        [value for value, *_ in first] if order.field == METRIC else (),
        order,
        has_next=window.before is not None if window.backward else more,
        has_previous=more if window.backward else window.after is not None,
        stopped_at=stop,
        backward=window.backward,
    )
