"""Metric points: written in batches, read as columns, latest values at once.

A series is one key of one attempt of one run. NaN is stored as NULL; infinities stay.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import bindparam, insert, select, text

from app.store.sql import Statement, Tx, columns, every
from app.store.tables import MetricLatest, MetricPoint, MetricSeries, Run

_series = columns(MetricSeries)
_point = columns(MetricPoint)
_latest = columns(MetricLatest)

_SERIES_OF = Statement[tuple[str, int]](
    select(_series.key, _series.id).where(
        _series.run_id == bindparam("run"), _series.attempt == bindparam("attempt")
    )
)
_ADD_SERIES = Statement[tuple[int]](
    insert(MetricSeries)
    .values({name: bindparam(name) for name in ("run_id", "attempt", "key", "start_step")})
    .returning(_series.id)
)
# The last value of a step wins; the same batch again writes the same values.
_ADD_POINT = Statement[Any](
    text(
        "INSERT INTO metric_point (series_id, step, value, wall_time)"
        " VALUES (:series_id, :step, :value, :wall_time) ON CONFLICT (series_id, step)"
        " DO UPDATE SET value = excluded.value, wall_time = excluded.wall_time"
    )
)
_SET_LATEST = Statement[Any](
    text(
        "INSERT INTO metric_latest (run_id, key, step, value, wall_time)"
        " VALUES (:run_id, :key, :step, :value, :wall_time) ON CONFLICT (run_id, key)"
        " DO UPDATE SET step = excluded.step, value = excluded.value,"
        " wall_time = excluded.wall_time WHERE excluded.step >= metric_latest.step"
    )
)
_LATEST_OF = Statement(
    every(MetricLatest).where(_latest.run_id == bindparam("run")).order_by(_latest.key),
    MetricLatest,
)


class Column(NamedTuple):
    """Points of one key: equally long columns. NaN is None; wall times may be missing."""

    steps: Sequence[int]
    values: Sequence[float | None]
    wall_times: Sequence[float | None]


def write(tx: Tx, run: Run, batch: Mapping[str, Column]) -> None:
    """Stores a batch of points of the run's present attempt."""
    series = dict(tx.all(_SERIES_OF, run=run.id, attempt=run.attempt))
    for key, column in batch.items():
        if not column.steps:
            continue
        series_id = series.get(key)
        if series_id is None:
            added = tx.first(
                _ADD_SERIES,
                run_id=run.id, attempt=run.attempt, key=key, start_step=run.start_step,
            )  # fmt: skip
            assert added is not None
            series_id = added[0]
        tx.many(
            _ADD_POINT,
            [
                {"series_id": series_id, "step": step, "value": value, "wall_time": wall_time}
                for step, value, wall_time in zip(*column, strict=True)
            ],
        )
        last = max(range(len(column.steps)), key=column.steps.__getitem__)
        tx.run(
            _SET_LATEST,
            run_id=run.id, key=key, step=column.steps[last], value=column.values[last],
            wall_time=column.wall_times[last],
        )  # fmt: skip


def latest(tx: Tx, run_id: str) -> list[MetricLatest]:
    """The latest value of each key of a run, by key."""
    return tx.all(_LATEST_OF, run=run_id)
