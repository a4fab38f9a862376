"""Wrong tokens: how many an address may send, and how many of them are recorded.

A right token passes whatever came before it, so nobody is locked out by somebody else behind the
same proxy. Memory is bounded: of many addresses the oldest are forgotten.
"""

import time
from collections.abc import Callable

MOST = 20
"""Wrong tokens of an address within `SECONDS`; more are answered 429."""
SECONDS = 60.0
ADDRESSES = 1_000
RECORDED = 10
"""Entries of the audit within `SECONDS`, of all addresses."""


class FailedSignIns:
    """Counts of the current minute. Used on the event loop only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[str, int] = {}
        self._recorded = 0
        self._until = 0.0

    def count(self, address: str) -> bool:
        """Count one; return True if the address has sent too many."""
        self._begin_minute()
        count = self._counts.pop(address, 0) + 1
        while len(self._counts) >= ADDRESSES:
            del self._counts[next(iter(self._counts))]
        self._counts[address] = count
        return count > MOST

    def may_record(self) -> bool:
        """Return True if one more may be recorded."""
        self._begin_minute()
        self._recorded += 1
        return self._recorded <= RECORDED

    def _begin_minute(self) -> None:
        now = self._clock()
        if now >= self._until:
            self._until, self._recorded = now + SECONDS, 0
            self._counts.clear()
