"""One read on a PostgreSQL connection: it can be given up, or be a single statement."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from app.db.postgresql_connections import Connection


class GivenUp(Exception):
    """Nobody waits for this read any more."""


class Reading:
    """A read in a thread, that can be given up from another."""

    def __init__(self) -> None:
        self.given_up = False
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    @contextmanager
    def on(self, connection: Connection) -> Iterator[None]:
        """While the connection works for this read."""
        with self._lock:
            if self.given_up:
                raise GivenUp
            self._connection = connection
        try:
            yield
        except psycopg.Error:
            if self.given_up:
                raise GivenUp from None
            raise
        finally:
            with self._lock:  # not before the server has been told: the next read is not meant
                self._connection = None

    def end(self) -> None:
        """Ends its statement at the server. Blocks until it has ended."""
        while self._connection is not None:
            with self._lock, suppress(psycopg.Error):
                if self._connection is not None:
                    self._connection.cancel_safe(timeout=2)
            time.sleep(0.02)  # again: what a connection between two statements is told, it forgets


class AnotherStatement(BaseException):
    """A read is more than one statement after all. No use case may catch it."""


class OneStatement:
    """A cursor that executes once."""

    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        self._cursor = cursor
        self._used = False
        self.fetchone, self.fetchall = cursor.fetchone, cursor.fetchall

    def execute(self, text: str, params: dict[str, Any]) -> None:
        if self._used:
            raise AnotherStatement
        self._used = True
        self._cursor.execute(text, params)
