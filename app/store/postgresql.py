"""PostgreSQL: a few worker threads, each with its own connection; LISTEN for changes.

Several servers may share one database. A use case locks the rows it decides on
(`FOR UPDATE`), one that loses a race (deadlock, unique key) is run again and then sees
the winner. One server at a time leads: it holds an advisory lock on a connection of its
own, which the database frees the moment that server dies.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg
from psycopg import errors as pg

from app.errors import Busy, Unavailable
from app.store.database import Database, P, R, UseCase
from app.store.sql import Tx

WORKERS = 8
MAX_WAITING = 2_000
TRIES = 5
_CHANNEL = "llm_train"
_LEADER_LOCK = 0x6C6C6D74  # "llmt"
_LOST_RACE = (pg.SerializationFailure, pg.DeadlockDetected, pg.UniqueViolation)

log = logging.getLogger(__name__)


class PostgresDatabase(Database):
    """A PostgreSQL database that any number of servers share."""

    dialect = "postgresql"

    def __init__(self, url: str) -> None:
        super().__init__()
        self.dsn = url.replace("postgresql+psycopg://", "postgresql://", 1)
        self._local = threading.local()
        self._connections: set[psycopg.Connection[Any]] = set()
        self._waiting = 0
        self._leader: psycopg.Connection[Any] | None = None
        self._stopping = threading.Event()

    def _connect(self) -> psycopg.Connection[Any]:
        connection = psycopg.connect(self.dsn, connect_timeout=5)
        self._connections.add(connection)
        return connection

    def _connection(self) -> psycopg.Connection[Any]:
        """This worker thread's connection, made anew when the last one broke."""
        connection: psycopg.Connection[Any] | None = getattr(self._local, "connection", None)
        if connection is None or connection.closed or connection.broken:
            if connection is not None:
                self._connections.discard(connection)
            connection = self._local.connection = self._connect()
        return connection

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="postgresql")
        self._leading = ThreadPoolExecutor(1, thread_name_prefix="leader")
        await self._loop.run_in_executor(self._workers, self._connection)
        self._listener = threading.Thread(target=self._listen, name="listener", daemon=True)
        self._listener.start()

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.to_thread(self._listener.join)
        await asyncio.to_thread(self._workers.shutdown)
        await asyncio.to_thread(self._leading.shutdown)
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    async def _in_worker(self, work: Callable[[], R]) -> R:
        if self._waiting >= MAX_WAITING:
            raise Busy("Too many requests are waiting; try again in a second.", retry_after=1)
        self._waiting += 1
        try:
            return await self._loop.run_in_executor(self._workers, work)
        except psycopg.OperationalError as error:
            raise Unavailable("The database does not answer.", retry_after=2) from error
        finally:
            self._waiting -= 1

    async def write(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._in_worker(partial(self._write, lambda tx: use_case(tx, *args, **kwargs)))

    async def read(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._in_worker(partial(self._read, lambda tx: use_case(tx, *args, **kwargs)))

    async def scan(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.read(use_case, *args, **kwargs)

    def _write(self, work: Callable[[Tx], R]) -> R:
        for attempt in range(1, TRIES + 1):
            connection = self._connection()
            try:
                with connection.transaction(), connection.cursor() as cursor:
                    tx = Tx(cursor, self.dialect)
                    result = work(tx)
                    for topic in sorted(tx.topics):
                        cursor.execute("SELECT pg_notify(%s, %s)", (_CHANNEL, topic))
                return result
            except _LOST_RACE:
                if attempt == TRIES:
                    raise
        raise AssertionError("unreachable")

    def _read(self, work: Callable[[Tx], R]) -> R:
        connection = self._connection()
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            return work(Tx(cursor, self.dialect))

    async def lead(self) -> bool:
        return await self._loop.run_in_executor(self._leading, self._try_lead)

    def _try_lead(self) -> bool:
        try:
            if self._leader is None:
                self._leader = self._connect()
                self._leader.autocommit = True
                self._led = False
            if self._led:
                self._leader.execute("SELECT 1")  # the lock lives as long as the connection
            else:
                row = self._leader.execute(
                    "SELECT pg_try_advisory_lock(%s)", (_LEADER_LOCK,)
                ).fetchone()
                self._led = bool(row and row[0])
            return self._led
        except psycopg.OperationalError as error:
            log.warning("leadership lost: %s", error)
            if self._leader is not None:
                self._connections.discard(self._leader)
                self._leader.close()
            self._leader = None
            return False

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self.dsn, autocommit=True, connect_timeout=5) as connection:
                    connection.execute(f"LISTEN {_CHANNEL}")
                    # Whatever was announced while nobody listened is not known: wake all.
                    self._loop.call_soon_threadsafe(self.changes.publish_all)
                    while not self._stopping.is_set():
                        topics = [note.payload for note in connection.notifies(timeout=0.5)]
                        if topics:
                            self._loop.call_soon_threadsafe(self.changes.publish, topics)
            except psycopg.OperationalError as error:
                log.warning("not listening for changes: %s", error)
                self._stopping.wait(1)
