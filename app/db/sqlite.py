"""SQLite: one writer thread with group commit, reads beside it.

Up to `BATCH` waiting writes share one `BEGIN IMMEDIATE` … `COMMIT`, and so one fsync.
A use case that raises before it has written anything simply fails; one that raises
after a write spoils the batch, which is then run again one transaction each.
`BEGIN IMMEDIATE`, because a deferred transaction that reads first and writes later loses
updates or fails on a stale snapshot, which no busy timeout cures. The file itself, whose it is and
whether it can be locked, is in sqlite_file.py.
"""

import asyncio
import errno
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import perf_counter

from app.db import migrate
from app.db.current_principal import get_principal
from app.db.database import Database, Job, P, R, UseCase, WriteResult
from app.db.restricted import open_tx
from app.db.sql import Tx, write_late
from app.db.sqlite_file import file_system, make_private, own
from app.domain.principals import SUPERVISOR, Principal
from app.errors import Busy, ServiceError, Unavailable

BATCH = 64
MAX_WAITING = 2_000
SCANNERS = 4
LOOK = 500_000  # so many instructions of SQLite's machine, some milliseconds, between two looks
SEARCH_LOOK = 10_000  # the same where each may compare a long text

_NOT_OUR_FAULT = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
}

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}

log = logging.getLogger(__name__)


