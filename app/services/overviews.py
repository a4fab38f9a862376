"""Many runs at a glance: their bands, and where their parameters differ."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from app.db import chunk_ranges, listing
from app.db.rows import RunRow
from app.db.sql import Tx, load
from app.domain import bands, comparison
from app.domain.bands import Bands
from app.domain.comparison import Parameter, Section
from app.domain.points import MAX_STEP
from app.errors import NotFound
from app.services import curves

MAX_COMPARED = 50


class RunBands(NamedTuple):
    """The bands of one metric of one run."""

    run_id: str
    key: str
    bands: Bands


def metric_bands(
    tx: Tx,
    run_ids: Sequence[str],
    keys: Sequence[str] | None,
    from_step: int | None,
    to_step: int | None,
    buckets: int,
) -> list[RunBands]:
    """Return the bands of these runs, run by run, key by key (all keys when none are named).

    Each is of the run's curve, which goes on from that of the run it was resumed from. The buckets
    are equal between `from_step` and `to_step`; without them, between the ends of each curve.

    Raises NotFound, InvalidInput for too many curves.
    """
    low = 0 if from_step is None else from_step
    high = MAX_STEP if to_step is None else to_step
    read = []
    for run_id, key, ranges in curves.list_ranges(tx, run_ids, keys, low, high):
        ends = chunk_ranges.read_ends(tx, ranges)
        if ends is None:
            read.append(RunBands(run_id, key, bands.bands((), 0, 0, buckets)))
            continue
        first = ends[0] if from_step is None else from_step
        last = ends[1] if to_step is None else to_step
        of_curve = bands.bands(chunk_ranges.read_pages(tx, ranges), first, last, buckets)
        read.append(RunBands(run_id, key, of_curve))
    return read


def compare(tx: Tx, run_ids: Sequence[str]) -> Iterator[Parameter]:
    """Return the parameters of these runs side by side. Raises NotFound."""
    rows = listing.by_ids(tx, listing.RUNS, run_ids)
    for run_id, row in zip(run_ids, rows, strict=True):
        if row is None:
            raise NotFound(f"There is no run {run_id}.")
    return comparison.compare([_parameters(row) for row in rows if row is not None])


def _parameters(row: RunRow) -> dict[Section, dict[str, Any]]:
    return {
        Section.RUN: {"model": row.model, "recipe": row.recipe},
        Section.HYPERPARAMS: load(row.hyperparams),
        Section.DATASET: load(row.dataset),
        Section.RESOURCES: load(row.resources),
        Section.SOURCE: load(row.source or "{}"),
    }
