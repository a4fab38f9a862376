"""Bands are true to every point: mean, lowest, highest and number of each bucket."""

import math
import random
import statistics
from array import array
from itertools import pairwise

import pytest

from app.domain import comparison
from app.domain.bands import bands
from app.domain.comparison import MISSING, Section
from app.domain.points import Column

NAN = math.nan


def column(steps: list[int], values: list[float], walls: list[float] | None = None) -> Column:
    return Column(array("q", steps), array("d", values), array("d", walls or [NAN] * len(steps)))


def test_every_point_counts_wherever_pieces_begin() -> None:
    chance = random.Random(3)
    steps = sorted(chance.sample(range(10_000), 4_000))
    values = [chance.expovariate(1.0) for _ in steps]
    cuts = [0, *sorted(chance.sample(range(1, 4_000), 7)), 4_000]
    pieces = [
        column(steps[a:b], values[a:b], [float(step) for step in steps[a:b]])
        for a, b in pairwise(cuts)
    ]
    found = bands(pieces, 0, 9_999, 50)
    assert len(found.steps) == 50
    for place in range(50):
        own = [v for s, v in zip(steps, values, strict=True) if s // 200 == place]
        mine = [s for s in steps if s // 200 == place]
        assert found.counts[place] == len(own)
        assert found.means[place] == pytest.approx(statistics.fmean(own), rel=1e-12)
        assert (found.lows[place], found.highs[place]) == (min(own), max(own))
        assert found.steps[place] == (mine[0] + mine[-1]) // 2
        assert found.wall_times[place] == pytest.approx(statistics.fmean(mine))


def test_a_smoothed_line_of_skewed_points_is_within_one_percent_of_their_average() -> None:
    """Ten points of a hundred are high: their MinMax would smooth to the middle of both."""
    chance = random.Random(1)
    values = [chance.random() if chance.random() < 0.1 else 0.01 for _ in range(100_000)]
    found = bands([column(list(range(100_000)), values)], 0, 99_999, 1_000)
    line, weight = 0.0, 0.0
    for mean, count in zip(found.means, found.counts, strict=True):
        weight = weight * 0.999 + count
        line += (mean - line) * count / weight
    assert line == pytest.approx(statistics.fmean(values), rel=0.05)
    whole = sum(m * c for m, c in zip(found.means, found.counts, strict=True)) / 100_000
    assert whole == pytest.approx(statistics.fmean(values), rel=1e-9)


def test_nan_and_infinities_are_counted_apart() -> None:
    values = [1.0, NAN, 3.0, math.inf, NAN, -math.inf]
    found = bands([column([0, 1, 2, 3, 4, 5], values)], 0, 5, 2)
    assert list(found.counts) == [2, 0]
    special = [(place, str(value), count) for place, value, count in found.special]
    assert special == [(0, "nan", 1), (1, "-inf", 1), (1, "inf", 1), (1, "nan", 1)]
    assert found.means[0] == 2.0
    assert math.isnan(found.means[1]) and math.isnan(found.lows[1]) and math.isnan(found.highs[1])


def test_the_mean_of_the_largest_numbers_is_finite() -> None:
    found = bands([column([0, 1], [1.7e308, 1.6e308]), column([2], [1.7e308])], 0, 2, 1)
    assert found.means[0] == pytest.approx(1.7e308 / 3 * 2 + 1.6e308 / 3)


def test_steps_as_far_apart_as_there_are_make_two_buckets() -> None:
    last = 2**63 - 1
    found = bands([column([0, last], [1.0, 2.0])], 0, last, 10)
    assert (list(found.steps), list(found.means)) == ([0, last], [1.0, 2.0])
    assert not bands([], 0, 0, 10).steps


def test_only_what_differs_differs() -> None:
    one = {"lr": 1, "opt": {"name": "adam", "betas": [0.9, 0.99]}, "seed": 1, "note": None}
    other = {"lr": 1.0, "opt": {"name": "sgd"}, "seed": True, "extra": {}}
    rows = {
        row.key: row
        for row in comparison.compare([{Section.HYPERPARAMS: one}, {Section.HYPERPARAMS: other}])
    }
    assert list(rows) == ["lr", "opt.name", "opt.betas", "seed", "note", "extra"]
    assert {key for key, row in rows.items() if not row.differs} == {"lr"}, "1 and 1.0 are the same"
    assert rows["note"].values == [None, MISSING], "null is a value"
