"""What the training has said since the last batch, taken from it fast and handed on in batches."""

import math
import operator
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple

# What the service takes in one report.
BATCH_POINTS = 1_000
BATCH_CHECKPOINTS = 100
MAX_KEY_LENGTH = 200

BUFFERED_POINTS = 100_000  # kept while no batch can be made; then the oldest give way

_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


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

    def __len__(self) -> int:
        """How many points wait."""
        return len(self._points)

    @property
    def empty(self) -> bool:
        return not (self._points or self._news)

    @property
    def half_full(self) -> bool:
        return 2 * len(self._points) >= (self._points.maxlen or 0)

    def add(self, points: list[Point], **news: Any) -> None:
        """Keep points, and fields of the next report that replace their older values."""
        with self._lock:
            self._points.extend(points)
            self._news.update(news)
            if len(self._points) == self._points.maxlen and not self._overflowed:
                self._overflowed = True
                warn(
                    f"nothing could be sent for long: only the newest {BUFFERED_POINTS} points wait"
                )

    def announce(self, checkpoint: dict[str, Any]) -> None:
        """Keep the news of a committed checkpoint."""
        with self._lock:
            self._news.setdefault("checkpoints", []).append(checkpoint)

    def take(self) -> dict[str, Any]:
        """The fields of the next report, as much as one may hold; {} when there is nothing."""
        with self._lock:
            count = min(len(self._points), BATCH_POINTS)
            points = [self._points.popleft() for _ in range(count)]
            body, self._news = self._news, {}
            saved = body.get("checkpoints", [])
            if len(saved) > BATCH_CHECKPOINTS:
                body["checkpoints"] = saved[:BATCH_CHECKPOINTS]
                self._news["checkpoints"] = saved[BATCH_CHECKPOINTS:]
            if not self.empty and body.pop("finished", False):
                self._news["finished"] = True  # last words come last
        if points:
            body["metrics"] = _columns(points)
        return body


def read_points(step: int, metrics: dict[str, Any]) -> list[Point]:
    """The metrics of one step, now. Raises ValueError for a bad name or what is no number."""
    now = time.time()
    return [Point(key, step, _number(key, value), now) for key, value in metrics.items()]


def read_count(name: str, value: Any) -> int:
    """A step or a number of steps. Raises ValueError."""
    try:
        count = operator.index(value)
    except TypeError:
        count = -1
    if not 0 <= count < 2**63:
        raise ValueError(f"{name} must be a whole number from 0, not {value!r:.60}")
    return count


def warn(message: str) -> None:
    """One line for whoever reads the training's log."""
    with suppress(Exception):  # that may be nobody: a pipe whose reader is gone
        sys.stderr.write(f"llm-train reporter: {message}\n")


def _columns(points: list[Point]) -> dict[str, dict[str, list[Any]]]:
    columns: dict[str, dict[str, list[Any]]] = {}
    for key, step, value, wall_time in points:
        column = columns.get(key)
        if column is None:
            column = columns[key] = {"steps": [], "values": [], "wall_times": []}
        column["steps"].append(step)
        column["values"].append(value if math.isfinite(value) else _NOT_FINITE[str(value)])
        column["wall_times"].append(wall_time)
    return columns


def _number(key: str, value: Any) -> float:
    if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isprintable():
        raise ValueError(f"a metric's name must be 1 to 200 printable characters, not {key!r:.60}")
    try:
        if isinstance(value, str | bytes | bytearray):
            raise TypeError
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"metric {key!r} must be one number, not {value!r:.60}") from None
