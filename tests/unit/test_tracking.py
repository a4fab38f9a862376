"""Parameters of tracking clients are texts; receipts need the values that they were."""

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.domain.hyperparams import is_same
from app.domain.requests import check_object
from app.domain.tracking import as_text, moves_progress, parse_parameter, wall_time, wire_number

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text("abc '\"\\é", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner),
    max_leaves=6,
)  # fmt: skip


@given(JSON)
def test_what_a_client_prints_is_the_value_that_was_requested(value: Any) -> None:
    assert is_same(value, parse_parameter(str(value), value))


@given(st.text(max_size=40))
def test_any_text_is_a_value_that_can_be_stored(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    if "\0" in text:
        return
    value = parse_parameter(text)
    check_object({"p": value})
    assert isinstance(as_text(value), str)
    assert parse_parameter(text, "a text was requested") == text


def test_numbers_that_json_does_not_have_stay_texts() -> None:
    for text in ("NaN", "Infinity", "1e999", "9" * 30, "[1, NaN]", "{'a': 1e999}", "(" * 5000):
        assert parse_parameter(text) == text
    assert parse_parameter("(1, 'a')") == [1, "a"]
    assert parse_parameter("{1, 2}") == "{1, 2}"


@given(st.floats())
def test_a_number_on_the_wire_is_the_same_number(value: float) -> None:
    told = float(wire_number(value))
    assert told == value or (math.isnan(told) and math.isnan(value))


def test_only_steps_of_the_loop_move_progress() -> None:
    assert moves_progress("loss", 1)
    assert not moves_progress("loss", 0)
    assert not moves_progress("system/cpu", 5)
    assert (wall_time(1500), wall_time(-1), wall_time(10**18)) == (1.5, None, None)
