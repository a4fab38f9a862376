"""Curves of metrics as GraphQL can say them: lists, and null for what is no finite number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from app.db import listing
from app.db.rows import MetricLatestRow
from app.db.sql import Tx
from app.domain.filters import MAX_BUCKETS, MAX_KEYS, MAX_LATEST, MAX_POINTS, MIN_POINTS
from app.domain.points import MAX_STEP, special_name
from app.errors import InvalidInput
from app.graphql.budget import OBJECT, VALUE, Budget, TooLarge
from app.graphql.filters import check_text
from app.services import overviews
from app.services.curves import Series, Window, special_values
from app.services.curves import read as read_curves

POINT = 3 * VALUE
BUCKET = 6 * VALUE


class Latest(NamedTuple):
    """One Metric."""

    key: str
    step: int
    value: float | None
    special: str | None
    wall_time: float | None


class Special(NamedTuple):
    """One SpecialValue."""

    step: int
    value: str


@dataclass(frozen=True)
class SpecialCount:
    """One SpecialCount."""

    bucket: int
    value: str
    count: int


class Curve(NamedTuple):
    """One MetricSeries."""

    key: str
    steps: list[int]
    values: list[float | None]
    wall_times: list[float | None]
    downsampled: bool
    special: list[Special]


class Band(NamedTuple):
    """One MetricBand."""

    key: str
    steps: list[int]
    means: list[float | None]
    lows: list[float | None]
    highs: list[float | None]
    counts: list[int]
    special: list[SpecialCount]
    wall_times: list[float | None]


class Buckets(NamedTuple):
    """The arguments of `metricBands`, checked."""

    from_step: int | None
    to_step: int | None
    number: int


def window(from_step: int | None, to_step: int | None, points: int) -> Window:
    """Return the range of points to read. Raises InvalidInput."""
    low, high = _range(from_step, to_step)
    if not MIN_POINTS <= points <= MAX_POINTS:
        raise InvalidInput(f"`points` must be {MIN_POINTS} to {MAX_POINTS:,}.")
    return Window(low, high, points)


def range_of(from_step: int | None, to_step: int | None, buckets: int) -> Buckets:
    """Return the buckets to read. Raises InvalidInput."""
    _range(from_step, to_step)
    if not MIN_POINTS <= buckets <= MAX_BUCKETS:
        raise InvalidInput(f"`buckets` must be {MIN_POINTS} to {MAX_BUCKETS:,}.")
    return Buckets(from_step, to_step, buckets)


def _range(from_step: int | None, to_step: int | None) -> tuple[int, int]:
    low = 0 if from_step is None else from_step
    high = MAX_STEP if to_step is None else to_step
    if not 0 <= low <= high <= MAX_STEP:
        raise InvalidInput("`fromStep` and `toStep` must be steps, and the first not the greater.")
    return low, high


def check_keys(keys: list[str] | None) -> tuple[str, ...] | None:
    """Return the metrics to read, each once; None is all. Raises InvalidInput."""
    if keys is None:
        return None
    if len(keys) > MAX_KEYS:
        raise InvalidInput(f"Name at most {MAX_KEYS} `keys` at once.")
    return tuple(dict.fromkeys(map(check_text, keys)))


def latest(
    keys: tuple[str, ...] | None, budget: Budget, tx: Tx, run_ids: list[str]
) -> list[list[Latest]]:
    """Return the latest values of each run. Raises TooLarge."""
    try:
        by_run = listing.latest_metrics(tx, run_ids, MAX_LATEST, keys)
    except listing.TooMany:
        raise TooLarge(
            f"These runs have more than {MAX_LATEST:,} metrics: name those that you need "
            "(`metrics(keys: …)`), or ask for fewer runs at once."
        ) from None
    budget.charge(sum(map(len, by_run)) * OBJECT)
    return [list(map(_latest, rows)) for rows in by_run]


def _latest(row: MetricLatestRow) -> Latest:
    value = row.value
    if value is not None and math.isfinite(value):
        return Latest(row.key, row.step, value, None, row.wall_time)
    special = special_name(math.nan if value is None else value)
    return Latest(row.key, row.step, None, special, row.wall_time)


def read(
    keys: tuple[str, ...] | None, window: Window, budget: Budget, tx: Tx, run_ids: list[str]
) -> list[list[Curve]]:
    """Return the curves of each run. No keys are no curves; None is all keys."""
    curves: dict[str, list[Curve]] = {run_id: [] for run_id in run_ids}
    for series in read_curves(tx, run_ids, keys, window) if keys != () else ():
        curves[series.run_id].append(curve(series, budget))
    return list(curves.values())


def curve(series: Series, budget: Budget) -> Curve:
    """Return one series as GraphQL can say it, charged to the budget."""
    budget.charge(len(series.steps) * POINT)
    special = [Special(*point) for point in special_values(series)]
    budget.charge(len(special) * OBJECT)
    return Curve(
        series.key,
        list(series.steps),
        _finite(series.values),
        _finite(series.wall_times),
        series.downsampled,
        special,
    )


def bands(
    keys: tuple[str, ...] | None, buckets: Buckets, budget: Budget, tx: Tx, run_ids: list[str]
) -> list[list[Band]]:
    """Return the bands of each run. No keys are no bands; None is all keys."""
    by_run: dict[str, list[Band]] = {id_of_run: [] for id_of_run in run_ids}
    if keys == ():
        return list(by_run.values())
    for run_id, key, row in overviews.metric_bands(tx, run_ids, keys, *buckets):
        budget.charge(len(row.steps) * BUCKET + len(row.special) * OBJECT)
        band = Band(
            key, list(row.steps), _finite(row.means), _finite(row.lows), _finite(row.highs),
            list(row.counts),
            [SpecialCount(at, special_name(value), n) for at, value, n in row.special],
            _finite(row.wall_times),
        )  # fmt: skip
        by_run[run_id].append(band)
    return list(by_run.values())


def _finite(values: Sequence[float]) -> list[float | None]:
    if math.isfinite(sum(values)):
        return list(values)
    return [value if math.isfinite(value) else None for value in values]
