"""What becomes of a curve before it is drawn."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.graphql_types import DASHBOARD
from tests.support.node import run_module


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    module = Path(__file__).with_name("curves.mjs")
    curves = (DASHBOARD / "curves.js").as_uri()
    results: dict[str, Any] = run_module(tmp_path_factory.mktemp("node"), module, curves)
    return results


def test_a_smoothed_curve_of_skewed_points_is_their_average(found: dict[str, Any]) -> None:
    assert found["worst"] < 0.01
    assert found["extremes"] > 20  # what smoothing points picked for their extremes would show


def test_smoothing_bends_no_straight_line_and_keeps_a_gap(found: dict[str, Any]) -> None:
    assert found["bent"] < 1e-6
    assert found["gap"] == pytest.approx([1, 1, None, 1, 1])
    assert found["one"] == [7]


def test_wild_values_do_not_stretch_the_axis(found: dict[str, Any]) -> None:
    low, high = found["typical"]
    assert low == 1
    assert 1.9 <= high < 10


def test_a_new_attempt_takes_back_what_it_reports_again(found: dict[str, Any]) -> None:
    assert found["extended"] == [[1, 2, 3, 4, 5], [4, 3, 9, 8, 7], [1, 1, 1, 1, 1]]
    assert found["same"] == [1]


def test_the_x_axis_is_time_since_the_beginning_or_another_metric(found: dict[str, Any]) -> None:
    assert found["time"] == [0, 1, 3]
    assert found["metric"] == [100, 200, 300]
    assert found["between"] == [2, None]


def test_a_group_is_its_mean_and_one_standard_deviation(found: dict[str, Any]) -> None:
    assert found["together"] == [[2, 2], [1, 2], [3, 2]]


def test_nan_and_infinities_are_told_apart_and_where_they_are(found: dict[str, Any]) -> None:
    assert found["special"] == [
        {"bucket": 1, "value": "NaN", "count": 3}, {"bucket": 1, "value": "Infinity", "count": 1},
        {"bucket": 3, "value": "-Infinity", "count": 1}, {"bucket": 4, "value": "NaN", "count": 1},
    ]  # fmt: skip
    assert found["tally"] == ["4 × NaN, 1 × ∞", "8 × NaN, 2 × ∞, 1 × −∞", ""]
    assert found["along"] == [[20, "3 × NaN, ∞"], [30, "NaN"]]
    assert [(row["bucket"], row["count"]) for row in found["grouped"]] == [(1, 3), (1, 1), (2, 1)]


def test_a_log_looks_as_a_terminal_would_show_it(found: dict[str, Any]) -> None:
    assert found["printed"] == "100%\nnext\nred\nlast\r"
