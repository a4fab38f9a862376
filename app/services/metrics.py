"""Metrics of runs, as trainers report them: points by series, and the latest value of each key.

A series is one key of one attempt of one run. `curves` puts a run's curves together from them.
"""

import math
from collections.abc import Mapping

from sqlalchemy import Executable, delete, func, insert, select, text, update

from app.db import chunk_ranges, chunks
from app.db.json_lists import one_of
from app.db.rows import MetricLatestRow
from app.db.sql import Tx, columns, dump, query, select_row, statement
from app.db.tables import MetricLatest, MetricSeries, Run
from app.domain import points
from app.domain.lifecycle import LAUNCHED, RunStatus
from app.domain.points import Column
from app.errors import RunLimit
from app.services import curves

MAX_KEYS = 10_000
MAX_KEYED_ATTEMPTS = 10
"""Attempts of a run for which as many keys are kept."""

_series = columns(MetricSeries)
_latest = columns(MetricLatest)


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
    *,
    run_id: str,
    key: str,
    step: int,
    value: float | None,
    wall_time: float | None,
    experiment_id: str | None,
) -> Executable:
    return text(
        "INSERT INTO metric_latest (run_id, key, step, value, wall_time, experiment_id)"
        " VALUES (:run_id, :key, :step, :value, :wall_time, :experiment_id)"
        " ON CONFLICT (run_id, key) DO UPDATE SET step = excluded.step, value = excluded.value,"
        " wall_time = excluded.wall_time, experiment_id = excluded.experiment_id"
        " WHERE excluded.step >= metric_latest.step"
    )


@query(MetricLatestRow)
def _latest_of(*, run: str) -> Executable:
    latest = select_row(MetricLatest, MetricLatestRow).where(_latest.run_id == run)
    return latest.order_by(_latest.key)


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
    ordered = {key: points.sort_column(column) for key, column in batch.items()}
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
    experiment_id = None if RunStatus(run.status) in LAUNCHED else run.experiment_id
    for key, (steps, values, wall_times) in ordered.items():
        value, wall_time = values[-1], wall_times[-1]
        rows.append(
            _put_latest(
                run_id=run.id,
                key=key,
                step=steps[-1],
                value=None if math.isnan(value) else value,
                wall_time=None if math.isnan(wall_time) else wall_time,
                experiment_id=experiment_id,
            )
        )
    tx.many(_put_latest, rows)


def has_begun(tx: Tx, run: Run) -> bool:
    """Return True if the run's current attempt has reported any points."""
    return tx.first(_begun, run=run.id, attempt=run.attempt) is not None


def branch(tx: Tx, run: Run) -> None:
    """Let the run's attempt begin at its `start_step`, with the latest values up to there."""
    tx.send(_set_branch, run=run.id, of_attempt=run.attempt, start=run.start_step)
    superseded = {row.key for row in list_latest(tx, run.id) if row.step > run.start_step}
    if not superseded:
        return
    tx.many(_forget_latest, [_forget_latest(run=run.id, key=key) for key in superseded])
    for key, ranges in curves.own_ranges(tx, run):
        for each in ranges if key in superseded else ():
            last = chunk_ranges.read_last(tx, each.series_id, each.high)
            if last.steps:  # a lower step does not replace a higher one
                _set_latest(tx, run, {key: last})


def list_latest(tx: Tx, run_id: str) -> list[MetricLatestRow]:
    """Return the latest value of each key of a run, by key."""
    return tx.all(_latest_of, run=run_id)
