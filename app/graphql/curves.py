"""Curves of metrics as GraphQL can say them: lists, and null for what is no finite number."""

import math
from typing import Any, NamedTuple

from app.db import listing
from app.db.sql import Tx
from app.db.tables import MetricLatest
from app.domain.filters import MAX_KEYS, MAX_LATEST, MAX_POINTS, MIN_POINTS
from app.domain.points import MAX_STEP
from app.errors import InvalidInput
from app.graphql.budget import OBJECT, VALUE, Budget, TooLarge
from app.graphql.filters import plain
from app.services import metrics
from app.services.metrics import Window

POINT = 3 * VALUE


class Curve(NamedTuple):
    """One MetricSeries."""

    key: str
    steps: list[int]
    values: list[float | None]
    wall_times: list[float | None]
    downsampled: bool


def window(from_step: int | None, to_step: int | None, points: int) -> Window:
    """Return the range of points to read. Raises InvalidInput."""
    low = 0 if from_step is None else from_step
    high = MAX_STEP if to_step is None else to_step
    if not 0 <= low <= high <= MAX_STEP:
        raise InvalidInput("`fromStep` and `toStep` must be steps, and the first not the greater.")
    if not MIN_POINTS <= points <= MAX_POINTS:
        raise InvalidInput(f"`points` must be {MIN_POINTS} to {MAX_POINTS:,}.")
    return Window(low, high, points)


def named(keys: list[str] | None) -> tuple[str, ...] | None:
    """Return the metrics to read, each once; None is all. Raises InvalidInput."""
    if keys is None:
        return None
    if len(keys) > MAX_KEYS:
        raise InvalidInput(f"Name at most {MAX_KEYS} `keys` at once.")
    return tuple(dict.fromkeys(map(plain, keys)))


def latest(
    keys: tuple[str, ...] | None, budget: Budget, tx: Tx, run_ids: list[str]
) -> list[list[MetricLatest]]:
    """Return the latest values of each run. Raises TooLarge."""
    try:
        found = listing.latest_metrics(tx, run_ids, MAX_LATEST, keys)
    except listing.TooMany:
        raise TooLarge(
            f"These runs have more than {MAX_LATEST:,} metrics: name those that you need "
            "(`metrics(keys: …)`), or ask for fewer runs at once."
        ) from None
    budget.charge(sum(map(len, found)) * OBJECT)
    return found


def read(
    keys: tuple[str, ...] | None, asked: Window, budget: Budget, tx: Tx, run_ids: list[str]
) -> list[list[Curve]]:
    """Return the curves of each run. No keys are no curves; None is all keys."""
    found: dict[str, list[Curve]] = {each: [] for each in run_ids}
    for one in metrics.series(tx, run_ids, keys, asked) if keys != () else ():
        budget.charge(len(one.steps) * POINT)
        curve = Curve(
            one.key, list(one.steps), _finite(one.values), _finite(one.wall_times), one.downsampled
        )
        found[one.run_id].append(curve)
    return list(found.values())


def _finite(values: Any) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]
