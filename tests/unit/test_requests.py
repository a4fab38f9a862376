"""What a client may ask: whatever is accepted can be stored and answered, byte for byte."""

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.domain.requests import MAX_DEPTH, MAX_OBJECT_BYTES, ExperimentRequest

NUMBERS = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([2**63 - 1, -(2**63)])
TEXT = st.text(st.characters(exclude_categories=())) | st.text()
ANY = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def accepts(config: Any, text: str | None = None) -> dict[str, Any] | None:
    """Return what is taken of a `param_config`, or None; as JSON text when given."""
    try:
        if text is None:
            return ExperimentRequest(name="a", task_type="b", param_config=config).param_config
        return ExperimentRequest.model_validate_json(
            f'{{"name": "a", "task_type": "b", "param_config": {text}}}'.encode()
        ).param_config
    except (ValidationError, UnicodeEncodeError):
        return None


def fits(value: Any) -> bool:
    """The promise, said in another way."""
    match value:
        case bool() | None:
            return True
        case int():
            return -(2**63) <= value < 2**63
        case float():
            return math.isfinite(value)
        case str():
            return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)
        case list():
            return all(map(fits, value))
        case dict():
            return all(map(fits, [*value, *value.values()]))
    return False


@given(st.dictionaries(TEXT, ANY, max_size=4))
def test_just_what_fits_is_accepted_and_comes_back_the_same(config: dict[str, Any]) -> None:
    taken = accepts(config)
    assert (taken is not None) == fits(config)
    if taken is not None:
        assert orjson.loads(orjson.dumps(taken)) == config


@given(st.dictionaries(TEXT, ANY, max_size=4))
def test_over_json_too(config: dict[str, Any]) -> None:
    taken = accepts(None, json.dumps(config))  # with NaN, and surrogates as escapes
    assert (taken is not None) == fits(config)
    assert taken is None or taken == config


@given(st.integers(1, 40), st.booleans())
def test_the_depth_has_a_cap(depth: int, objects: bool) -> None:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if objects else [value]
    # The object itself is the first level, and a scalar inside the last list another.
    assert (accepts({"a": value}) is not None) == (depth + 2 <= MAX_DEPTH)


def test_the_cap_is_where_it_is_said_to_be() -> None:
    def of_size(size: int) -> dict[str, str]:
        return {"a": "x" * (size - len('{"a":""}'))}

    assert accepts(of_size(MAX_OBJECT_BYTES - 1)) is not None  # the estimate may be one too high
    assert accepts(of_size(MAX_OBJECT_BYTES + 1)) is None


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object(), (1, 2), 1 + 2j])
def test_what_is_no_json_value_is_refused(value: object) -> None:
    assert accepts({"a": value}) is None
