"""Checks what a training loop logs: a bad value is dropped with one warning, the rest is kept."""

import time
from collections.abc import Mapping
from typing import Any

from llm_train.buffer import Point, warn
from llm_train.manifest import MAX_METRICS
from llm_train.values import (
    MAX_OBJECT_BYTES,
    InvalidValue,
    describe,
    json_size,
    read_count,
    read_key,
    read_number,
    to_json,
)

MAX_EFFECTIVE_BYTES = MAX_OBJECT_BYTES
MAX_KEYS = 10_000  # metrics of a run
MAX_WARNINGS = 100  # of values that are dropped


class LoggedValues:
    """Turns the arguments of `Reporter.log` and `effective` into fields of a report.

    With `strict` it raises ValueError for the first bad value, instead of a warning.
    """

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._last_step = 0
        self._keys: set[str] = set()
        self._sizes: dict[str, int] = {}  # bytes of each reported hyperparameter
        self._warned: set[Any] = set()

    def read_log(
        self, step: Any, metrics: Mapping[Any, Any], total_steps: Any
    ) -> tuple[list[Point], dict[str, Any]]:
        """Return the points at this step, and the fields that tell the progress."""
        progress: dict[str, Any] = {}
        if total_steps is not None:
            try:
                progress["total_steps"] = read_count(total_steps)
            except InvalidValue as error:
                self._drop("total_steps", f"total_steps {_predicate(error)}")
        try:
            at = read_count(step)
        except InvalidValue as error:
            self._drop("step", f"step {_predicate(error)}: its metrics are dropped")
            return [], progress
        self._last_step = progress["step"] = at
        now, points = time.time(), []
        for key, value in metrics.items():
            try:
                self._check_key(key)
                points.append(Point(key, at, read_number(value), now))
            except InvalidValue as error:
                self._drop(key, f"metric {describe(key)} is dropped: {error}")
        return points, progress

    def read_hyperparams(self, values: Mapping[Any, Any]) -> dict[str, Any]:
        """Return hyperparameters as JSON, as many as fit beside those of earlier calls."""
        used: dict[str, Any] = {}
        sizes = dict(self._sizes)
        for key, value in values.items():
            try:
                entry = to_json({key: value})
                added = {name: json_size(entry) - 1 for name in entry}  # one brace is the comma
                total = 1 + sum((sizes | added).values())
                if total > MAX_EFFECTIVE_BYTES:
                    raise InvalidValue(
                        f"hyperparameters must not be larger than {MAX_EFFECTIVE_BYTES:,} bytes "
                        f"in all, and this makes {total:,}"
                    )
                used |= entry
                sizes |= added
            except InvalidValue as error:
                self._drop(("effective", key), f"hyperparameter {key!r:.60} is dropped: {error}")
        self._sizes = sizes
        return used

    def read_metrics(self, metrics: Mapping[Any, Any]) -> dict[str, float]:
        """Return the metrics of a checkpoint; a bad one is dropped."""
        read: dict[str, float] = {}
        for key, value in metrics.items():
            try:
                if len(read) >= MAX_METRICS:
                    raise InvalidValue(f"a checkpoint has at most {MAX_METRICS} metrics")
                read[read_key(key)] = read_number(value)
            except InvalidValue as error:
                about = f"metric {describe(key)} of a checkpoint is dropped: {error}"
                self._drop(("checkpoint", describe(key)), about)
        return read

    def read_checkpoint_step(self, step: Any) -> int:
        """Return a checkpoint's step, or the last logged one for a bad value: no save is lost."""
        try:
            return read_count(step)
        except InvalidValue as error:
            at = self._last_step
            self._drop("checkpoint", f"checkpoint(): step {_predicate(error)}; it gets step {at}")
            return at

    def _check_key(self, key: Any) -> None:
        """Raise InvalidValue for a bad name of a metric, or one too many."""
        if key not in self._keys:
            read_key(key)
            if len(self._keys) >= MAX_KEYS:
                raise InvalidValue(f"a run has at most {MAX_KEYS:,} metrics")
            self._keys.add(key)

    def _drop(self, about: Any, message: str) -> None:
        """Warn once that a value is dropped. Raises ValueError if strict."""
        if self._strict:
            raise ValueError(message)
        if about not in self._warned and len(self._warned) <= MAX_WARNINGS:
            self._warned.add(about)
            if len(self._warned) > MAX_WARNINGS:
                message = "more values are dropped, of which no more is said"
            warn(message)


def _predicate(error: InvalidValue) -> str:
    """Return the error without its subject."""
    return str(error).removeprefix("it ")
