"""Change notifications: topics that wake their subscribers after a commit.

A subscriber is told only *that* something changed and reads the rest from the database
at its own pace, so a slow one holds one flag and no queue. Topics are ids: of an
experiment, of a run, or the constant `SUPERVISOR`.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from app.db.current_principal import get_principal

SUPERVISOR = "supervisor"


class Collector:
    """The topics of one kind that changed since they were last taken.

    `event` is set while there are any. A reader that is slow holds each topic once.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._owner = get_principal().topics
        self.event = asyncio.Event()
        # What changed is not known, so all may have.
        self.lost = False
        self._topics: dict[str, None] = {}

    def add(self, topic: str) -> None:
        """Remember a topic that changed, if it is of this kind."""
        if topic.startswith(self.prefix):
            self._topics[topic] = None
            self.event.set()
        elif topic in self._owner:  # its owner's rights are read again
            self.lost = True
            self.event.set()

    def take(self, most: int) -> list[str]:
        """Return and forget the first `most` topics, in the order in which they changed."""
        taken = list(self._topics)[:most]
        for topic in taken:
            del self._topics[topic]
        if not self._topics and not self.lost:
            self.event.clear()
        return taken

    def take_lost(self) -> bool:
        """Return True if all topics may have changed, and forget it."""
        lost, self.lost = self.lost, False
        return lost


class Changes:
    """Topics and the events that wake on them. Used on the event loop only."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._collectors: set[Collector] = set()

    @property
    def subscribers(self) -> int:
        """Return how many follow a run, an experiment or a list now: viewers, mostly."""
        return sum(map(len, self._waiting.values())) + len(self._collectors)

    def publish(self, topics: Iterable[str]) -> None:
        """Wakes every subscriber of these topics."""
        for topic in topics:
            for event in self._waiting.get(topic, ()):
                event.set()
            for collector in self._collectors:
                collector.add(topic)

    def publish_all(self) -> None:
        """Wakes everybody: what changed is not known."""
        for events in self._waiting.values():
            for event in events:
                event.set()
        for collector in self._collectors:
            collector.lost = True
            collector.event.set()

    @contextmanager
    def collect(self, prefix: str) -> Iterator[Collector]:
        """Return a collector of the topics that begin with `prefix` and change meanwhile."""
        collector = Collector(prefix)
        self._collectors.add(collector)
        try:
            yield collector
        finally:
            self._collectors.discard(collector)

    @contextmanager
    def subscribe(self, *topics: str) -> Iterator[asyncio.Event]:
        """Return an event that is set whenever one of the topics changes.

        Clear it *before* reading, so that a change during the read wakes again. It is set as well
        when the subscriber's token is revoked, or its user's memberships change.
        """
        event = asyncio.Event()
        topics += get_principal().topics
        for topic in topics:
            self._waiting.setdefault(topic, set()).add(event)
        try:
            yield event
        finally:
            for topic in topics:
                self._waiting[topic].discard(event)
                if not self._waiting[topic]:
                    del self._waiting[topic]
