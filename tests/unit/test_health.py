"""Health rules: what is a spike, a limit, a NaN; and which recipes are refused."""

import math
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.health import Detector, HealthAction, HealthRule, Rule, is_watched
from app.domain.recipe_file import parse_recipes
from app.domain.recipes import RecipeError

SMALL = st.floats(-1e6, 1e6)


def feed(rule: Rule, values: list[float]) -> list[int]:
    """Return the steps at which a rule is broken."""
    detector = Detector(rule)
    return [step for step, v in enumerate(values) if detector.feed("loss", step, v) is not None]


@given(st.lists(SMALL, max_size=60), SMALL)
def test_a_limit_is_broken_by_what_is_beyond_it(values: list[float], limit: float) -> None:
    above = Rule(HealthRule.ABOVE, "loss", limit)
    below = Rule(HealthRule.BELOW, "loss", limit)
    assert feed(above, values) == [n for n, v in enumerate(values) if v > limit]
    assert feed(below, values) == [n for n, v in enumerate(values) if v < limit]


@given(st.lists(st.floats(1.0, 2.0), min_size=60, max_size=120), st.integers(55, 59))
def test_a_spike_is_found_where_it_is_and_nothing_else(values: list[float], at: int) -> None:
    spread = max(abs(v - median(values)) for v in values) + 1e-3
    # Noise within the spread of uniform noise is none; a hundred times that is one.
    rule = Rule(HealthRule.SPIKE, "loss", 1000.0, window=50)
    usual = feed(rule, values)
    values = [*values[:at], 2.0 + 100_000 * spread, *values[at:]]
    assert at in feed(rule, values)
    assert set(feed(rule, values)) - {at} <= {*usual, *(n + 1 for n in usual)}


@given(st.lists(st.floats(0.1, 10.0), max_size=100), st.floats(1e-3, 1e3))
def test_a_spike_does_not_depend_on_the_unit(values: list[float], factor: float) -> None:
    rule = Rule(HealthRule.SPIKE, "loss", 20.0, window=20)
    detector, scaled = Detector(rule), Detector(rule)
    for step, value in enumerate(values):
        first = detector.feed("loss", step, value)
        # Powers of two scale exactly.
        exact = 2.0 ** round(math.log2(factor))
        assert (first is None) == (scaled.feed("loss", step, value * exact) is None)


def test_a_plateau_of_equal_values_and_a_falling_loss_are_well() -> None:
    rule = Rule(HealthRule.SPIKE, "loss", 8.0, window=50)
    assert feed(rule, [0.0] * 200) == []
    assert feed(rule, [5.0 / (1 + step) for step in range(500)]) == []
    assert feed(rule, [2.0] * 60 + [2.0005] * 60) == []
    assert feed(rule, [2.0, 2.1] * 30 + [9.0] + [2.0, 2.1] * 5) == [60]
    assert feed(rule, [1.0] * 4 + [100.0]) == [], "too few to know what is usual"
    assert feed(rule, [math.nan, math.inf] * 50) == [], "what is no number is not compared"


def test_a_nan_rule_covers_all_metrics_but_the_machines_own() -> None:
    every, own = Rule(HealthRule.NAN), Rule(HealthRule.NAN, "loss")
    assert every.covers("loss") and not every.covers("system/gpu")
    assert own.covers("loss") and not own.covers("accuracy")
    assert is_watched("eval/loss")


def parse(health: str, more: str = "") -> tuple[Rule, ...]:
    text = f'[recipes.a]\ncommand = ["x"]\nhealth = {health}\n{more}'
    return parse_recipes(text, "test")["a"].health


def test_rules_of_a_recipe_are_read_with_their_defaults() -> None:
    assert parse('[{ rule = "nan" }]') == (Rule(HealthRule.NAN, None, 0.0),)
    assert parse('[{ rule = "spike", metric = "loss" }]') == (Rule(HealthRule.SPIKE, "loss", 8.0),)
    assert parse(
        '[{ rule = "above", metric = "a", value = 3, action = "retry" }]', "max_attempts = 2"
    ) == (Rule(HealthRule.ABOVE, "a", 3.0, action=HealthAction.RETRY),)


@pytest.mark.parametrize(
    "health",
    [
        "7", "[7]", '[{ rule = "odd" }]', '[{ metric = "loss" }]', '[{ rule = "spike" }]',
        '[{ rule = "above", metric = "a" }]', '[{ rule = "above", metric = "a", value = nan }]',
        '[{ rule = "spike", metric = "a", value = 0 }]', '[{ rule = "nan", action = "pray" }]',
        '[{ rule = "spike", metric = "a", window = 3 }]', '[{ rule = "nan", colour = "red" }]',
        '[{ rule = "spike", metric = "a", window = 100000 }]',
        '[{ rule = "nan", action = "retry" }]',
    ],
)  # fmt: skip
def test_a_rule_that_makes_no_sense_is_refused(health: str) -> None:
    with pytest.raises(RecipeError, match="health"):
        parse(health)
