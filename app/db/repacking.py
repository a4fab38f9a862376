"""Chunks of points as earlier versions stored them, packed again a few at a time."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Executable, func, select, tuple_, update

from app.db.sql import Tx, columns, query, statement
from app.db.tables import MetricChunk
from app.domain import packing, points

_chunk = columns(MetricChunk)


class PlainChunk(NamedTuple):
    """A chunk as earlier versions stored it: 24 bytes a point."""

    series_id: int
    first_step: int
    sketch: bytes
    data: bytes


@query(PlainChunk)
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


@statement
def _replace(*, first: int, old: bytes, new: bytes, new_sketch: bytes, series: int) -> Executable:
    # A report may have added points to it since it was read.
    return (
        update(MetricChunk)
        .where(_chunk.series_id == series, _chunk.first_step == first, _chunk.data == old)
        .values(data=new, sketch=new_sketch)
    )


def list_plain(tx: Tx, after: tuple[int, int], most: int) -> list[PlainChunk]:
    """Return the next chunks, after a series and step, that are not packed."""
    return tx.all(_plain, after_series=after[0], after_step=after[1], most=most)


def pack_again(tx: Tx, chunks: Sequence[PlainChunk]) -> None:
    """Pack chunks, where they are still as they were read. May be repeated."""
    for chunk in chunks:
        tx.send(
            _replace, series=chunk.series_id, first=chunk.first_step, old=chunk.data,
            new=points.pack(points.unpack(chunk.data)),
            new_sketch=points.pack(points.unpack(chunk.sketch)),
        )  # fmt: skip
