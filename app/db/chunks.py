"""The points of a series, in chunks that never overlap.

put        adds points; those of a step that is there already replace it
page       every point of a range, up to so many
pages      every point of a range, piece by piece
last       the last point up to a step
overview   the points of a range, thinned
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from sqlalchemy import Executable, case, delete, func, null, select, text, tuple_, update

from app.db.sql import Tx, columns, query, statement
from app.db.tables import MetricChunk
from app.domain import packing, points
from app.domain.points import MAX_STEP, Column

CHUNK = 512
# Fewer points than this, at the end of a larger chunk, begin one of their own: a trainer that
# reports step by step then rewrites a little each time, and all of a chunk one time in so many.
TAIL = 32
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
    return (
        select(_chunk.first_step, _chunk.count, _chunk.sketch)
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


@query(tuple[int, int, bytes, bytes])
def _plain(*, after_series: int, after_step: int, most: int) -> Executable:
    return (
        select(_chunk.series_id, _chunk.first_step, _chunk.sketch, _chunk.data)
        .where(
            tuple_(_chunk.series_id, _chunk.first_step) > tuple_(after_series, after_step),
            func.length(_chunk.data) == points.PLAIN_BYTES * _chunk.count,
            _chunk.count >= packing.FEWEST,
        )
        .order_by(_chunk.series_id, _chunk.first_step)
        .limit(most)
    )


# A report may have added points to it since it was read.


@statement
def _replace(*, first: int, old: bytes, new: bytes, new_sketch: bytes, series: int) -> Executable:
    return (
        update(MetricChunk)
        .where(_series(series), _chunk.first_step == first, _chunk.data == old)
        .values(data=new, sketch=new_sketch)
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
        if full or (after and len(new.steps) < TAIL <= count):
            _put(tx, series_id, new)
            continue
        old = points.unpack(data) if data else _load(tx, series_id, first, first)
        parts = [old, new]
        # A tail that has grown up goes to the chunk before it.
        grown = count < TAIL <= size
        previous = tx.first(_previous, series=series_id, first=first) if grown else None
        if previous is not None and previous[0] + size <= CHUNK:
            parts.insert(0, points.unpack(previous[1]))
        whole = points.ordered(points.joined(parts))
        if whole.steps[0] < first:
            tx.send(_drop, series=series_id, first=first)
        _put(tx, series_id, whole)


def _put(tx: Tx, series_id: int, column: Column) -> None:
    total = len(column.steps)
    pieces = -(-total // CHUNK)
    for begin, end in pairwise([total * piece // pieces for piece in range(pieces + 1)]):
        piece = column.cut(begin, end)
        tx.send(
            _put_query,
            series=series_id,
            first=piece.steps[0],
            last=piece.steps[-1],
            count=end - begin,
            sketch=points.pack(points.sketch(piece)),
            data=points.pack(piece),
        )


def page(tx: Tx, ranges: Sequence[Range], most: int) -> Column:
    """Return the first `most` points of a curve."""
    found: list[Column] = []
    missing = most
    for group in _apart(ranges):
        # The first points of several ranges are among the first of each.
        found.append(_merged([_first(tx, each, missing) for each in group]).cut(0, missing))
        missing -= len(found[-1].steps)
        if missing <= 0:
            break
    return points.joined(found)


def pages(tx: Tx, ranges: Sequence[Range]) -> Iterator[Column]:
    """Yield every point of a curve, steps ascending, so many at a time that they fit in memory."""
    for group in _apart(ranges):
        low = min(each.low for each in group)
        while True:
            left = [each._replace(low=max(each.low, low)) for each in group if each.high >= low]
            column = _merged([_first(tx, each, PAGE) for each in left]).cut(0, PAGE)
            if not column.steps:
                break
            yield column
            low = column.steps[-1] + 1


def ends(tx: Tx, ranges: Sequence[Range]) -> tuple[int, int] | None:
    """Return the first and the last step of a curve, or None if it has no points."""
    first = page(tx, ranges, 1).steps
    if not first:
        return None
    lasts = [(each.low, last(tx, each.series_id, each.high).steps) for each in ranges]
    return first[0], max(steps[0] for low, steps in lasts if steps and steps[0] >= low)


def _apart(ranges: Sequence[Range]) -> list[list[Range]]:
    """Return groups in the order of their steps; only ranges of the same group may overlap."""
    groups: list[list[Range]] = []
    for each in ranges:
        group = [each]
        while groups and each.low <= max(other.high for other in groups[-1]):
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
    found = points.between(_load(tx, series_id, heads[0][0], heads[taken - 1][0]), low, high)
    return found.cut(0, most)


def overview(tx: Tx, ranges: Sequence[Range], most: int) -> tuple[Column, bool]:
    """Return a curve in at most `most` points, and True if any were left out."""
    size = 0
    for each in ranges:
        row = tx.first(_size, **_params(each))
        size += (row and row[0]) or 0
    groups = _apart(ranges)
    # What is left of two series does not tell which points of the older one are superseded.
    exact = SKETCHED * most if len(groups) == len(ranges) else max(MERGED, SKETCHED * most)
    if size <= exact:
        whole = page(tx, ranges, size) if size else Column((), (), ())
        thinned = points.thin(whole, most)
        return thinned, len(thinned.steps) < len(whole.steps)
    found, less = [], False
    for group in groups:
        drawn = [_sketched(tx, each) for each in group]
        found.append(_merged([points.joined(parts) for parts, _ in drawn]))
        less |= any(missing for _, missing in drawn)
    whole = points.joined(found)
    thinned = points.thin(whole, most)
    return thinned, less or len(thinned.steps) < len(whole.steps)


def last(tx: Tx, series_id: int, high: int) -> Column:
    """Return the last point of a series up to step `high`, or none."""
    row = tx.first(_last, series=series_id, high=high)
    found = points.between(points.unpack(row[0] if row else b""), 0, high)
    return found.cut(max(0, len(found.steps) - 1), len(found.steps))


class PlainChunk(NamedTuple):
    """A chunk as earlier versions stored it: 24 bytes a point."""

    series_id: int
    first_step: int
    sketch: bytes
    data: bytes


def list_plain(tx: Tx, after: tuple[int, int], most: int) -> list[PlainChunk]:
    """Return the next chunks, after a series and step, that are not packed."""
    rows = tx.all(_plain, after_series=after[0], after_step=after[1], most=most)
    return [PlainChunk(*row) for row in rows]


def pack_again(tx: Tx, chunks: Sequence[PlainChunk]) -> None:
    """Pack chunks, where they are still as they were read. May be repeated."""
    for chunk in chunks:
        tx.send(
            _replace, series=chunk.series_id, first=chunk.first_step, old=chunk.data,
            new=points.pack(points.unpack(chunk.data)),
            new_sketch=points.pack(points.unpack(chunk.sketch)),
        )  # fmt: skip


def _sketched(tx: Tx, of: Range) -> tuple[list[Column], bool]:
    """Return the sketches of a range, and in full the chunks at its two ends; whether any point of
    the range is not in them."""
    found = tx.all(_sketches, **_params(of))
    parts = [points.unpack(sketch) for _, _, sketch in found]
    less = any(len(parts[i].steps) < found[i][1] for i in range(1, len(found) - 1))
    for end in {0, len(found) - 1} if found else ():
        first = found[end][0]
        parts[end] = points.between(_load(tx, of.series_id, first, first), of.low, of.high)
    return parts, less


def _load(tx: Tx, series_id: int, first: int, last: int) -> Column:
    """Return the points of all chunks that begin between these two steps."""
    found = tx.all(_data, series=series_id, first=first, last=last)
    return points.joined(points.unpack(data) for (data,) in found)


def _params(of: Range) -> dict[str, int]:
    return {"series": of.series_id, "low": of.low, "high": of.high}
