"""Chunks of points that are thinned for good, a few at a time: a curve keeps its shape.

Of each chunk its first and last point stay, and what `points.thin` keeps of the others: every
spike, and a NaN. A chunk that is thinned already is left as it is.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Executable, delete, select, tuple_, update

from app.db.sql import Tx, columns, query, statement
from app.db.tables import MetricChunk, MetricSeries
from app.domain import points

KEPT = 34
"""Points at most that a chunk of up to 1,024 keeps."""
REMOVED = 500
"""Chunks of a series that one transaction removes: a write that removed 50 million points held up
a submit for eight seconds."""

_chunk, _series = columns(MetricChunk), columns(MetricSeries)


class WholeChunk(NamedTuple):
    """A chunk that is not thinned."""

    series_id: int
    first_step: int
    data: bytes


@query(WholeChunk)
def _whole(*, run: str, after_series: int, after_step: int, most: int) -> Executable:
    return (
        select(_chunk.series_id, _chunk.first_step, _chunk.data)
        .join_from(MetricSeries.__table__, MetricChunk.__table__, _chunk.series_id == _series.id)  # type: ignore[attr-defined]
        .where(
            _series.run_id == run,
            _chunk.count > KEPT,
            tuple_(_chunk.series_id, _chunk.first_step) > tuple_(after_series, after_step),
        )
        .order_by(_chunk.series_id, _chunk.first_step)
        .limit(most)
    )


@statement
def _replace(*, series: int, first: int, old: bytes, new: bytes, number: int) -> Executable:
    # `data == old`: a trainer may have added points since the chunk was read.
    return (
        update(MetricChunk)
        .where(_chunk.series_id == series, _chunk.first_step == first, _chunk.data == old)
        .values(data=new, sketch=new, count=number)
    )


def list_whole(tx: Tx, run_id: str, after: tuple[int, int], most: int) -> list[WholeChunk]:
    """Return the next chunks of a run, after a series and step, that are not thinned."""
    return tx.all(_whole, run=run_id, after_series=after[0], after_step=after[1], most=most)


def thin(tx: Tx, chunks: Sequence[WholeChunk]) -> None:
    """Thin these chunks, but for those that have changed since they were read. May be repeated."""
    for chunk in chunks:
        kept = points.thin(points.unpack(chunk.data), KEPT)
        tx.send(
            _replace, series=chunk.series_id, first=chunk.first_step, old=chunk.data,
            new=points.pack(kept), number=len(kept.steps),
        )  # fmt: skip


@query(tuple[int])
def _step_after(*, series: int, chunks: int) -> Executable:
    steps = select(_chunk.first_step).where(_chunk.series_id == series).order_by(_chunk.first_step)
    return steps.limit(1).offset(chunks)


@statement
def _remove(*, before: int, series: int) -> Executable:
    return delete(MetricChunk).where(_chunk.series_id == series, _chunk.first_step < before)


def remove_first(tx: Tx, series_id: int) -> bool:
    """Remove the first `REMOVED` chunks of a series that has more; return False if it has not."""
    step = tx.first(_step_after, series=series_id, chunks=REMOVED)
    if step is not None:
        tx.run(_remove, series=series_id, before=step[0])
    return step is not None
