"""The points of a series, in chunks that never overlap.

`put` adds points; those of a step that is there already replace it. `chunk_ranges` reads them,
`repacking` rewrites chunks of earlier versions.
"""

from itertools import pairwise
from typing import Any

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

_chunk = columns(MetricChunk)


# The chunk that holds `low` may begin before it.
_earlier = columns(MetricChunk, alias="earlier")


def _beginning(series: int, low: int) -> Any:
    return func.coalesce(
        select(func.max(_earlier.first_step))
        .where(_earlier.series_id == series, _earlier.first_step <= low)
        .scalar_subquery(),
        low,
    )


def in_range(high: int, series: int, low: int) -> Any:
    """Return the conditions on the chunks of a series that hold steps of a range."""
    return (
        _chunk.series_id == series,
        _chunk.first_step >= _beginning(series, low),
        _chunk.first_step <= high,
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
        .where(*in_range(high, series, low))
        .order_by(_chunk.first_step)
    )


@query(tuple[int, int, int, bytes | None])
def _next(*, high: int, series: int) -> Executable:
    return (
        select(_chunk.first_step, _chunk.last_step, _chunk.count, null())
        .where(_chunk.series_id == series, _chunk.first_step > high)
        .order_by(_chunk.first_step)
        .limit(1)
    )


@query(tuple[int, bytes])
def _previous(*, first: int, series: int) -> Executable:
    return (
        select(_chunk.count, _chunk.data)
        .where(_chunk.series_id == series, _chunk.first_step < first)
        .order_by(_chunk.first_step.desc())
        .limit(1)
    )


@query(tuple[bytes])
def _data(*, first: int, last: int, series: int) -> Executable:
    return (
        select(_chunk.data)
        .where(
            _chunk.series_id == series,
            _chunk.first_step >= first,
            _chunk.first_step <= last,
        )
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
    return delete(MetricChunk).where(_chunk.series_id == series, _chunk.first_step == first)


def put(tx: Tx, series_id: int, column: Column) -> None:
    """Add the points of an ordered column: at the end, or among those that are there."""
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
        new = points.select_steps(column, low, end - 1)
        size = count + len(new.steps)
        if not new.steps:
            continue
        before, after = new.steps[-1] < first, new.steps[0] > last
        full = (before or after) and size > CHUNK
        if full or (after and _level(len(new.steps)) < _level(count)):
            _put(tx, series_id, new)
            continue
        old = points.unpack(data) if data else load(tx, series_id, first, first)
        earlier = _list_absorbed(tx, series_id, first, count, size)
        whole = points.join_columns([*earlier, old, new])
        if not after:
            whole = points.sort_column(whole)
        for begin in (*(part.steps[0] for part in earlier), first):
            if whole.steps[0] < begin:
                tx.send(_drop, series=series_id, first=begin)
        _put(tx, series_id, whole)


def _level(count: int) -> int:
    return (count >= TAIL) + (count >= MIDDLE)


def _list_absorbed(tx: Tx, series_id: int, first: int, count: int, size: int) -> list[Column]:
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


def load(tx: Tx, series_id: int, first: int, last: int) -> Column:
    """Return the points of the chunks that begin between these two steps."""
    rows = tx.all(_data, series=series_id, first=first, last=last)
    return points.join_columns(points.unpack(data) for (data,) in rows)
