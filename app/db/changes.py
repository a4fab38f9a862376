"""Who waits for what: topics that wake their subscribers after a commit.

A subscriber is told only *that* something changed and reads the rest from the database
at its own pace, so a slow one holds one flag and no queue. Topics are ids: of an
experiment, of a run, or the constant `SUPERVISOR`.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

SUPERVISOR = "supervisor"


class Changes:
    """Topics and the events that wake on them. Used on the event loop only."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def publish(self, topics: Iterable[str]) -> None:
        """Wakes every subscriber of these topics."""
        for topic in topics:
            for event in self._waiting.get(topic, ()):
                event.set()

    def publish_all(self) -> None:
        """Wakes everybody: what changed is not known."""
        self.publish(list(self._waiting))

    @contextmanager
    def subscribe(self, *topics: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever one of the topics changes.

        Clear it *before* reading, so that a change during the read wakes again.
        """
        event = asyncio.Event()
        for topic in topics:
            self._waiting.setdefault(topic, set()).add(event)
        try:
            yield event
        finally:
            for topic in topics:
                self._waiting[topic].discard(event)
                if not self._waiting[topic]:
                    del self._waiting[topic]
