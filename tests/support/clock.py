"""The wall clock of this process, set to another time while durations go on as they are.

wall = WallClock(monkeypatch)
wall.shift(hours=2)

And what is soon, on a machine that others use as well.

assert is_soon(time.monotonic() - began, 2)
"""

import time
from datetime import datetime, timedelta, tzinfo

import pytest

from app.domain import ids

TURNS, USUAL_SECONDS = 10_000_000, 0.25
"""Of an empty loop, and how long an idle machine takes for it."""


def slowness() -> float:
    """Return how many times longer than on an idle machine a computation takes now, at least 1."""
    began = time.monotonic()
    for _ in range(TURNS):
        pass
    return max(1.0, (time.monotonic() - began) / USUAL_SECONDS)


def is_soon(took: float, seconds: float) -> bool:
    """Return True if `took` is less than `seconds`, which are promised of an idle machine.

    Only where it is more is the machine measured: one at a quarter of its speed may take four
    times as long, and what waits for a timeout or for another's work is late there as well.
    """
    return took < seconds or took < seconds * slowness()


class WallClock:
    """What `timestamp()`, and with it every time on record, follows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._off = timedelta()
        clock = self

        class Shifted(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.now(tz) + clock._off

        monkeypatch.setattr(ids, "datetime", Shifted)

    def shift(self, hours: float) -> None:
        """Set the clock forward, or back."""
        self._off += timedelta(hours=hours)
