"""Where a page is read is decided once, for REST and GraphQL: event loop, thread, or search."""

from typing import Any

import pytest

from app.db.cursors import Order, Window
from app.db.database import Effort
from app.db.efforts import SHORT_LIST, of_page

NEWEST, BY_STEP, PAGE = Order("created_at"), Order("step"), Window(50)
BY_LOSS = Order("metric", metric_key="loss")


@pytest.mark.parametrize(
    ("filters", "order", "window", "length", "expected"),
    [
        ({}, NEWEST, PAGE, None, Effort.SHORT),
        ({"model": "m"}, NEWEST, PAGE, None, Effort.LONG),
        ({}, BY_STEP, PAGE, None, Effort.LONG),
        ({"model": "m"}, NEWEST, PAGE, SHORT_LIST, Effort.SHORT),
        ({"model": "m"}, NEWEST, PAGE, SHORT_LIST + 1, Effort.LONG),
        ({}, BY_STEP, PAGE, SHORT_LIST, Effort.LONG),
        ({}, BY_LOSS, PAGE, SHORT_LIST, Effort.LONG),
        ({"tags": ["t"]}, NEWEST, PAGE, SHORT_LIST, Effort.LONG),
        ({}, NEWEST, Window(1_000), 10, Effort.LONG),
        ({"search": "x"}, NEWEST, PAGE, 10, Effort.SEARCH),
    ],
)
def test_only_a_short_page_is_read_on_the_event_loop(
    filters: dict[str, Any], order: Order, window: Window, length: int | None, expected: Effort
) -> None:
    assert of_page(filters, order, window, length) is expected
