"""SQLite: one writer thread with group commit, reads beside it.

Up to `BATCH` waiting writes share one `BEGIN IMMEDIATE` … `COMMIT`, and so one fsync.
A use case that raises before it has written anything simply fails; one that raises
after a write spoils the batch, which is then run again one transaction each.
`BEGIN IMMEDIATE`, because a deferred transaction that reads first and writes later loses
updates or fails on a stale snapshot, which no busy timeout cures.
"""

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from app.errors import Busy
from app.store.database import Database, P, R, UseCase
from app.store.sql import Tx

BATCH = 64
MAX_WAITING = 2_000


class _Job(NamedTuple):
    work: Callable[[Tx], Any]
    future: asyncio.Future[Any]


class _Answer(NamedTuple):
    future: asyncio.Future[Any]
    result: Any
    error: BaseException | None


class SqliteDatabase(Database):
    """A SQLite file: durable (`synchronous=FULL`), one process at a time."""

    dialect = "sqlite"

    def __init__(self, url: str) -> None:
        super().__init__()
        self.path = Path(url.removeprefix("sqlite:///"))
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._waiting = 0
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._open: list[sqlite3.Connection] = []

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        for pragma in (
            "journal_mode=WAL",
            # FULL: what was acknowledged survives a power cut, not only a crash. With
            # group commit it is as fast as NORMAL.
            "synchronous=FULL",
            "foreign_keys=ON",
            "busy_timeout=10000",
            "cache_size=-32000",
            "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")
        self._open.append(connection)
        return connection

    async def start(self) -> None:
        self._owner = own(self.path.with_name(self.path.name + "-owner"))
        self._loop = asyncio.get_running_loop()
        self._reader = self._connect()
        self._writer = self._connect()
        self._thread = threading.Thread(target=self._write_loop, name="writer", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        for connection in self._open:
            connection.close()
        self._open.clear()
        os.close(self._owner)

    async def write(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        if self._waiting >= MAX_WAITING:
            raise Busy("Too many writes are waiting; try again in a second.", retry_after=1)
        future: asyncio.Future[R] = self._loop.create_future()
        self._waiting += 1
        self._jobs.put(_Job(lambda tx: use_case(tx, *args, **kwargs), future))
        return await future

    async def read(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        # On the event loop: a short read costs less than the hop to a thread and back.
        return _in_snapshot(self._reader, lambda tx: use_case(tx, *args, **kwargs))

    async def scan(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        def in_thread() -> R:
            try:
                connection = self._idle.get_nowait()
            except queue.Empty:
                connection = self._connect()
            try:
                return _in_snapshot(connection, lambda tx: use_case(tx, *args, **kwargs))
            finally:
                self._idle.put(connection)

        return await asyncio.to_thread(in_thread)

    async def lead(self) -> bool:
        return True  # one process owns the file

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
            answers, topics = self._commit(batch)
            # The answers are bound as an argument: a closure over a loop variable would
            # resolve the next batch's futures.
            self._loop.call_soon_threadsafe(self._resolve, answers, topics)

    def _commit(self, batch: list[_Job]) -> tuple[list[_Answer], set[str]]:
        """Runs a batch in one transaction, or else each job in its own."""
        answers: list[_Answer] = []
        topics: set[str] = set()
        cursor = self._writer.cursor()
        try:
            cursor.execute("BEGIN IMMEDIATE")
            for job in batch:
                before = self._writer.total_changes
                tx = Tx(cursor, self.dialect)
                try:
                    answers.append(_Answer(job.future, job.work(tx), None))
                    topics |= tx.topics
                except Exception as error:
                    if self._writer.total_changes != before:
                        raise
                    answers.append(_Answer(job.future, None, error))
            cursor.execute("COMMIT")
        except BaseException as error:
            if self._writer.in_transaction:
                cursor.execute("ROLLBACK")
            if len(batch) == 1:
                return [_Answer(batch[0].future, None, error)], set()
            answers, topics = [], set()
            for job in batch:
                one, woken = self._commit([job])
                answers += one
                topics |= woken
        return answers, topics

    def _resolve(self, answers: list[_Answer], topics: set[str]) -> None:
        self._waiting -= len(answers)
        for future, result, error in answers:
            if future.done():
                continue  # its caller went away; the work is committed all the same
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        self.changes.publish(topics)


def own(lock: Path) -> int:
    """Takes a lock file for this process's life. Raises OSError when another holds it.

    Group commit, wake-ups and keys in flight live in one process: a second server on the
    same file would be a slow and confusing one.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise OSError(f"another server is using {lock.name.removesuffix('-owner')}") from error
    return descriptor


def _in_snapshot(connection: sqlite3.Connection, work: Callable[[Tx], R]) -> R:
    cursor = connection.cursor()
    cursor.execute("BEGIN")
    try:
        return work(Tx(cursor, "sqlite"))
    finally:
        cursor.execute("COMMIT")
