"""Lines of `wandb-history.jsonl` and `wandb-events.jsonl` as points.

    {"_step": 41, "_timestamp": 1.7e9, "loss": 0.5, "train/global_step": 40}

`_step` counts the calls of `wandb.log`. Where a trainer logs the step of its training loop as well
(Hugging Face, Lightning), points are at that one; so are rows of such a run that lack it.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.domain.points import MAX_STEP
from app.domain.reports import SYSTEM
from app.errors import InvalidInput
from app.services.tracking import Point

LOOP_STEPS = ("train/global_step", "trainer/global_step", "global_step")
"""Metrics that are the step of the training loop."""
MAX_KEY = 200
_DEPTH = 4
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_LAST_SECOND = 253_402_300_800


def history_points(lines: Iterable[str], loop_step: int | None) -> Iterator[Point]:
    """Yield the points of a history.

    Args:
        lines: one JSON object each.
        loop_step: the newest step of the training loop, if the run has logged one before.

    Raises:
        InvalidInput: a line is no JSON object.
    """
    for row in _rows(lines):
        own = next((step for key in LOOP_STEPS if (step := _step(row.get(key))) is not None), None)
        loop_step = own if own is not None else loop_step
        step = loop_step if loop_step is not None else _step(row.get("_step")) or 0
        yield from _points(row, step, "")


def system_points(lines: Iterable[str], step: int) -> Iterator[Point]:
    """Yield the points of the machine's metrics, at the run's step. Raises InvalidInput."""
    for row in _rows(lines):
        named = {key.removeprefix("system."): value for key, value in row.items()}
        yield from _points(named, step, SYSTEM)


def summary(lines: Iterable[str]) -> dict[str, float]:
    """Return the numbers of the newest summary. Raises InvalidInput."""
    newest: dict[str, Any] = {}
    for row in _rows(lines):
        newest = row
    return dict(_numbers(newest, "", _DEPTH))


def _rows(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise InvalidInput("A line of the stream is no JSON.") from None
        if not isinstance(row, dict):
            raise InvalidInput("A line of the stream is no JSON object.")
        yield row


def _points(row: Mapping[str, Any], step: int, prefix: str) -> Iterator[Point]:
    seconds = _number(row.get("_timestamp"))
    wall_time = seconds if seconds is not None and 0 <= seconds < _LAST_SECOND else None
    for key, value in _numbers(row, prefix, _DEPTH):
        yield Point(key, step, value, wall_time)


def _numbers(row: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, float]]:
    """Yield the numbers in an object by key; of `{"a": {"b": 1}}` that is `a.b`."""
    for key, value in row.items():
        name = prefix + key
        if key.startswith("_") or not key or not name.isprintable() or len(name) > MAX_KEY:
            continue
        if isinstance(value, dict):
            if "_type" not in value and depth:  # else an image, a table, a histogram
                yield from _numbers(value, f"{name}.", depth - 1)
        elif (number := _number(value)) is not None:
            yield name, number


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return _WORDS.get(value)
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return None


def _step(value: Any) -> int | None:
    number = _number(value)
    if number is None or not 0 <= number < MAX_STEP or number != math.floor(number):
        return None
    return int(number)
