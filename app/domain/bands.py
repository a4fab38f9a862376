"""Bands of a curve: of each of many equal groups the mean, the lowest, the highest, and how many.

A chart that smooths MinMax points shows another curve than the one reported, since those are the
extremes. The mean of every point of a group may be smoothed, weighted by `counts`.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from app.domain.points import Column


class Special(NamedTuple):
    """How many points of one group have the same value that is no finite number.

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
        # A list: each of its numbers is made an object once, and not for each sum over it.
        column = Column(list(column.steps), list(column.values), list(column.wall_times))
        begin, size = 0, len(column.steps)
        while begin < size:
            number = (column.steps[begin] - first) // width
            end = bisect_left(column.steps, first + (number + 1) * width, begin)
            if group is None or group.number != number:
                _add(rows, special, group)
                group = None
                # Most groups lie within one piece, and an object for each took half of the time.
                row = _plain_row(column, begin, end) if end < size else None
                if row is not None:
                    rows.append(row)
                    begin = end
                    continue
                group = _Group(number, column.steps[begin])
            group.add(column.cut(begin, end))
            begin = end
    _add(rows, special, group)
    if not rows:
        return Bands((), (), (), (), (), (), ())
    steps, means, lows, highs, counts, wall_times = zip(*rows, strict=True)
    return Bands(steps, means, lows, highs, counts, wall_times, special)


_Row = tuple[int, float, float, float, int, float]
"""One entry of each column of `Bands`, but for `special`."""


def _plain_row(column: Column, begin: int, end: int) -> _Row | None:
    """Return the group of points from one index up to another; None if not all are finite."""
    steps, values, wall_times = column
    part, count = values[begin:end], end - begin
    try:
        mean, wall_time = math.fsum(part) / count, math.fsum(wall_times[begin:end]) / count
    except (OverflowError, ValueError):  # of infinities, or of the largest numbers
        return None
    if not (math.isfinite(mean) and math.isfinite(wall_time)):
        return None
    return (steps[begin] + steps[end - 1]) // 2, mean, min(part), max(part), count, wall_time


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
