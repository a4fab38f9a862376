"""MLflow's filters: what is like a pattern, and that no text of a client does harm."""

import re
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidInput
from app.mlflow.filters import Query, _is_like, parse_filter, parse_order
from tests.support.clock import is_soon


@given(st.text("ab%_", max_size=8), st.text("ab", max_size=8))
def test_like_is_what_a_regular_expression_says(pattern: str, text: str) -> None:
    signs = {"%": ".*", "_": "."}
    expected = re.fullmatch("".join(signs.get(sign, sign) for sign in pattern), text)
    assert _is_like(text, pattern) == bool(expected)


@given(st.text(max_size=60), st.sampled_from(["runs", "experiments", "models"]))
def test_any_text_is_understood_or_refused(text: str, kind: str) -> None:
    for parse in (parse_filter, lambda text, kind: parse_order([text], kind)):
        with suppress(InvalidInput):
            parse(text, kind)


@pytest.mark.parametrize(
    "text",
    ["a" * 10_000, "(" * 10_000, "metrics.a IN (" + "1," * 4_900, "tags.a LIKE '" + "%" * 9_000],
)
def test_long_texts_take_no_time(text: str) -> None:
    begun = time.process_time()
    with pytest.raises(InvalidInput):
        parse_filter(text, "runs")
    assert not _is_like("a" * 8_000, "%a" * 20 + "b")
    assert is_soon(time.process_time() - begun, 2)


VALUES = st.one_of(st.none(), st.just("NaN"), st.floats(allow_nan=False, allow_infinity=False))


@given(st.lists(VALUES), st.booleans())
def test_what_lacks_a_value_comes_last_either_way(values: list[Any], descending: bool) -> None:
    views = [
        {"data": {"metrics": [] if value is None else [{"key": "a", "value": value}]}}
        for value in values
    ]
    order = parse_order([f"metrics.a {'DESC' if descending else 'ASC'}"], "runs")
    ordered = [
        each["data"]["metrics"][0]["value"] if each["data"]["metrics"] else None
        for each in Query([], order).select(views)
    ]
    numbers = [value for value in values if isinstance(value, float)]
    assert ordered[: len(numbers)] == sorted(numbers, reverse=descending)
    assert not any(isinstance(value, float) for value in ordered[len(numbers) :])
