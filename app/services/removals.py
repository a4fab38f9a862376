"""Removal of deleted runs' points and files, in the background, a piece at a time.

list_removals            the runs and logged models whose points and files are still there
remove_points, finish    the supervisor's part: it removes them

`services.deletion` writes a `Removal` in the transaction that deletes.
"""

from collections.abc import Sequence

from sqlalchemy import Executable, delete, func, select

from app.db import thinning
from app.db.sql import Tx, changing, columns, query, select_all, statement
from app.db.tables import Deletion, MetricChunk, MetricSeries, Removal

SERIES_AT_ONCE = 50
"""Series whose points are removed in one transaction: trainers come first."""

_removal, _series = columns(Removal), columns(MetricSeries)


@query(Removal)
def _removals(*, most: int) -> Executable:
    return select_all(Removal).order_by(_removal.owner_id).limit(most)


@query(tuple[int])
def _series_of(*, run: str) -> Executable:
    return select(_series.id).where(_series.run_id == run).limit(SERIES_AT_ONCE)


@statement
def _delete_chunks(*, series: int) -> Executable:
    return delete(MetricChunk).where(columns(MetricChunk).series_id == series)


@statement
def _delete_series(*, series: int) -> Executable:
    return delete(MetricSeries).where(_series.id == series)


@statement
def _delete_removal(*, owner: str) -> Executable:
    return delete(Removal).where(_removal.owner_id == owner)


@query(tuple[int])
def _left(*, deletion: str) -> Executable:
    return select(func.count()).select_from(Removal).where(_removal.deletion_id == deletion)


def list_removals(tx: Tx, most: int) -> list[Removal]:
    """Return deleted runs and models whose points and files may still be there."""
    return tx.all(_removals, most=most)


def remove_points(tx: Tx, run_id: str) -> int:
    """Remove some series of a run with their points; return how many. May be repeated."""
    series = [row[0] for row in tx.all(_series_of, run=run_id)]
    for series_id in series:
        if thinning.remove_first(tx, series_id):
            break
        remove_series(tx, [series_id])
    return len(series)


def remove_series(tx: Tx, series: Sequence[int]) -> None:
    """Remove series with all of their points."""
    for series_id in series:
        tx.run(_delete_chunks, series=series_id)
        tx.run(_delete_series, series=series_id)


def finish(tx: Tx, removal: Removal) -> None:
    """Record that the points and files of a deleted run are gone. May be repeated."""
    tx.run(_delete_removal, owner=removal.owner_id)
    left = tx.first(_left, deletion=removal.deletion_id)
    if left is not None and left[0] == 0:
        changes = {"finished_at": tx.now}
        tx.run(changing(Deletion, frozenset(changes)), key=removal.deletion_id, **changes)
