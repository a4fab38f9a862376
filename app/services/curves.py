"""Curves of runs: the points that survived, put together from the series of attempts.

A run's curve is put together from the series of its attempts and of the runs it was resumed from.
Each attempt is a branch that begins at one step for all keys: it supersedes the points of earlier
attempts past that step, and at steps that it reported itself. `overviews` has bands of curves.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Executable, func, select

from app.db import chunk_ranges
from app.db.chunk_ranges import Range
from app.db.json_lists import one_of
from app.db.listing import TooMany
from app.db.sql import Tx, by_id, columns, dump, query
from app.db.tables import MetricChunk, MetricSeries, Run
from app.domain import points
from app.domain.points import MAX_STEP
from app.errors import InvalidInput, NotFound
from app.services import checkpoints

MAX_SERIES = 1_000
MAX_ANSWERED = 500_000

_series = columns(MetricSeries)
_chunk = columns(MetricChunk)

_run_by_id = by_id(Run)


@query(tuple[int, int])
def _attempts(*, run: str) -> Executable:
    return (
        select(_series.attempt, func.min(_series.start_step))
        .where(_series.run_id == run)
        .group_by(_series.attempt)
    )


_first_own = (
    select(func.min(_chunk.first_step)).where(_chunk.series_id == _series.id).scalar_subquery()
)


class Series(NamedTuple):
    """One key of one run, steps ascending, or with `attempt` what that attempt reported.

    Values may be NaN or infinite; a missing wall time (unix seconds) is NaN. With
    `next_after_step` there are more points after that step.
    """

    run_id: str
    key: str
    attempt: int | None
    steps: Sequence[int]
    values: Sequence[float]
    wall_times: Sequence[float]
    downsampled: bool
    next_after_step: int | None


class Window(NamedTuple):
    """The requested points: all up to `limit`, or with `points` that many, thinned."""

    from_step: int = 0
    to_step: int = MAX_STEP
    points: int | None = None
    limit: int = 10_000


def read(
    tx: Tx,
    run_ids: Sequence[str],
    keys: Sequence[str] | None = None,
    window: Window = Window(),  # noqa: B008 - a constant
    *,
    raw: bool = False,
    most: int | None = None,
) -> list[Series]:
    """Return the curves of these runs, run by run, key by key (all keys when none are named).

    Each is what survived: a resumed run's goes on from its parent's. With `raw`, each attempt
    of each run is a series of its own, with everything it reported. When there are many
    series, each gets fewer points (`MAX_ANSWERED` in all). Raises NotFound, InvalidInput; TooMany
    if there are more than `most` points.
    """
    curves = _list_curves(tx, run_ids, keys, window, raw)
    if most is not None and most < chunk_ranges.count_points(
        tx, (span for *_, of in curves for span in of)
    ):
        raise TooMany
    share = MAX_ANSWERED // max(1, len(curves))
    window = window._replace(
        limit=min(window.limit, share), points=window.points and min(window.points, share)
    )
    return [_read(tx, window, *curve) for curve in curves]


def special_values(row: Series) -> list[tuple[int, str]]:
    """Return step and name (NaN, Infinity, -Infinity) of the points that JSON has no number for."""
    if math.isfinite(sum(row.values)):
        return []
    return [
        (step, points.special_name(value))
        for step, value in zip(row.steps, row.values, strict=True)
        if not math.isfinite(value)
    ]


def list_ranges(
    tx: Tx, run_ids: Sequence[str], keys: Sequence[str] | None, low: int, high: int
) -> list[tuple[str, str, list[Range]]]:
    """Return run, key and surviving ranges of each curve. Raises NotFound, InvalidInput."""
    curves = _list_curves(tx, run_ids, keys, Window(low, high), raw=False)
    return [(run_id, key, of_key) for run_id, key, _, of_key in curves]


def own_ranges(tx: Tx, run: Run) -> list[tuple[str, list[Range]]]:
    """Return key and surviving ranges of what this run reported itself."""
    return _curves(tx, run, None, 0, MAX_STEP, own=True)


def _list_curves(
    tx: Tx, run_ids: Sequence[str], keys: Sequence[str] | None, window: Window, raw: bool
) -> list[tuple[str, str, int | None, list[Range]]]:
    curves = []
    for run_id in dict.fromkeys(run_ids):
        curves += [(run_id, *curve) for curve in _list_series(tx, run_id, keys, window, raw)]
        if len(curves) > MAX_SERIES:  # of many runs the first may be too many
            raise InvalidInput(
                f"These are {len(curves):,} series or more, and one answer holds {MAX_SERIES:,}; "
                "name the keys that you need."
            )
    return curves


def _read(
    tx: Tx, window: Window, run_id: str, key: str, attempt: int | None, ranges: list[Range]
) -> Series:
    if window.points is not None:
        column, downsampled = chunk_ranges.read_overview(tx, ranges, window.points)
        return Series(run_id, key, attempt, *column, downsampled, None)
    column = chunk_ranges.page(tx, ranges, window.limit + 1)
    if len(column.steps) <= window.limit:
        return Series(run_id, key, attempt, *column, False, None)
    column = column.cut(0, window.limit)
    return Series(run_id, key, attempt, *column, False, column.steps[-1])


class _Part(NamedTuple):
    """The series of one key in one attempt; `first`: its lowest step."""

    key: str
    attempt: int
    series_id: int
    first: int


def _list_series(
    tx: Tx, run_id: str, keys: Sequence[str] | None, window: Window, raw: bool
) -> list[tuple[str, int | None, list[Range]]]:
    """Return key, attempt and ranges of each curve of a run, oldest range first."""
    low, high = window.from_step, window.to_step
    if raw:
        return [
            (part.key, part.attempt, [Range(part.series_id, low, high)] if low <= high else [])
            for part in _parts(tx, run_id, keys)
        ]
    curves = _curves(tx, _get_run(tx, run_id), keys, low, high)
    return [(key, None, ranges) for key, ranges in curves]


def _curves(
    tx: Tx, run: Run, keys: Sequence[str] | None, low: int, high: int, *, own: bool = False
) -> list[tuple[str, list[Range]]]:
    """Return the surviving ranges of each key, oldest first; with `own`, of this run alone."""
    curves: dict[str, list[Range]] = {key: [] for key in keys or ()}
    ceiling = high  # the last step that no later attempt superseded
    newest = run.attempt  # later ones are another branch
    while True:
        starts = dict(tx.all(_attempts, run=run.id)) if run.attempt > 1 else {}
        starts[run.attempt] = run.start_step
        parts: dict[int, list[_Part]] = {}
        for part in _parts(tx, run.id, keys):
            parts.setdefault(part.attempt, []).append(part)
        for attempt in sorted((number for number in starts if number <= newest), reverse=True):
            for part in parts.get(attempt, ()):
                first = max(low, part.first)
                if first <= ceiling:
                    curves.setdefault(part.key, []).append(Range(part.series_id, first, ceiling))
            ceiling = min(ceiling, starts[attempt])
        if own or run.source_checkpoint_id is None or ceiling < low:
            break
        # Not its parent: one may be resumed from a checkpoint of the runs before that.
        run_id, _ = checkpoints.find_origin(tx, checkpoints.get(tx, run.source_checkpoint_id))
        branch, run = run.source_attempt, _get_run(tx, run_id)
        newest = run.attempt if branch is None else branch
    return [(key, ranges[::-1]) for key, ranges in sorted(curves.items())]


def _parts(tx: Tx, run_id: str, keys: Sequence[str] | None) -> list[_Part]:
    if keys is None:
        return tx.all(_all_parts, run=run_id)
    return tx.all(_parts_of_keys, run=run_id, keys=dump(list(keys)))


def _select_parts(*where: Any) -> Executable:
    parts = select(_series.key, _series.attempt, _series.id, _first_own).where(*where)
    return parts.order_by(_series.key, _series.attempt)


@query(_Part)
def _all_parts(*, run: str) -> Executable:
    return _select_parts(_series.run_id == run)


@query(_Part)
def _parts_of_keys(*, run: str, keys: str) -> Executable:
    # One statement for any number of keys: one for each number would be kept for each number.
    return _select_parts(_series.run_id == run, one_of(_series.key, keys))


def _get_run(tx: Tx, run_id: str) -> Run:
    run = tx.first(_run_by_id, run_id)
    if run is None:
        raise NotFound(f"There is no run {run_id}.")
    return run
