"""A scan on a PostgreSQL connection, which can be given up."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from app.db.postgresql_connections import Connection


class GivenUp(Exception):
    """Nobody waits for this scan any more."""


class Scan:
    """A scan in a thread, which can be given up from another."""

    def __init__(self) -> None:
        self.given_up = False
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    @contextmanager
    def on(self, connection: Connection) -> Iterator[None]:
        """Bind the connection that works for this scan."""
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
            with self._lock:  # not before the server has been told: the next scan is not meant
                self._connection = None

    def end(self) -> None:
        """Ends its statement at the server. Blocks until it has ended."""
        while self._connection is not None:
            with self._lock, suppress(psycopg.Error):
                if self._connection is not None:
                    self._connection.cancel_safe(timeout=2)
            time.sleep(0.02)  # again: what a connection between two statements is told, it forgets
