"""Metrics of runs: taken in by batches, read as curves that tell the truth, latest at once.

A series is one key of one attempt of one run. A run's curve is put together from the series of
its attempts and of the runs it was resumed from. Each attempt is a branch that begins at one step
for all keys: it supersedes the points of earlier attempts past that step, and at steps that it
reported itself.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Executable, delete, func, insert, select, text, update

from app.db import chunks
from app.db.chunks import Range
from app.db.json_lists import one_of
from app.db.listing import TooMany
from app.db.rows import MetricLatestRow
from app.db.sql import Tx, by_id, columns, dump, query, select_all, statement
from app.db.tables import MetricChunk, MetricLatest, MetricSeries, Run
from app.domain import points
from app.domain.points import MAX_STEP, Column
from app.errors import InvalidInput, NotFound, RunLimit
from app.services import checkpoints

MAX_KEYS = 10_000
MAX_KEYED_ATTEMPTS = 10
"""Attempts of a run for which as many keys are kept."""
MAX_SERIES = 1_000
MAX_ANSWERED = 500_000

_series = columns(MetricSeries)
_chunk = columns(MetricChunk)
_latest = columns(MetricLatest)

_run_by_id = by_id(Run)


@query(tuple[str, int])
def _find(*, run: str, attempt: int, keys: str) -> Executable:
    return select(_series.key, _series.id).where(
        _series.run_id == run,
        _series.attempt == attempt,
        one_of(_series.key, keys),
    )


@query(tuple[int])
def _add(*, run_id: str, attempt: int, key: str, start_step: int) -> Executable:
    new = {"run_id": run_id, "attempt": attempt, "key": key, "start_step": start_step}
    return insert(MetricSeries).values(new).returning(_series.id)


@query(tuple[int])
def _keys(*, run: str) -> Executable:
    return select(func.count()).select_from(MetricSeries).where(_series.run_id == run)


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


@query(tuple[int])
def _begun(*, run: str, attempt: int) -> Executable:
    return select(_series.id).where(_series.run_id == run, _series.attempt == attempt).limit(1)


@statement
def _set_branch(*, run: str, of_attempt: int, start: int) -> Executable:
    return (
        update(MetricSeries)
        .where(_series.run_id == run, _series.attempt == of_attempt)
        .values(start_step=start)
    )


@statement
def _forget_latest(*, run: str, key: str) -> Executable:
    return delete(MetricLatest).where(_latest.run_id == run, _latest.key == key)


@statement
def _put_latest(
    *, run_id: str, key: str, step: int, value: float | None, wall_time: float | None
) -> Executable:
    return text(
        "INSERT INTO metric_latest (run_id, key, step, value, wall_time)"
        " VALUES (:run_id, :key, :step, :value, :wall_time) ON CONFLICT (run_id, key)"
        " DO UPDATE SET step = excluded.step, value = excluded.value,"
        " wall_time = excluded.wall_time WHERE excluded.step >= metric_latest.step"
    )


@query(MetricLatestRow)
def _latest_of(*, run: str) -> Executable:
    return select_all(MetricLatest).where(_latest.run_id == run).order_by(_latest.key)


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
    """Which points are asked for: all up to `limit`, or with `points` that many, thinned."""

    from_step: int = 0
    to_step: int = MAX_STEP
    points: int | None = None
    limit: int = 10_000


def write(tx: Tx, run: Run, batch: Mapping[str, Column]) -> None:
    """Store points of the run's current attempt; no column is empty.

    Raises RunLimit for too many keys.
    """
    if not batch:
        return
    known = dict(tx.all(_find, run=run.id, attempt=run.attempt, keys=dump(list(batch))))
    missing = [key for key in batch if key not in known]
    if missing:
        _check_keys(tx, run, len(missing))
    for key in missing:
        row = tx.first(_add, run_id=run.id, attempt=run.attempt, key=key, start_step=run.start_step)
        assert row is not None
        known[key] = row[0]
    ordered = {key: points.ordered(column) for key, column in batch.items()}
    for key, column in ordered.items():
        chunks.put(tx, known[key], column)
    _set_latest(tx, run, ordered)


def _check_keys(tx: Tx, run: Run, new: int) -> None:
    row = tx.first(_keys, run=run.id)
    if row is not None and row[0] + new > MAX_KEYS * min(max(1, run.attempt), MAX_KEYED_ATTEMPTS):
        raise RunLimit(
            f"A run may have at most {MAX_KEYS:,} metric keys; put what varies into the values.",
            errors=[{"pointer": "/metrics", "detail": "too many keys"}],
        )


def _set_latest(tx: Tx, run: Run, ordered: Mapping[str, Column]) -> None:
    rows = []
    for key, (steps, values, wall_times) in ordered.items():
        value, wall_time = values[-1], wall_times[-1]
        rows.append(
            _put_latest(
                run_id=run.id,
                key=key,
                step=steps[-1],
                value=None if math.isnan(value) else value,
                wall_time=None if math.isnan(wall_time) else wall_time,
            )
        )
    tx.many(_put_latest, rows)


def begun(tx: Tx, run: Run) -> bool:
    """Return True if the run's current attempt has reported any points."""
    return tx.first(_begun, run=run.id, attempt=run.attempt) is not None


