"""Metric points as columns, packed for storage and thinned for a chart. Pure Python, C speed.

Column    equally long steps, values and wall times; what is missing is NaN
ordered   steps strictly increasing, the last value of a step winning
pack      a column as bytes; `unpack` is its inverse
thin      at most so many points that draw the same picture (MinMax)
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

from app.domain import packing

SKETCH_GROUPS = 8
GROUPED = 64
"""Points of a chunk for each group of its sketch, where that has more groups than these."""
MAX_STEP = 2**63 - 1


class Column(NamedTuple):
    """Points of one key. A missing value and a missing wall time are NaN."""

    steps: Sequence[int]
    values: Sequence[float]
    wall_times: Sequence[float]

    def cut(self, begin: int, end: int) -> "Column":
        """Return the points from one index up to another."""
        steps, values, wall_times = self
        if begin <= 0 and end >= len(steps):
            return self
        return Column(steps[begin:end], values[begin:end], wall_times[begin:end])

    @property
    def finite(self) -> bool:
        """Return True if every value is a finite number (False also if their sum is not)."""
        return math.isfinite(sum(self.values))


def sort_column(column: Column) -> Column:
    """Return the points with strictly increasing steps; of points at one step the last wins."""
    steps = list(column.steps)
    if steps == sorted(set(steps)):
        return column
    last = {step: index for index, step in enumerate(steps)}
    return _take(column, [last[step] for step in sorted(last)])


def join_columns(parts: Iterable[Column]) -> Column:
    """Join columns one after the other."""
    steps, values, wall_times = array("q"), array("d"), array("d")
    for part in parts:  # an array is copied as a whole, and made of a list at once
        steps += array("q", part.steps)
        values += array("d", part.values)
        wall_times += array("d", part.wall_times)
    return Column(steps, values, wall_times)


def select_steps(column: Column, first: int, last: int) -> Column:
    """Return the points of an ordered column from step `first` to `last`, both included."""
    steps = column.steps
    return column.cut(bisect_left(steps, first), bisect_right(steps, last))


PLAIN_BYTES = 24
_PACKED = 1
"""The first byte of packed columns. Plain ones have none, but a length of 24 bytes a point."""


def pack(column: Column) -> bytes:
    """Pack a column: the values' lanes, what is not regular in the steps and the wall times.

    Of a few points plainly, 24 bytes each: steps as int64, values and wall times as float64.
    """
    steps = array("q", column.steps).tobytes()
    values = array("d", column.values).tobytes()
    wall_times = array("d", column.wall_times).tobytes()
    count = len(steps) // 8
    packed_steps = packing.pack_rising(steps) if count >= packing.FEWEST else None
    if packed_steps is None:
        return steps + values + wall_times
    rising_times = packing.pack_rising(wall_times)
    parts = (
        bytes((_PACKED, rising_times is not None)), count.to_bytes(4, "little"),
        packed_steps, packing.pack_lanes(values), rising_times or packing.pack_lanes(wall_times),
    )  # fmt: skip
    data = b"".join(parts)
    return data + b"\0" if len(data) % PLAIN_BYTES == 0 else data


def unpack(data: bytes) -> Column:
    """Return the column that was packed. Nothing becomes a Python object before it is read."""
    steps, values, wall_times = array("q"), array("d"), array("d")
    if len(data) % PLAIN_BYTES == 0:
        third = len(data) // 3
        parts = data[:third], data[third : 2 * third], data[2 * third :]
    else:
        reader, count = packing.Reader(data, 6), int.from_bytes(data[2:6], "little")
        taken = reader.unpack_rising(count), reader.unpack_lanes(count)
        parts = *taken, reader.unpack_rising(count) if data[1] else reader.unpack_lanes(count)
    steps.frombytes(parts[0])
    values.frombytes(parts[1])
    wall_times.frombytes(parts[2])
    return Column(steps, values, wall_times)


def thin(column: Column, most: int) -> Column:
    """Return at most `most` points (5 or more): the first, the last, and MinMax of equal groups.

    Of each group the lowest and the highest finite point are kept, and the first that is not
    finite where there is one, so no spike and no NaN is lost, whatever the series.

    MinMax is the aggregation that J. Van Der Donckt, J. Van Der Donckt, M. Rademaker and
    S. Van Hoecke describe in "MinMaxLTTB" (IEEE VIS 2023). LTTB is not applied after it: that
    may drop a spike beside a higher one.
    """
    n = len(column.steps)
    if n <= most:
        return column
    values = list(column.values)
    finite = math.isfinite(sum(values))
    kept = _extremes(values, (most - 2) // (2 if finite else 3), finite)
    return _take(column, sorted({0, n - 1, *kept}))


def sketch(column: Column) -> Column:
    """Return MinMax of groups of a chunk, which `thin` accepts in place of a long series."""
    count = len(column.steps)
    if count <= 4 * SKETCH_GROUPS:
        return column
    values, groups = list(column.values), max(SKETCH_GROUPS, count // GROUPED)
    kept = _extremes(values, groups, math.isfinite(sum(values)))
    return _take(column, sorted(set(kept)))


def _extremes(values: list[float], groups: int, finite: bool) -> list[int]:
    """Return the indices that MinMax keeps, some of them twice."""
    n, index, chosen = len(values), values.index, list[int]()
    for begin, end in pairwise([n * group // groups for group in range(groups + 1)]):
        group = values[begin:end]
        if not finite and not all(map(math.isfinite, group)):
            chosen.append(next(i for i in range(begin, end) if not math.isfinite(values[i])))
            group = [value for value in group if math.isfinite(value)]
        if group:
            group.sort()  # floats are compared faster than by `min` and `max`
            chosen += index(group[0], begin), index(group[-1], begin)
    return chosen


def _take(column: Column, indices: Sequence[int]) -> Column:
    if len(indices) < 2:
        return join_columns(column.cut(index, index + 1) for index in indices)
    pick = itemgetter(*indices)
    return Column(pick(column.steps), pick(column.values), pick(column.wall_times))


def special_name(value: float) -> str:
    """Return what a value is called that JSON has no number for."""
    return _NAMES[str(value)]


_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
