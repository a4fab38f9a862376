"""Bands of a curve: of each of many equal groups the mean, the lowest, the highest, and how many.

A chart that smooths MinMax points shows another curve than the one reported, since those are the
extremes. The mean of every point of a group may be smoothed, weighted by `counts`.
"""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import truediv
from typing import NamedTuple

from app.domain.points import Column


class Special(NamedTuple):
    """The number of points of one group that have the same non-finite value.

    `place` is the group's in the columns; `value` is NaN, infinity or -infinity.
    """

    place: int
    value: float
    number: int


class Bands(NamedTuple):
    """Columns of equal length, one entry for each group that has points.

    `steps` is the middle of the group's points. Where none of them is finite, mean, low and high
    are NaN, and so is a wall time that is not known. `special` counts NaN and infinities, of
    which mean, low and high take no notice; a group without any has no entry there.
    """

    steps: Sequence[int]
    means: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    counts: Sequence[int]
    wall_times: Sequence[float]
    special: Sequence[Special]


def bands(pieces: Iterable[Column], first: int, last: int, groups: int) -> Bands:
    """Return the bands of an ordered curve, in at most `groups` equal ranges of steps.

    Args:
        pieces: the curve, one piece after the other.
        first: the step at which the first range begins.
        last: the step at which the last range ends.
    """
    width = max(1, -(-(last - first + 1) // groups))
    rows: list[_Row] = []
    special: list[Special] = []
    group: _Group | None = None
    for column in pieces:
        # A list: each of its numbers is made an object once, and not for each look at it.
        column = column._replace(values=list(column.values))
        cuts = _cuts(column.steps, first, width)
        # The first group may have begun in an earlier piece, and the last may go on in a later one.
        for begin, end in dict.fromkeys([(cuts[0], cuts[1]), (cuts[-2], cuts[-1])]):
            number = (column.steps[begin] - first) // width
            if group is None or group.number != number:
                _add(rows, special, group)
                if begin and len(cuts) > 3:
                    _add_whole(rows, special, column, cuts[1:-1])
                group = _Group(number, column.steps[begin])
            group.add(column.cut(begin, end))
    _add(rows, special, group)
    if not rows:
        return Bands((), (), (), (), (), (), ())
    steps, means, lows, highs, counts, wall_times = zip(*rows, strict=True)
    return Bands(steps, means, lows, highs, counts, wall_times, special)


_Row = tuple[int, float, float, float, int, float]
"""One entry of each column of `Bands`, but for `special`."""


def _cuts(steps: Sequence[int], first: int, width: int) -> list[int]:
    """Return the indices between which the groups lie, from 0 to the number of steps."""
    cuts = [0]
    beginning = first + ((steps[0] - first) // width + 1) * width
    if steps[-1] - steps[0] == len(steps) - 1:  # each step has a point: nothing to look for
        return [0, *range(beginning - steps[0], len(steps), width), len(steps)]
    for edge in range(beginning, steps[-1] + 1, width):
        index = bisect_left(steps, edge, cuts[-1], min(len(steps), cuts[-1] + width))
        if index != cuts[-1]:
            cuts.append(index)
    return [*cuts, len(steps)]


def _add_whole(
    rows: list[_Row], special: list[Special], column: Column, cuts: Sequence[int]
) -> None:
    """Add the groups between these indices, of which every point is in the column.

    They are summed up by a few calls for all: an object and some lines of Python for each took
    four times as long.
    """
    steps, values, wall_times = column
    spans = list(pairwise(cuts))
    parts = [values[begin:end] for begin, end in spans]
    totals, counts = list(map(sum, parts)), list(map(len, parts))
    middles = [(steps[begin] + steps[end - 1]) // 2 for begin, end in spans]
    times = _mean_times(wall_times, spans)
    means = map(truediv, totals, counts)
    summed = zip(middles, means, map(min, parts), map(max, parts), counts, times, strict=True)
    if math.isfinite(sum(totals)):
        rows.extend(summed)
        return
    for (begin, end), total, row in zip(spans, totals, summed, strict=True):
        if math.isfinite(total):
            rows.append(row)
        else:  # NaN, an infinity, or too large
            group = _Group(0, steps[begin])
            group.add(column.cut(begin, end))
            _add(rows, special, group)


_NAN = array("d", [math.nan]).tobytes()


def _mean_times(times: Sequence[float], spans: Sequence[tuple[int, int]]) -> list[float]:
    """Return the mean of what is known in each span; NaN where nothing is."""
    # As bytes first: to look at each of ten thousand floats takes as long as to sum them up.
    unknown = array("d", times).tobytes() == _NAN * len(times)
    if unknown or all(map(math.isnan, times)):
        return [math.nan] * len(spans)
    means = [sum(times[begin:end]) / (end - begin) for begin, end in spans]
    if math.isfinite(sum(means)):
        return means
    return [_mean_of_known(times[begin:end]) for begin, end in spans]


def _mean_of_known(times: Sequence[float]) -> float:
    known = list(filter(math.isfinite, times))
    return sum(known) / len(known) if known else math.nan


class _Group:
    """The points of one range, as far as they were read."""

    def __init__(self, number: int, first: int) -> None:
        self.number = number
        self.first = self.last = first
        self.values = _Mean()
        self.wall_times = _Mean()
        self.special: dict[str, int] = {}
        self.low, self.high = math.inf, -math.inf

    def add(self, column: Column) -> None:
        """Add points that follow those before."""
        values, self.last = column.values, column.steps[-1]
        if not column.finite:
            for value in values:
                if not math.isfinite(value):
                    self.special[str(value)] = self.special.get(str(value), 0) + 1
            values = list(filter(math.isfinite, values))
        if values:
            self.low, self.high = min(self.low, min(values)), max(self.high, max(values))
            self.values.add(values)
        if known := list(filter(math.isfinite, column.wall_times)):
            self.wall_times.add(known)


class _Mean:
    """A mean that grows, and stays finite where the sum would not."""

    def __init__(self) -> None:
        self.count = 0
        self.value = math.nan

    def add(self, values: Sequence[float]) -> None:
        new, before = len(values), self.count
        try:
            mean = math.fsum(values) / new
        except OverflowError:
            mean = math.fsum(value / new for value in values)
        self.count = before + new
        if before:
            mean = self.value * (before / self.count) + mean * (new / self.count)
        self.value = mean


def _add(rows: list[_Row], special: list[Special], group: _Group | None) -> None:
    if group is None:
        return
    low, high = (group.low, group.high) if group.values.count else (math.nan, math.nan)
    special.extend(
        Special(len(rows), float(name), group.special[name]) for name in sorted(group.special)
    )
    rows.append((
        (group.first + group.last) // 2, group.values.value, low, high,
        group.values.count, group.wall_times.value,
    ))  # fmt: skip
