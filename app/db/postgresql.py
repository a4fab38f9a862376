"""PostgreSQL: a few worker threads, each with its own connection; LISTEN for changes.

Several servers may share one database. A use case locks the rows it decides on
(`FOR UPDATE`); one that loses a race (deadlock, unique key) is run again and then sees
the winner. One server at a time leads: it holds an advisory lock on a connection of its
own, which the database frees the moment that server dies.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
from psycopg import errors as pg

from app.db import migrate
from app.db.database import CONNECTIONS, Database, P, R, UseCase
from app.db.postgresql_connections import (
    Connection,
    for_caller,
    is_over,
    open_connection,
    require_room,
)
from app.db.postgresql_reading import AnotherStatement, OneStatement, Reading
from app.db.sql import Tx
from app.errors import Busy, Unavailable

MAX_WAITING = 2_000
TRIES = 5
_CHANNEL = "llm_train"
_LEADER_LOCK = 0x6C6C6D74  # "llmt"
_LOST_RACE = (pg.SerializationFailure, pg.DeadlockDetected, pg.UniqueViolation)
_NOTIFY = "SELECT pg_notify(%s, topic) FROM unnest(%s::text[]) AS topic"

log = logging.getLogger(__name__)


class PostgresDatabase(Database):
    """A PostgreSQL database that any number of servers share."""

    dialect = "postgresql"

    def __init__(self, url: str, connections: int = CONNECTIONS) -> None:
        super().__init__()
        self.url = url
        self.most = connections
        # One is the leader's and one the listener's; of 16, eight write, four read, two scan.
        workers = connections - 2
        self.scanners = max(1, workers // 7)
        self.readers = max(1, workers * 2 // 7)
        self.writers = workers - self.scanners - self.readers
        self.dsn = url.replace("postgresql+psycopg://", "postgresql://", 1)
        self._prepared = False
        self._local = threading.local()
        # Code objects and classes, of which there are as many as there is source code.
        self._needs_transaction: set[object] = set()
        self._connections: set[Connection] = set()
        self._waiting = 0
        self._leader: Connection | None = None
        self._stopping = threading.Event()

    def acquire_lock(self) -> None:
        pass  # any number of servers share it

    def announce(self, url: str) -> None:
        pass  # nobody finds it in use

    def prepare(self, *, make: bool = True) -> None:
        try:
            if not make:
                migrate.require(self.url)
            migrate.bring_up(self.url)
            require_room(self.dsn, self.most)
        except (psycopg.Error, Unavailable) as error:
            reason = str(error).strip().replace("\n", " ")
            raise Unavailable(f"the PostgreSQL database cannot be used: {reason}") from error
        self._prepared = True

    def look(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with (
                psycopg.connect(self.dsn, connect_timeout=5) as connection,
                connection.cursor() as cursor,
            ):
                return use_case(Tx(cursor, self.dialect), *args, **kwargs)
        except psycopg.Error as error:
            raise for_caller(error, None) from error

    async def start(self) -> None:
        if not self._prepared:
            await asyncio.to_thread(self.prepare)
        self._loop = asyncio.get_running_loop()
        self._writers = _threads(self.writers, "writer")
        self._readers = _threads(self.readers, "reader", self._only_read)
        self._scanners = _threads(self.scanners, "scanner", self._only_read)
        self._leading = _threads(1, "leader")
        self._listener = threading.Thread(target=self._listen, name="listener", daemon=True)
        self._listener.start()

    async def stop(self) -> None:
        if self._stopping.is_set():
            return
        self._stopping.set()
        with suppress(psycopg.Error):  # the listener would wake by itself, later
            await self._loop.run_in_executor(self._writers, self._wake)
        for pool in (self._writers, self._readers, self._scanners, self._leading):
            await asyncio.to_thread(pool.shutdown)
        await asyncio.to_thread(self._listener.join)
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    async def write(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        work = partial(self._write, lambda tx: use_case(tx, *args, **kwargs))
        return await self._run(self._writers, work)

    async def read(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._given(self._readers, use_case, lambda tx: use_case(tx, *args, **kwargs))

    async def scan(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._given(self._scanners, use_case, lambda tx: use_case(tx, *args, **kwargs))

    async def _given(
        self, pool: ThreadPoolExecutor, use_case: Callable[..., R], work: Callable[[Tx], R]
    ) -> R:
        reading = Reading()
        try:
            return await self._run(pool, partial(self._read, reading, use_case, work))
        except asyncio.CancelledError:
            reading.given_up = True
            self._loop.run_in_executor(None, reading.end)
            raise

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], R]) -> R:
        if self._stopping.is_set():
            raise Unavailable("The server is stopping.", retry_after=2)
        if self._waiting >= MAX_WAITING:
            self.record_rejected_write()
            raise Busy("Too many requests are waiting; try again in a second.", retry_after=1)
        future: asyncio.Future[R] = self._loop.create_future()
        self._waiting += 1
        pool.submit(self._work, work, future)
        return await future

    def _resolve(self, future: asyncio.Future[R], result: Any, error: BaseException | None) -> None:
        self._waiting -= 1
        if isinstance(error, Unavailable):
            self.record_rejected_write()
        if future.done():
            return  # its caller went away; the work is committed all the same
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    # The worker threads.

    def _work(self, work: Callable[[], R], future: asyncio.Future[R]) -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:
            error = for_caller(raised, getattr(self._local, "connection", None))
        self._loop.call_soon_threadsafe(self._resolve, future, result, error)

    def _connect(self) -> Connection:
        connection = open_connection(self.dsn, reads=getattr(self._local, "reads", False))
        self._connections.add(connection)
        return connection

    def _connection(self) -> Connection:
        """Return this worker thread's connection, made anew when the last one broke."""
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None or is_over(connection):
            if connection is not None:
                self._connections.discard(connection)
                connection.close()
            connection = self._local.connection = self._connect()
        return connection

    def _only_read(self) -> None:
        self._local.reads = True

    def _write(self, work: Callable[[Tx], R]) -> R:
        for _ in range(TRIES - 1):
            try:
                return self._write_once(work)
            except _LOST_RACE:
                continue
        return self._write_once(work)

    def _write_once(self, work: Callable[[Tx], R]) -> R:
        connection = self._connection()
        with connection.transaction(), connection.cursor() as cursor:
            tx = Tx(cursor, self.dialect)
            result = work(tx)
            if tx.topics:
                cursor.execute(_NOTIFY, (_CHANNEL, list(tx.topics)))
        return result

    def _read(self, reading: Reading, use_case: Callable[..., R], work: Callable[[Tx], R]) -> R:
        """One statement is a snapshot by itself, and costs a third of a transaction.

        A use case that turns out to need more is begun again in one, as it is from then on.
        """
        connection = self._connection()
        code = _code(use_case)
        with reading.on(connection):
            if code not in self._needs_transaction:
                try:
                    with connection.cursor() as cursor:
                        return work(Tx(OneStatement(cursor), self.dialect))
                except AnotherStatement:
                    self._needs_transaction.add(code)
            with connection.transaction(), connection.cursor() as cursor:
                return work(Tx(cursor, self.dialect))

    def _wake(self) -> None:
        self._connection().execute(_NOTIFY, (_CHANNEL, [""]))

    # Who leads, and what changes elsewhere.

    async def acquire_leadership(self) -> bool:
        return await self._loop.run_in_executor(self._leading, self._try_lead)

    async def release_leadership(self) -> None:
        await self._loop.run_in_executor(self._leading, self._give_up)

    def _give_up(self) -> None:
        if self._leader is not None:  # and its lock with it
            self._connections.discard(self._leader)
            self._leader.close()
            self._leader = None

    def _try_lead(self) -> bool:
        try:
            if self._leader is None:
                self._leader = self._connect()
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
            if self._leader is not None:
                log.warning("this server no longer leads: %s", error)
            self._give_up()
            return False

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self.dsn, autocommit=True, connect_timeout=5) as connection:
                    connection.execute(f"LISTEN {_CHANNEL}")
                    # Whatever was announced while nobody listened is not known: wake all.
                    self._loop.call_soon_threadsafe(self.changes.publish_all)
                    while not self._stopping.is_set():
                        topics = {
                            note.payload for note in connection.notifies(timeout=0.5, stop_after=1)
                        }
                        if topics:
                            self._loop.call_soon_threadsafe(self.changes.publish, topics)
            except Exception as error:  # whatever it was: it must not stop to listen for ever
                known = isinstance(error, psycopg.OperationalError)
                log.warning("not listening for changes: %s", error, exc_info=not known)
                self._stopping.wait(1)


def _code(use_case: Any) -> object:
    """Return what is the same for every call of a use case.

    A `partial`, a closure or an instance is made anew for each call, and as a key of a set it
    would be kept for ever.
    """
    while isinstance(use_case, partial):
        use_case = use_case.func
    return getattr(use_case, "__code__", type(use_case))


def _threads(
    number: int, name: str, initializer: Callable[[], None] | None = None
) -> ThreadPoolExecutor:
    """Start threads before a request needs one: later the system may give no more."""
    pool, begin = ThreadPoolExecutor(number, name, initializer), threading.Event()
    try:
        for _ in range(number):
            pool.submit(begin.wait)  # busy, so that the next one gets a thread of its own
    finally:
        begin.set()
    return pool