def branch(tx: Tx, run: Run) -> None:
    """Let the run's attempt begin at its `start_step`, with the latest values up to there."""
    tx.send(_set_branch, run=run.id, of_attempt=run.attempt, start=run.start_step)
    superseded = {row.key for row in latest(tx, run.id) if row.step > run.start_step}
    if not superseded:
        return
    tx.many(_forget_latest, [_forget_latest(run=run.id, key=key) for key in superseded])
    for key, ranges in _curves(tx, run, None, 0, MAX_STEP, own=True):
        for superseded_range in ranges if key in superseded else ():
            last = chunks.last(tx, superseded_range.series_id, superseded_range.high)
            if last.steps:  # a lower step does not replace a higher one
                _set_latest(tx, run, {key: last})


def latest(tx: Tx, run_id: str) -> list[MetricLatestRow]:
    """Return the latest value of each key of a run, by key."""
    return tx.all(_latest_of, run=run_id)


def series(
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
    curves = _all(tx, run_ids, keys, window, raw)
    if most is not None and most < chunks.size_of(tx, (span for *_, of in curves for span in of)):
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


def ranges(
    tx: Tx, run_ids: Sequence[str], keys: Sequence[str] | None, low: int, high: int
) -> list[tuple[str, str, list[Range]]]:
    """Return run, key and surviving ranges of each curve. Raises NotFound, InvalidInput."""
    curves = _all(tx, run_ids, keys, Window(low, high), raw=False)
    return [(run_id, key, of_key) for run_id, key, _, of_key in curves]


def _all(
    tx: Tx, run_ids: Sequence[str], keys: Sequence[str] | None, window: Window, raw: bool
) -> list[tuple[str, str, int | None, list[Range]]]:
    curves = []
    for run_id in dict.fromkeys(run_ids):
        curves += [(run_id, *curve) for curve in _series_of(tx, run_id, keys, window, raw)]
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
        column, downsampled = chunks.overview(tx, ranges, window.points)
        return Series(run_id, key, attempt, *column, downsampled, None)
    column = chunks.page(tx, ranges, window.limit + 1)
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


def _series_of(
    tx: Tx, run_id: str, keys: Sequence[str] | None, window: Window, raw: bool
) -> list[tuple[str, int | None, list[Range]]]:
    """Return key, attempt and ranges of each curve of a run, oldest range first."""
    low, high = window.from_step, window.to_step
    if raw:
        return [
            (part.key, part.attempt, [Range(part.series_id, low, high)] if low <= high else [])
            for part in _parts(tx, run_id, keys)
        ]
    curves = _curves(tx, _found(tx, run_id), keys, low, high)
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
        run_id, _ = checkpoints.origin(tx, checkpoints.get(tx, run.source_checkpoint_id))
        branch, run = run.source_attempt, _found(tx, run_id)
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


def _found(tx: Tx, run_id: str) -> Run:
    run = tx.first(_run_by_id, run_id)
    if run is None:
        raise NotFound(f"There is no run {run_id}.")
    return run
