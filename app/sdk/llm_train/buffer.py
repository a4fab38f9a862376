"""A buffer of the training's reports since the last batch, fast to fill and sent in batches."""

import math
import os
import select
import sys
import threading
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple

from llm_train.values import NOT_FINITE

# What the service takes in one report.
BATCH_POINTS = 1_000
BATCH_CHECKPOINTS = 100

PIPE_BYTES = 4096  # what a pipe takes at once, or not at all

BUFFERED_POINTS = 100_000  # kept while no batch can be made; then the oldest give way


class Point(NamedTuple):
    """One value of one metric; `wall_time` in unix seconds."""

    key: str
    step: int
    value: float
    wall_time: float


class Buffer:
    """Points and news. Thread-safe, and re-entrant: a signal handler may log, too."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._points: deque[Point] = deque(maxlen=BUFFERED_POINTS)
        self._news: dict[str, Any] = {}
        self._overflowed = False
        self._total = 0  # not known

    def __len__(self) -> int:
        """Return the number of points that wait."""
        return len(self._points)

    @property
    def empty(self) -> bool:
        return not (self._points or self._news)

    @property
    def half_full(self) -> bool:
        return 2 * len(self._points) >= (self._points.maxlen or 0)

    def add(self, points: list[Point], **news: Any) -> None:
        """Keep points, and fields of the next report that replace their older values.

        Hyperparameters join those that wait; of steps of the training loop the highest counts.
        """
        with self._lock:
            self._points.extend(points)
            self._advance(news)
            if "effective_hyperparams" in news:
                waiting = self._news.get("effective_hyperparams", {})
                news["effective_hyperparams"] = {**waiting, **news["effective_hyperparams"]}
            self._news.update(news)
            if len(self._points) == self._points.maxlen and not self._overflowed:
                self._overflowed = True
                warn(
                    f"nothing could be sent for long: only the newest {BUFFERED_POINTS} points wait"
                )

    def _advance(self, news: dict[str, Any]) -> None:
        """Leave of `step` only what moves the progress: one beyond the total is on another axis."""
        total = self._total = news.get("total_steps", self._total)
        waiting = self._news.get("step", -1)
        if total and waiting > total:
            del self._news["step"]
            waiting = -1
        if "step" in news and (news["step"] <= waiting or (total and news["step"] > total)):
            del news["step"]

    def add_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the news of a committed checkpoint."""
        with self._lock:
            self._news.setdefault("checkpoints", []).append(checkpoint)

    def take(self) -> dict[str, Any]:
        """Return the fields of the next report, as many as it may hold; {} when there are none."""
        with self._lock:
            count = min(len(self._points), BATCH_POINTS)
            points = [self._points.popleft() for _ in range(count)]
            body, self._news = self._news, {}
            saved = body.get("checkpoints", [])
            if len(saved) > BATCH_CHECKPOINTS:
                body["checkpoints"] = saved[:BATCH_CHECKPOINTS]
                self._news["checkpoints"] = saved[BATCH_CHECKPOINTS:]
            if self._points and "step" in body:
                # Until its points follow, the service takes the highest step of those here.
                self._news["step"] = body.pop("step")
            for last in ("finished", "closing"):
                if not self.empty and body.pop(last, False):
                    self._news[last] = True  # last words come last
        if points:
            body["metrics"] = _columns(points)
        return body


def warn(message: str) -> None:
    """Write one line to stderr, or nothing where that is a pipe that is full or has no reader.

    Past `sys.stderr` where it is a file: a daemon thread that waits in there holds its lock, on
    which Python aborts, or waits for ever, at its end.
    """
    line = f"llm-train reporter: {message}\n"
    with suppress(Exception):
        try:
            number = sys.stderr.fileno()
        except (OSError, ValueError):  # no file, in a notebook
            sys.stderr.write(line)
            return
        if select.select([], [number], [], 0)[1]:
            os.write(number, line.encode(errors="replace")[:PIPE_BYTES])


def _columns(points: list[Point]) -> dict[str, dict[str, list[Any]]]:
    columns: dict[str, dict[str, list[Any]]] = {}
    for key, step, value, wall_time in points:
        column = columns.get(key)
        if column is None:
            column = columns[key] = {"steps": [], "values": [], "wall_times": []}
        column["steps"].append(step)
        column["values"].append(value if math.isfinite(value) else NOT_FINITE[str(value)])
        column["wall_times"].append(wall_time)
    return columns
