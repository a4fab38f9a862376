"""The points of a series, in chunks that never overlap.

put        adds points; those of a step that is there already replace it
page       every point of a range, up to so many
pages      every point of a range, piece by piece
last       the last point up to a step
overview   the points of a range, thinned

repacking.py rewrites chunks of earlier versions.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from sqlalchemy import Executable, case, delete, func, null, select, text

from app.db.sql import Tx, columns, query, statement
from app.db.tables import MetricChunk
from app.domain import points
from app.domain.points import MAX_STEP, Column

# SQLite keeps a large row in whole pages of 4 kB: of 512 points every third byte was none.
CHUNK = 1_024
# Fewer points than one of these, at the end of a chunk of more, begin one of their own, which goes
# to the chunk before when it has grown: a trainer that reports step by step then rewrites a little
# each time, and all of a chunk one time in so many.
TAIL = 32
MIDDLE = 256
# A range with more points than this for each one asked for is answered from the sketches,
# which hold one of 32: what is read and thinned then stays near what is answered.
SKETCHED = 64
# Points that are in memory at once while a whole curve is read.
PAGE = 65_536
# Ranges that overlap are read in full up to so many points.
MERGED = 1_000_000

_chunk = columns(MetricChunk)


def _series(series: int) -> Any:
    return _chunk.series_id == series


# The chunk that holds `low` may begin before it.
_earlier = columns(MetricChunk, alias="earlier")


def _beginning(series: int, low: int) -> Any:
    return func.coalesce(
        select(func.max(_earlier.first_step))
        .where(_earlier.series_id == series, _earlier.first_step <= low)
        .scalar_subquery(),
        low,
    )


def _in_range(high: int, series: int, low: int) -> Any:
    return (
        _series(series),
        _chunk.first_step >= _beginning(series, low),
        _chunk.first_step <= high,
    )


@query(tuple[int, int, int])
def _heads(*, most: int, high: int, series: int, low: int) -> Executable:
    return (
        select(_chunk.first_step, _chunk.last_step, _chunk.count)
        .where(*_in_range(high, series, low))
        .order_by(_chunk.first_step)
        .limit(most)
    )


# With the data of the first one, to which nearly every batch is added.


@query(tuple[int, int, int, bytes | None])
def _touched(*, low: int, high: int, series: int) -> Executable:
    return (
        select(
            _chunk.first_step,
            _chunk.last_step,
            _chunk.count,
            case((_chunk.first_step <= low, _chunk.data)),
        )
        .where(*_in_range(high, series, low))
        .order_by(_chunk.first_step)
    )


@query(tuple[int, int, int, bytes | None])
def _next(*, high: int, series: int) -> Executable:
    return (
        select(_chunk.first_step, _chunk.last_step, _chunk.count, null())
        .where(_series(series), _chunk.first_step > high)
        .order_by(_chunk.first_step)
        .limit(1)
    )


@query(tuple[int, bytes])
def _previous(*, first: int, series: int) -> Executable:
    return (
        select(_chunk.count, _chunk.data)
        .where(_series(series), _chunk.first_step < first)
        .order_by(_chunk.first_step.desc())
        .limit(1)
    )


@query(tuple[int | None])
def _size(*, high: int, series: int, low: int) -> Executable:
    return select(func.sum(_chunk.count)).where(*_in_range(high, series, low))


@query(tuple[bytes])
def _data(*, first: int, last: int, series: int) -> Executable:
    return (
        select(_chunk.data)
        .where(
            _series(series),
            _chunk.first_step >= first,
            _chunk.first_step <= last,
        )
        .order_by(_chunk.first_step)
    )


@query(tuple[bytes])
def _last(*, high: int, series: int) -> Executable:
    return (
        select(_chunk.data)
        .where(_series(series), _chunk.first_step <= high)
        .order_by(_chunk.first_step.desc())
        .limit(1)
    )


@query(tuple[int, int, bytes])
def _sketches(*, high: int, series: int, low: int) -> Executable:
    sketch = case((func.length(_chunk.sketch) == 0, _chunk.data), else_=_chunk.sketch)
    return (
        select(_chunk.first_step, _chunk.count, sketch)
        .where(*_in_range(high, series, low))
        .order_by(_chunk.first_step)
    )


@statement
def _put_query(
    *, series: int, first: int, last: int, count: int, sketch: bytes, data: bytes
) -> Executable:
    return text(
        "INSERT INTO metric_chunk (series_id, first_step, last_step, count, sketch, data)"
        " VALUES (:series, :first, :last, :count, :sketch, :data)"
        " ON CONFLICT (series_id, first_step) DO UPDATE SET last_step = excluded.last_step,"
        " count = excluded.count, sketch = excluded.sketch, data = excluded.data"
    )


@statement
def _drop(*, first: int, series: int) -> Executable:
    return delete(MetricChunk).where(_series(series), _chunk.first_step == first)


class Range(NamedTuple):
    """The points of one series from step `low` to step `high`, both included.

    Several make up a curve, oldest first. Where they overlap, the last one's point of a step is
    the curve's.
    """

    series_id: int
    low: int
    high: int


def put(tx: Tx, series_id: int, column: Column) -> None:
    """Adds the points of an ordered column: at the end, or among those that are there."""
    steps = column.steps
    touched = tx.all(_touched, series=series_id, low=steps[0], high=steps[-1])
    if not touched:
        touched += tx.all(_next, series=series_id, high=steps[-1])
    if not touched:
        _put(tx, series_id, column)
        return
    # Each point belongs to the chunk that begins at or before it, or else to the first one.
    edges = [steps[0], *(head[0] for head in touched[1:]), MAX_STEP + 1]
    for (first, last, count, data), (low, end) in zip(touched, pairwise(edges), strict=True):
        new = points.between(column, low, end - 1)
        size = count + len(new.steps)
        if not new.steps:
            continue
        before, after = new.steps[-1] < first, new.steps[0] > last
        full = (before or after) and size > CHUNK
        if full or (after and _level(len(new.steps)) < _level(count)):
            _put(tx, series_id, new)
            continue
        old = points.unpack(data) if data else _load(tx, series_id, first, first)
        earlier = _absorbed(tx, series_id, first, count, size)
        whole = points.joined([*earlier, old, new])
        if not after:
            whole = points.ordered(whole)
        for begin in (*(part.steps[0] for part in earlier), first):
            if whole.steps[0] < begin:
                tx.send(_drop, series=series_id, first=begin)
        _put(tx, series_id, whole)


def _level(count: int) -> int:
    return (count >= TAIL) + (count >= MIDDLE)


def _absorbed(tx: Tx, series_id: int, first: int, count: int, size: int) -> list[Column]:
    """Return the chunks before one that grows from `count` points to `size`, where it joins them.

    Oldest first. Together they may have grown, too, and join the one before.
    """
    earlier: list[Column] = []
    while _level(count) < _level(size):
        previous = tx.first(_previous, series=series_id, first=first)
        if previous is None or previous[0] + size > CHUNK or _level(previous[0]) > _level(size):
            break
        earlier.insert(0, points.unpack(previous[1]))
        first, count, size = earlier[0].steps[0], previous[0], previous[0] + size
    return earlier


def _put(tx: Tx, series_id: int, column: Column) -> None:
    total = len(column.steps)
    pieces = -(-total // CHUNK)
    for begin, end in pairwise([total * piece // pieces for piece in range(pieces + 1)]):
        piece = column.cut(begin, end)
        # One that is not half full mostly grows, and is written again: it has no sketch until then.
        is_half_full = 2 * (end - begin) >= CHUNK
        tx.send(
            _put_query,
            series=series_id,
            first=piece.steps[0],
            last=piece.steps[-1],
            count=end - begin,
            sketch=points.pack(points.sketch(piece)) if is_half_full else b"",
            data=points.pack(piece),
        )


def page(tx: Tx, ranges: Sequence[Range], most: int) -> Column:
    """Return the first `most` points of a curve."""
    merged: list[Column] = []
    missing = most
    for group in _apart(ranges):
        # The first points of several ranges are among the first of each.
        merged.append(_merged([_first(tx, part, missing) for part in group]).cut(0, missing))
        missing -= len(merged[-1].steps)
        if missing <= 0:
            break
    return merged[0] if len(merged) == 1 else points.joined(merged)


def pages(tx: Tx, ranges: Sequence[Range]) -> Iterator[Column]:
    """Yield every point of a curve, steps ascending, so many at a time that they fit in memory."""
    for group in _apart(ranges):
        low = min(span.low for span in group)
        while True:
            left = [span._replace(low=max(span.low, low)) for span in group if span.high >= low]
            column = _merged([_first(tx, span, PAGE) for span in left]).cut(0, PAGE)
            if not column.steps:
                break
            yield column
            if len(column.steps) < PAGE:  # so had each range
                break
            low = column.steps[-1] + 1


def ends(tx: Tx, ranges: Sequence[Range]) -> tuple[int, int] | None:
    """Return the first and the last step of a curve, or None if it has no points."""
    first = page(tx, ranges, 1).steps
    if not first:
        return None
    lasts = [(part.low, last(tx, part.series_id, part.high).steps) for part in ranges]
    return first[0], max(steps[0] for low, steps in lasts if steps and steps[0] >= low)


def _apart(ranges: Sequence[Range]) -> list[list[Range]]:
    """Return groups in the order of their steps; only ranges of the same group may overlap."""
    groups: list[list[Range]] = []
    for part in ranges:
        group = [part]
        while groups and part.low <= max(other.high for other in groups[-1]):
            group = groups.pop() + group
        groups.append(group)
    return groups


def _merged(parts: Sequence[Column]) -> Column:
    return parts[0] if len(parts) == 1 else points.ordered(points.joined(parts))


def _first(tx: Tx, of: Range, most: int) -> Column:
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
    column = points.between(_load(tx, series_id, heads[0][0], heads[taken - 1][0]), low, high)
    return column.cut(0, most)


def size_of(tx: Tx, ranges: Iterable[Range]) -> int:
    """Return the number of points in the chunks of these ranges."""
    return sum((tx.first(_size, **_params(span)) or (0,))[0] or 0 for span in ranges)


def overview(tx: Tx, ranges: Sequence[Range], most: int) -> tuple[Column, bool]:
    """Return a curve in at most `most` points, and True if any were left out."""
    size = size_of(tx, ranges)
    groups = _apart(ranges)
    # What is left of two series does not tell which points of the older one are superseded.
    exact = SKETCHED * most if len(groups) == len(ranges) else max(MERGED, SKETCHED * most)
    if size <= exact:
        whole = page(tx, ranges, size) if size else Column((), (), ())
        thinned = points.thin(whole, most)
        return thinned, len(thinned.steps) < len(whole.steps)
    columns, less = [], False
    for group in groups:
        drawn = [_sketched(tx, span) for span in group]
        columns.append(_merged([points.joined(parts) for parts, _ in drawn]))
        less |= any(missing for _, missing in drawn)
    whole = points.joined(columns)
    thinned = points.thin(whole, most)
    return thinned, less or len(thinned.steps) < len(whole.steps)


def last(tx: Tx, series_id: int, high: int) -> Column:
    """Return the last point of a series up to step `high`, or none."""
    row = tx.first(_last, series=series_id, high=high)
    column = points.between(points.unpack(row[0] if row else b""), 0, high)
    return column.cut(max(0, len(column.steps) - 1), len(column.steps))


def _sketched(tx: Tx, of: Range) -> tuple[list[Column], bool]:
    """Return the sketches of a range, and in full the chunks at its two ends; whether any point of
    the range is not in them."""
    rows = tx.all(_sketches, **_params(of))
    parts = [points.unpack(sketch) for _, _, sketch in rows]
    less = any(len(parts[i].steps) < rows[i][1] for i in range(1, len(rows) - 1))
    for end in {0, len(rows) - 1} if rows else ():
        first = rows[end][0]
        parts[end] = points.between(_load(tx, of.series_id, first, first), of.low, of.high)
    return parts, less


def _load(tx: Tx, series_id: int, first: int, last: int) -> Column:
    """Return the points of all chunks that begin between these two steps."""
    rows = tx.all(_data, series=series_id, first=first, last=last)
    return points.joined(points.unpack(data) for (data,) in rows)


def _params(of: Range) -> dict[str, int]:
    return {"series": of.series_id, "low": of.low, "high": of.high}
