"""The points of a curve, read from the chunks of its ranges.

page       every point, up to so many
pages      every point, piece by piece
last       the last point up to a step
overview   so many points, thinned
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Executable, case, func, select

from app.db import chunks
from app.db.chunks import in_range
from app.db.sql import Tx, columns, query
from app.db.tables import MetricChunk
from app.domain import points
from app.domain.points import Column

# A range with more points than this for each one asked for is answered from the sketches,
# which hold one of 32: what is read and thinned then stays near what is answered.
SKETCHED = 64
# Points that are in memory at once while a whole curve is read.
PAGE = 65_536
# Ranges that overlap are read in full up to so many points.
MERGED = 1_000_000

_chunk = columns(MetricChunk)


@query(tuple[int, int, int])
def _heads(*, most: int, high: int, series: int, low: int) -> Executable:
    return (
        select(_chunk.first_step, _chunk.last_step, _chunk.count)
        .where(*in_range(high, series, low))
        .order_by(_chunk.first_step)
        .limit(most)
    )


@query(tuple[int | None])
def _size(*, high: int, series: int, low: int) -> Executable:
    return select(func.sum(_chunk.count)).where(*in_range(high, series, low))


@query(tuple[bytes])
def _last(*, high: int, series: int) -> Executable:
    return (
        select(_chunk.data)
        .where(_chunk.series_id == series, _chunk.first_step <= high)
        .order_by(_chunk.first_step.desc())
        .limit(1)
    )


@query(tuple[int, int, bytes])
def _sketches(*, high: int, series: int, low: int) -> Executable:
    sketch = case((func.length(_chunk.sketch) == 0, _chunk.data), else_=_chunk.sketch)
    return (
        select(_chunk.first_step, _chunk.count, sketch)
        .where(*in_range(high, series, low))
        .order_by(_chunk.first_step)
    )


class Range(NamedTuple):
    """The points of one series from step `low` to step `high`, both included.

    Several make up a curve, oldest first. Where they overlap, the last one's point of a step is
    the curve's.
    """

    series_id: int
    low: int
    high: int


def page(tx: Tx, ranges: Sequence[Range], most: int) -> Column:
    """Return the first `most` points of a curve."""
    merged: list[Column] = []
    missing = most
    for group in _group_ranges(ranges):
        # The first points of several ranges are among the first of each.
        merged.append(_merge([_read_first(tx, part, missing) for part in group]).cut(0, missing))
        missing -= len(merged[-1].steps)
        if missing <= 0:
            break
    return merged[0] if len(merged) == 1 else points.join_columns(merged)


def read_pages(tx: Tx, ranges: Sequence[Range]) -> Iterator[Column]:
    """Yield every point of a curve, steps ascending, so many at a time that they fit in memory."""
    for group in _group_ranges(ranges):
        low = min(span.low for span in group)
        while True:
            left = [span._replace(low=max(span.low, low)) for span in group if span.high >= low]
            column = _merge([_read_first(tx, span, PAGE) for span in left]).cut(0, PAGE)
            if not column.steps:
                break
            yield column
            if len(column.steps) < PAGE:  # so had each range
                break
            low = column.steps[-1] + 1


def read_ends(tx: Tx, ranges: Sequence[Range]) -> tuple[int, int] | None:
    """Return the first and the last step of a curve, or None if it has no points."""
    first = page(tx, ranges, 1).steps
    if not first:
        return None
    lasts = [(part.low, read_last(tx, part.series_id, part.high).steps) for part in ranges]
    return first[0], max(steps[0] for low, steps in lasts if steps and steps[0] >= low)


def _group_ranges(ranges: Sequence[Range]) -> list[list[Range]]:
    """Return groups in the order of their steps; only ranges of the same group may overlap."""
    groups: list[list[Range]] = []
    for part in ranges:
        group = [part]
        while groups and part.low <= max(other.high for other in groups[-1]):
            group = groups.pop() + group
        groups.append(group)
    return groups


def _merge(parts: Sequence[Column]) -> Column:
    return parts[0] if len(parts) == 1 else points.sort_column(points.join_columns(parts))


def _read_first(tx: Tx, of: Range, most: int) -> Column:
    """Return the first `most` points of a range."""
    series_id, low, high = of
    heads = tx.all(_heads, **_params(of), most=most + 1)
    # Of the first chunk any number may lie before the range.
    taken, certain = 0, 0
    for taken, head in enumerate(heads, 1):
        certain += head[2] if taken > 1 else 0
        if certain >= most:
            break
    if not taken:
        return Column((), (), ())
    column = points.select_steps(
        chunks.load(tx, series_id, heads[0][0], heads[taken - 1][0]), low, high
    )
    return column.cut(0, most)


def count_points(tx: Tx, ranges: Iterable[Range]) -> int:
    """Return the number of points in the chunks of these ranges."""
    return sum((tx.first(_size, **_params(span)) or (0,))[0] or 0 for span in ranges)


def read_overview(tx: Tx, ranges: Sequence[Range], most: int) -> tuple[Column, bool]:
    """Return a curve in at most `most` points, and True if any were left out."""
    size = count_points(tx, ranges)
    groups = _group_ranges(ranges)
    # What is left of two series does not tell which points of the older one are superseded.
    exact = SKETCHED * most if len(groups) == len(ranges) else max(MERGED, SKETCHED * most)
    if size <= exact:
        whole = page(tx, ranges, size) if size else Column((), (), ())
        thinned = points.thin(whole, most)
        return thinned, len(thinned.steps) < len(whole.steps)
    columns, less = [], False
    for group in groups:
        drawn = [_read_sketches(tx, span) for span in group]
        columns.append(_merge([points.join_columns(parts) for parts, _ in drawn]))
        less |= any(missing for _, missing in drawn)
    whole = points.join_columns(columns)
    thinned = points.thin(whole, most)
    return thinned, less or len(thinned.steps) < len(whole.steps)


def read_last(tx: Tx, series_id: int, high: int) -> Column:
    """Return the last point of a series up to step `high`, or none."""
    row = tx.first(_last, series=series_id, high=high)
    column = points.select_steps(points.unpack(row[0] if row else b""), 0, high)
    return column.cut(max(0, len(column.steps) - 1), len(column.steps))


def _read_sketches(tx: Tx, of: Range) -> tuple[list[Column], bool]:
    """Return the sketches of a range, and in full the chunks at its two ends; whether any point of
    the range is not in them."""
    rows = tx.all(_sketches, **_params(of))
    parts = [points.unpack(sketch) for _, _, sketch in rows]
    less = any(len(parts[i].steps) < rows[i][1] for i in range(1, len(rows) - 1))
    for end in {0, len(rows) - 1} if rows else ():
        first = rows[end][0]
        parts[end] = points.select_steps(
            chunks.load(tx, of.series_id, first, first), of.low, of.high
        )
    return parts, less


def _params(of: Range) -> dict[str, int]:
    return {"series": of.series_id, "low": of.low, "high": of.high}
