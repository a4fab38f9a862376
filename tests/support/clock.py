"""The wall clock of this process, set to another time while durations go on as they are.

wall = WallClock(monkeypatch)
wall.shift(hours=2)
"""

from datetime import datetime, timedelta, tzinfo

import pytest

from app.domain import ids


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