class SqliteDatabase(Database):
    """A SQLite file: durable (`synchronous=FULL`), one process at a time."""

    dialect = "sqlite"

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.path = Path(url.removeprefix("sqlite:///"))
        self._owner = -1
        self._stopping = False
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._open: list[sqlite3.Connection] = []

    def acquire_lock(self) -> None:
        self._owner = own(self.path.with_name(self.path.name + "-owner"))

    def announce(self, url: str) -> None:
        with suppress(OSError):  # a full disk: reads are answered all the same
            os.pwrite(self._owner, url.encode(), 0)

    def prepare(self, *, make: bool = True) -> None:
        try:
            if not make:
                migrate.require(self.url)
            self.acquire_lock()
            make_private(self.path)
            migrate.bring_up(self.url)
            self._reader = self._connect(query_only=True)
            self._writer = self._connect()
        except (sqlite3.Error, OSError, Unavailable) as error:
            self._close()
            why = (isinstance(error, OSError) and error.strerror) or error
            if isinstance(error, OSError) and error.errno in _NO_LOCKS:
                why = (
                    f"its file system ({file_system(self.path)}) has no locks; put it on a disk of "
                    "this machine, or use PostgreSQL (LLM_TRAIN_DATABASE_URL)"
                )
            if isinstance(error, FileNotFoundError):
                why = f"there is no directory {self.path.parent}"
            raise Unavailable(
                f"the database {self.path.absolute()} cannot be used: {why}"
            ) from error

    def _close(self) -> None:
        for connection in self._open:
            connection.close()
        self._open.clear()
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1

    def _connect(self, *, query_only: bool = False) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        self._open.append(connection)
        for pragma in (
            "journal_mode=WAL",
            # FULL: what was acknowledged survives a power cut, not only a crash. With
            # group commit it is as fast as NORMAL.
            "synchronous=FULL",
            "foreign_keys=ON",
            "busy_timeout=10000",
            "cache_size=-32000",
            "temp_store=MEMORY",
            f"query_only={int(query_only)}",
        ):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def look(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return self._in_snapshot(self._reader, lambda tx: use_case(tx, *args, **kwargs), SUPERVISOR)

    async def start(self) -> None:
        if self._owner < 0:
            await asyncio.to_thread(self.prepare)
        self._loop = asyncio.get_running_loop()
        self._scanners = ThreadPoolExecutor(SCANNERS, thread_name_prefix="scanner")
        self._thread = threading.Thread(target=self._write_loop, name="writer", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        self._stopping = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._scanners.shutdown)
        self._close()

    async def write(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        self._check_open()
        if self._waiting >= MAX_WAITING:
            self.record_rejected_write()
            raise Busy("Too many writes are waiting; try again in a second.", retry_after=1)
        future: asyncio.Future[R] = self._loop.create_future()
        self._waiting += 1
        began = perf_counter()
        self._jobs.put(Job(lambda tx: use_case(tx, *args, **kwargs), future, get_principal()))
        try:
            return await future
        finally:
            self.durations["write"].add(perf_counter() - began)

    async def read(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        # On the event loop: a short read costs less than the hop to a thread and back.
        self._check_open()
        principal, began = get_principal(), perf_counter()
        try:
            return self._in_snapshot(
                self._reader, lambda tx: use_case(tx, *args, **kwargs), principal
            )
        finally:
            self.durations["read"].add(perf_counter() - began)

    async def scan(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._in_scanner(LOOK, lambda tx: use_case(tx, *args, **kwargs))

    async def _look_through(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._in_scanner(SEARCH_LOOK, lambda tx: use_case(tx, *args, **kwargs))

    async def _in_scanner(self, look: int, use_case: Callable[[Tx], R]) -> R:
        self._check_open()
        given_up, began = threading.Event(), perf_counter()
        work = partial(self._scan, given_up, look, use_case, get_principal())
        try:
            return await self._loop.run_in_executor(self._scanners, work)
        finally:
            given_up.set()
            self.durations["scan"].add(perf_counter() - began)

    def _scan(
        self,
        given_up: threading.Event,
        look: int,
        work: Callable[[Tx], R],
        principal: Principal,
    ) -> R:
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = self._connect(query_only=True)
        # Not `interrupt()`, which would miss a scan that is between two statements.
        connection.set_progress_handler(given_up.is_set, look)
        try:
            return self._in_snapshot(connection, work, principal)
        finally:
            self._idle.put(connection)

    def _in_snapshot(
        self, connection: sqlite3.Connection, work: Callable[[Tx], R], principal: Principal
    ) -> R:
        cursor = connection.cursor()
        try:
            cursor.execute("BEGIN")
            return work(open_tx(cursor, self.dialect, principal, self._rights))
        except sqlite3.Error as error:
            raise _for_caller(error) from error
        finally:
            if connection.in_transaction:
                cursor.execute("COMMIT")

    def _check_open(self) -> None:
        if self._stopping:
            raise Unavailable("The server is stopping.", retry_after=2)

    async def acquire_leadership(self) -> bool:
        return True  # one process owns the file

    async def release_leadership(self) -> None:
        pass

    # The writer thread.

    def _write_loop(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            batch = [job]
            with suppress(queue.Empty):
                while len(batch) < BATCH:
                    following = self._jobs.get_nowait()
                    if following is None:
                        self._jobs.put(None)
                        break
                    batch.append(following)
            outcomes, topics = self._commit(batch)
            # The outcomes are bound as an argument: a closure over a loop variable would
            # resolve the next batch's futures.
            self._loop.call_soon_threadsafe(self._publish, outcomes, topics)

    def _commit(self, batch: list[Job]) -> tuple[list[WriteResult], set[str]]:
        """Runs a batch in one transaction, or else each job in its own. Never raises."""
        outcomes: list[WriteResult] = []
        topics: set[str] = set()
        done: list[Tx] = []
        begun = False
        try:
            writer = self._writer
            cursor = writer.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            begun = True
            for job in batch:
                before = writer.total_changes
                tx = open_tx(cursor, self.dialect, job.principal, self._rights)
                try:
                    outcomes.append(WriteResult(job.future, job.work(tx), None))
                    topics |= tx.topics
                    done.append(tx)
                except Exception as error:
                    # A full disk can make SQLite itself roll back, and what follows would
                    # be committed statement by statement.
                    if writer.total_changes != before or not writer.in_transaction:
                        raise
                    outcomes.append(WriteResult(job.future, None, _for_caller(error)))
            last = Tx(cursor, self.dialect, rights=self._rights)
            write_late(last, done)
            topics |= last.topics
            cursor.execute("COMMIT")
            self._rights.end_change()
        except BaseException as error:
            self._roll_back()
            self._rights.end_change()
            if begun and len(batch) > 1:
                return self._write_one_by_one(batch)
            return [WriteResult(job.future, None, _for_caller(error)) for job in batch], set()
        return outcomes, topics

    def _write_one_by_one(self, batch: list[Job]) -> tuple[list[WriteResult], set[str]]:
        outcomes: list[WriteResult] = []
        topics: set[str] = set()
        for job in batch:
            outcome, topics_of_job = self._commit([job])
            outcomes += outcome
            topics |= topics_of_job
        return outcomes, topics

    def _roll_back(self) -> None:
        """Leaves no transaction open, whatever state the connection is in."""
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            log.exception("the writer's connection is replaced")
            self._writer.close()  # which rolls back
            with suppress(sqlite3.Error):  # the next batch then fails as this one did
                self._writer = self._connect()

    def _publish(self, outcomes: list[WriteResult], topics: set[str]) -> None:
        self._resolve(outcomes)
        self.changes.publish(topics)


def _for_caller(error: BaseException) -> BaseException:
    """Turn an error of the disk into Unavailable."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None or isinstance(error, ServiceError) or code & 0xFF not in _NOT_OUR_FAULT:
        return error
    log.error("the database failed: %s", error)
    unavailable = Unavailable(f"The database cannot be used now: {error}.", retry_after=5)
    unavailable.__cause__ = error
    return unavailable
