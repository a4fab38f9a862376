"""The memory of answers, counted while they are made.

A `Budget` belongs to one operation, or to one answer of a subscription. What is read from the
database and what is put into the answer are charged to it, in bytes as far as they can be known
cheaply; beyond `limits.ANSWER_BYTES` the operation ends with TOO_COMPLEX. All budgets of a server
draw on one `Memory`, which answers BUSY beyond `limits.ALL_ANSWERS_BYTES`. A budget is released
once its answer has been sent, since until then it is in memory.
"""

import threading
from collections.abc import Iterable
from functools import lru_cache
from operator import attrgetter
from typing import Any, cast

from sqlalchemy import Text

from app.db.sql import columns
from app.errors import Busy, ServiceError
from app.graphql import limits

OBJECT = 200
"""Bytes of an object in an answer, beside its values."""
VALUE = 24
"""Bytes of a number, or of a text beside its characters."""
ROW = 1_000
"""Bytes of a row as it is read, beside its long texts."""


class TooLarge(ServiceError):
    """The answer would be larger than one answer may be."""

    status, code, title = 422, "too_complex", "Too complex"


class Memory:
    """Bytes of all answers under way, and objects of all live subscriptions. Thread-safe."""

    def __init__(self) -> None:
        self.bytes = 0
        self.watched = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Take `size` bytes. Raises Busy when there are not so many left."""
        with self._lock:
            if self.bytes + size > limits.ALL_ANSWERS_BYTES:
                raise Busy("Too many large answers are under way; try again.", retry_after=1)
            self.bytes += size

    def release(self, size: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self.bytes -= size

    def watch(self, objects: int) -> None:
        """Count a subscription whose answers hold so many objects. Raises Busy."""
        if self.watched + objects > limits.ALL_WATCHED:
            raise Busy(
                "The subscriptions of this server watch as many objects as they may; "
                "select fewer, or try again when others have ended.",
                retry_after=5,
            )
        self.watched += objects

    def unwatch(self, objects: int) -> None:
        """Stop counting a subscription that has ended."""
        self.watched -= objects


class Budget:
    """The resources that one answer has used."""

    def __init__(self, memory: Memory) -> None:
        self.used = 0
        self.refused: ServiceError | None = None
        self._memory = memory
        self._lock = threading.Lock()
        self._is_released = False

    def charge(self, size: int) -> None:
        """Count `size` more bytes. Raises TooLarge or Busy, from then on each time."""
        with self._lock:
            if self._is_released:  # by a read that goes on in its thread though nobody waits for it
                return
            if self.refused is None:
                self.refused = self._refuse(size)
            if self.refused is not None:
                raise self.refused.with_traceback(None)
            self.used += size

    def _refuse(self, size: int) -> ServiceError | None:
        if self.used + size > limits.ANSWER_BYTES:
            return TooLarge(
                f"The answer is larger than {limits.ANSWER_BYTES // 1_000_000} MB: "
                "ask for smaller pages, or for fewer fields."
            )
        try:
            self._memory.take(size)
        except Busy as busy:
            return busy
        return None

    def charge_rows(self, table: type[Any], rows: Iterable[Any]) -> None:
        """Count rows of a table that were read (None where there was none)."""
        there = [row for row in rows if row is not None]
        size = ROW * len(there)
        for name in _long_texts(cast(Any, table), cast(Any, type(there[0]))) if there else ():
            size += sum(map(len, filter(None, map(attrgetter(name), there))))
        self.charge(size)

    def release(self) -> None:
        """Give back everything, after the answer was sent or given up. May be repeated."""
        with self._lock:
            self._is_released = True
            self._memory.release(self.used)
            self.used = 0


@lru_cache(512)
def _long_texts(table: Any, row: Any) -> list[str]:
    """Return those columns of a row that may be long: JSON, goals and notes."""
    return [
        column.name
        for column in columns(table)
        if isinstance(column.type, Text) or column.name in ("goal", "notes", "reason")
        if hasattr(row, column.name)
    ]
