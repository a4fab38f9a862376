"""Thinned curves keep their spikes, whatever the series; packed columns keep their bits."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import points
from app.domain.points import Column

NAN, INF = math.nan, math.inf


def column(values: list[float], steps: list[int] | None = None) -> Column:
    return Column(steps or list(range(len(values))), values, [0.5 * i for i in range(len(values))])


SERIES = {
    "a spike up": [0.0] * 5_000 + [9.0] + [0.0] * 4_999,
    "a spike down beside one up": [0.0] * 5_000 + [9.0, -9.0] + [0.0] * 4_998,
    "spikes at both ends": [9.0] + [0.0] * 9_998 + [-9.0],
    "constant": [1.0] * 10_000,
    "ascending": [float(i) for i in range(10_000)],
    "descending": [-float(i) for i in range(10_000)],
    "alternating": [float(i % 2) for i in range(10_000)],
    "a run of NaN": [1.0] * 4_000 + [NAN] * 3_000 + [2.0] * 3_000,
    "one NaN": [1.0] * 4_000 + [NAN] + [2.0] * 5_999,
    "only NaN": [NAN] * 10_000,
    "infinities among spikes": [INF, 5.0, -INF, -5.0] + [0.0] * 9_996,
    "sums past the largest float": [1e308, -1e308] * 5_000,
}


@pytest.mark.parametrize("values", SERIES.values(), ids=SERIES.keys())
@pytest.mark.parametrize("most", [5, 10, 100, 1_000, 9_999])
def test_a_thinned_curve_keeps_its_ends_its_extremes_and_its_first_odd_value(
    values: list[float], most: int
) -> None:
    check_thinned(column(values), most)


def check_thinned(whole: Column, most: int) -> None:
    thinned = points.thin(whole, most)
    kept = dict(zip(thinned.steps, thinned.values, strict=True))
    assert len(kept) <= most
    assert list(kept) == sorted(set(kept)), "each step once, ascending"
    given_points = set(zip(whole.steps, map(repr, whole.values), whole.wall_times, strict=True))
    assert given_points.issuperset(
        zip(thinned.steps, map(repr, thinned.values), thinned.wall_times, strict=True)
    ), "no point is invented"
    assert {whole.steps[0], whole.steps[-1]} <= kept.keys()
    finite = [value for value in whole.values if math.isfinite(value)]
    if finite:
        assert {min(finite), max(finite)} <= set(kept.values())
    if len(finite) < len(whole.values):
        assert not all(map(math.isfinite, kept.values())), "a NaN or an infinity shows"


values = st.floats(width=64) | st.sampled_from([NAN, INF, -INF, 0.0])


@given(st.lists(values, min_size=1, max_size=300), st.integers(5, 60), st.integers(1, 10**6))
def test_thinning_loses_no_spike_of_any_series(given: list[float], most: int, gap: int) -> None:
    steps = [index * gap + (10**9 if index % 7 == 0 else 0) for index in range(len(given))]
    check_thinned(points.sort_column(column(given, steps)), most)


@given(st.lists(values, min_size=1, max_size=1_200), st.integers(10, 60))
def test_a_series_thinned_from_its_sketches_keeps_the_same_promises(
    given: list[float], most: int
) -> None:
    whole = column(given)
    chunks = [whole.cut(begin, begin + 100) for begin in range(0, len(given), 100)]
    # As the store does it: the two ends in full, of the rest the sketches.
    middle = [points.sketch(chunk) for chunk in chunks[1:-1]]
    sketched = points.join_columns([chunks[0], *middle, *chunks[1:][-1:]])
    thinned = points.thin(sketched, most)
    kept = set(map(repr, thinned.values))
    finite = [value for value in given if math.isfinite(value)]
    if finite:
        assert {repr(min(finite) + 0.0), repr(max(finite) + 0.0)} <= {
            repr(value + 0.0) for value in thinned.values
        }
    assert len(finite) == len(given) or kept & {"nan", "inf", "-inf"}
    assert len(thinned.steps) <= most


def test_a_control_that_strides_over_the_points_loses_the_spike() -> None:
    whole = column(SERIES["a spike up"])
    strided = Column(whole.steps[1::10], whole.values[1::10], whole.wall_times[1::10])
    assert max(strided.values) == 0.0
    assert max(points.thin(whole, 1_000).values) == 9.0


@given(st.lists(st.tuples(st.integers(0, 30), values), max_size=60))
def test_ordering_sorts_by_step_and_the_last_value_of_a_step_wins(
    given: list[tuple[int, float]],
) -> None:
    ordered = points.sort_column(column([v for _, v in given], [step for step, _ in given]))
    assert list(map(repr, ordered.values)) == [repr(v) for _, v in sorted(dict(given).items())]
    assert all(one < other for one, other in pairwise(ordered.steps))


@given(st.lists(st.tuples(st.integers(0, points.MAX_STEP), values, values), max_size=50))
def test_packing_keeps_every_bit_that_matters(given: list[tuple[int, float, float]]) -> None:
    whole = Column(*(list(each) for each in zip(*given, strict=True))) if given else column([])
    data = points.pack(whole)
    assert len(data) == 24 * len(given)
    assert repr([list(each) for each in points.unpack(data)]) == repr([list(e) for e in whole])
