"""A rule about a metric fires once until it recovers, for as many points as it says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.alerts import AlertKind, AlertRuleRequest, MetricWatch

VALUES = st.lists(st.sampled_from([0.0, 1.0, 2.0, float("nan"), float("inf")]), max_size=40)


@given(VALUES, st.integers(1, 5), st.sampled_from(["above", "below"]))
def test_a_threshold_turns_after_as_many_points_in_a_row_on_the_other_side(
    values: list[float], points: int, direction: str
) -> None:
    watch = MetricWatch(AlertKind.METRIC_THRESHOLD, direction, 1.0, points)
    is_firing, row = False, 0
    for step, value in enumerate(values):
        change = watch.feed(step, value)
        if value != value or value == float("inf"):
            assert change is None
            continue
        is_bad = value > 1 if direction == "above" else value < 1
        row = row + 1 if is_bad != is_firing else 0
        if row == points:
            is_firing, row = not is_firing, 0
            assert change is not None
            assert (change.fired, change.step, change.value) == (is_firing, step, value)
        else:
            assert change is None


def test_a_spike_fires_and_recovers_with_the_next_usual_value() -> None:
    watch = MetricWatch(AlertKind.METRIC_SPIKE, None, 8.0, 1)
    values = [2.0 + 0.01 * (n % 5) for n in range(60)] + [9.0, 9.0, 2.0]
    found = [change for n, v in enumerate(values) if (change := watch.feed(n, v))]
    assert [(change.fired, change.step) for change in found] == [(True, 60), (False, 62)]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "metric_threshold", "metric": "loss", "value": 1}, "direction"),
        ({"kind": "metric_threshold", "metric": "loss", "direction": "above"}, "value"),
        ({"kind": "metric_threshold", "direction": "above", "value": 1}, "metric"),
        ({"kind": "metric_spike", "metric": "loss"}, "value"),
        ({"kind": "metric_spike", "metric": "loss", "value": 0}, "value"),
        (
            {"kind": "metric_spike", "metric": "loss", "value": 3, "direction": "above"},
            "direction",
        ),
        ({"kind": "run_failed", "metric": "loss"}, "metric"),
        ({"kind": "run_failed", "points": 2}, "points"),
        ({"kind": "metric_nan", "value": 1}, "value"),
        ({"kind": "metric_nan"}, None),
        ({"kind": "metric_nan", "metric": "loss"}, None),
        ({"kind": "metric_spike", "metric": "loss", "value": 3, "points": 2}, None),
    ],
)
def test_a_rule_that_says_too_little_or_too_much_has_its_field_named(
    body: dict[str, Any], field: str | None
) -> None:
    fault = AlertRuleRequest.model_validate_json(json.dumps(body)).find_fault()
    assert (fault and fault[0]) == field
