"""Curves of metrics as GraphQL can say them: lists, and null for what is no finite number."""

import math
from typing import Any, NamedTuple

from app.domain.points import MAX_STEP
from app.errors import InvalidInput
from app.services import metrics
from app.services.metrics import Window
from app.store.sql import Tx

LEAST_POINTS, MOST_POINTS = 10, 10_000


class Curve(NamedTuple):
    """One MetricSeries."""

    key: str
    steps: list[int]
    values: list[float | None]
    wall_times: list[float | None]
    downsampled: bool


def window(from_step: int | None, to_step: int | None, points: int) -> Window:
    """Which points are asked for. Raises InvalidInput."""
    low = 0 if from_step is None else from_step
    high = MAX_STEP if to_step is None else to_step
    if not 0 <= low <= high <= MAX_STEP:
        raise InvalidInput("`fromStep` and `toStep` must be steps, and the first not the greater.")
    if not LEAST_POINTS <= points <= MOST_POINTS:
        raise InvalidInput(f"`points` must be {LEAST_POINTS} to {MOST_POINTS:,}.")
    return Window(low, high, points)


def read(keys: list[str] | None, asked: Window, tx: Tx, run_ids: list[str]) -> list[list[Curve]]:
    """The curves of each run."""
    found: dict[str, list[Curve]] = {each: [] for each in run_ids}
    for one in metrics.series(tx, run_ids, keys, asked):
        curve = Curve(
            one.key, list(one.steps), _finite(one.values), _finite(one.wall_times), one.downsampled
        )
        found[one.run_id].append(curve)
    return list(found.values())


def _finite(values: Any) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]
