"""PostgreSQL: several servers may share one database.

write   a few threads, each with a connection; waiting use cases share a transaction
        (`postgresql_writes`)
read    on the event loop; waiting reads share a snapshot (`postgresql_reads`)
scan    a few threads of their own, one snapshot each; can be given up (`postgresql_scans`)

A use case locks the rows it decides on (`FOR UPDATE`); one that loses a race (deadlock, unique
key) is run again and then sees the winner. LISTEN tells of changes. One server at a time leads: it
holds an advisory lock on a connection of its own, which the database frees the moment that server
dies.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from time import perf_counter

import psycopg

from app.db import migrate, planning
from app.db.current_principal import get_principal
from app.db.database import CONNECTIONS, Database, Job, P, R, UseCase
from app.db.postgresql_connections import (
    Connection,
    for_caller,
    is_over,
    open_connection,
    require_room,
)
from app.db.postgresql_pipeline import Cursor, Pipeline
from app.db.postgresql_reads import BEGIN, SharedReads
from app.db.postgresql_scans import Scan
from app.db.postgresql_writes import BATCH, CHANNEL, commit
from app.db.restricted import open_tx
from app.db.rights import KnownRights
from app.db.sql import Tx
from app.domain.principals import SUPERVISOR, Principal
from app.errors import Busy, Unavailable

MAX_WAITING = 2_000
STOP_SECONDS, STOP_LOOKS = 5.0, 500
_LEADER_LOCK = 0x6C6C6D74  # "llmt"

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
        # The tables and the room for connections were looked for.
        self.prepared = False
        self._local = threading.local()
        self._connections: set[Connection] = set()
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
        self.prepared = True

    def look(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with open_connection(self.dsn, reads=True) as connection:
                pipeline = Pipeline(connection)
                return in_snapshot(pipeline, lambda tx: use_case(tx, *args, **kwargs), self._rights)
        except psycopg.Error as error:
            raise for_caller(error, None) from error

    async def start(self) -> None:
        if not self.prepared:
            await asyncio.to_thread(self.prepare)
        self._loop = asyncio.get_running_loop()
        self._scanners = _threads(self.scanners, "scanner")
        self._leading = _threads(1, "leader")
        self._opening = _threads(1, "opener")
        self._reads = SharedReads(self.readers, self._open_for_reads, self._rights)
        self._writers = [
            threading.Thread(target=self._write_loop, name="writer", daemon=True)
            for _ in range(self.writers)
        ]
        self._listener = threading.Thread(target=self._listen, name="listener", daemon=True)
        for thread in (*self._writers, self._listener):
            thread.start()

    async def stop(self) -> None:
        if self._stopping.is_set():
            return
        self._stopping.set()
        for _ in self._writers:
            self._jobs.put(None)
        for thread in self._writers:
            await asyncio.to_thread(thread.join)
        with suppress(psycopg.Error):  # the listener would wake by itself, later
            await self._loop.run_in_executor(self._opening, self._wake)
        for _ in range(STOP_LOOKS):  # what was accepted is finished
            if not self._waiting:
                break
            await asyncio.sleep(STOP_SECONDS / STOP_LOOKS)
        self._reads.close()
        for pool in (self._scanners, self._leading, self._opening):
            await asyncio.to_thread(pool.shutdown)
        await asyncio.to_thread(self._listener.join)
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    async def write(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        self._admit()
        future: asyncio.Future[R] = self._loop.create_future()
        self._waiting += 1
        began = perf_counter()
        self._jobs.put(Job(lambda tx: use_case(tx, *args, **kwargs), future, get_principal()))
        try:
            return await future
        finally:
            self.durations["write"].add(perf_counter() - began)

    async def read(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        self._admit()
        self._waiting += 1
        began = perf_counter()
        try:
            result: R = await self._reads.read(
                lambda tx: use_case(tx, *args, **kwargs), get_principal()
            )
            return result
        except Unavailable:
            self.record_rejected_write()
            raise
        finally:
            self._waiting -= 1
            self.durations["read"].add(perf_counter() - began)

    async def scan(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        self._admit()
        self._waiting += 1
        scan, began = Scan(), perf_counter()
        work = partial(self._scan, scan, lambda tx: use_case(tx, *args, **kwargs), get_principal())
        try:
            return await self._loop.run_in_executor(self._scanners, work)
        except asyncio.CancelledError:
            scan.given_up = True
            self._loop.run_in_executor(None, scan.end)
            raise
        finally:
            self._waiting -= 1
            self.durations["scan"].add(perf_counter() - began)

    def _admit(self) -> None:
        if self._stopping.is_set():
            raise Unavailable("The server is stopping.", retry_after=2)
        if self._waiting >= MAX_WAITING:
            self.record_rejected_write()
            raise Busy("Too many requests are waiting; try again in a second.", retry_after=1)

    # The threads.

    def _write_loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            with suppress(queue.Empty):
                while len(batch) < BATCH:
                    following = self._jobs.get_nowait()
                    if following is None:
                        self._jobs.put(None)
                        break
                    batch.append(following)
            outcomes = commit(self._own_writer, batch, self._rights)
            # Bound as an argument: a closure would resolve the futures of the next batch.
            self._loop.call_soon_threadsafe(self._resolve, outcomes)

    def _scan(self, scan: Scan, work: Callable[[Tx], R], principal: Principal) -> R:
        connection: Connection | None = None
        try:
            pipeline = self._own_pipeline(reads=True)
            connection = pipeline.connection
            with scan.on(connection):
                return in_snapshot(pipeline, work, self._rights, principal)
        except BaseException as error:
            raise for_caller(error, connection) from error

    def _own_writer(self) -> Pipeline:
        return self._own_pipeline(reads=False)

    def _own_pipeline(self, *, reads: bool) -> Pipeline:
        """Return this thread's connection, made anew when the last one broke."""
        pipeline: Pipeline | None = getattr(self._local, "pipeline", None)
        if pipeline is None or is_over(pipeline.connection):
            if pipeline is not None:
                self._connections.discard(pipeline.connection)
                pipeline.connection.close()
            connection = self._connect(reads=reads)
            if reads:
                connection.execute(planning.SCAN_SETTINGS)
            pipeline = self._local.pipeline = Pipeline(connection)
        return pipeline

    def _connect(self, *, reads: bool) -> Connection:
        connection = open_connection(self.dsn, reads=reads)
        self._connections.add(connection)
        return connection

    def _open_for_reads(self) -> asyncio.Future[Connection]:
        opening = partial(open_connection, self.dsn, reads=True)
        return self._loop.run_in_executor(self._opening, opening)

    def _wake(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True, connect_timeout=5) as connection:
            connection.execute("SELECT pg_notify(%s, '')", (CHANNEL,))

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
                self._leader = self._connect(reads=False)
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
                    connection.execute(f"LISTEN {CHANNEL}")
                    # Whatever was announced while nobody listened is not known: wake all.
                    self._loop.call_soon_threadsafe(self.changes.publish_all)
                    while not self._stopping.is_set():
                        notes = connection.notifies(timeout=0.5, stop_after=1)
                        topics = {topic for note in notes for topic in note.payload.split()}
                        if topics:
                            self._loop.call_soon_threadsafe(self.changes.publish, topics)
            except Exception as error:  # whatever it was: it must not stop to listen for ever
                known = isinstance(error, psycopg.OperationalError)
                log.warning("not listening for changes: %s", error, exc_info=not known)
                self._stopping.wait(1)


def in_snapshot(
    pipeline: Pipeline,
    work: Callable[[Tx], R],
    rights: KnownRights,
    principal: Principal = SUPERVISOR,
) -> R:
    """Run a read on one snapshot and wait for each of its answers."""
    pipeline.command(BEGIN)
    try:
        result = work(open_tx(Cursor(pipeline), "postgresql", principal, rights))
    except BaseException:
        try:
            pipeline.finish("ROLLBACK")
        except psycopg.Error:  # then the next read begins on a new connection
            pipeline.connection.close()
        raise
    pipeline.finish("COMMIT")
    return result


def _threads(number: int, name: str) -> ThreadPoolExecutor:
    """Threads that are there before a request needs one: later the system may give no more."""
    pool, begin = ThreadPoolExecutor(number, name), threading.Event()
    try:
        for _ in range(number):
            pool.submit(begin.wait)  # busy, so that the next one gets a thread of its own
    finally:
        begin.set()
    return pool
