"""`Database`: where use cases run.

    run = await db.write(runs.cancel, run_id)      one committed transaction
    run = await db.read(runs.get, run_id)          a short read, where it is fastest
    rows = await db.scan(keyset.page, …)           a read that may take long
    rows = await db.search(keyset.page, …)         one that looks through texts
    rows = await db.fetch(effort, keyset.page, …)  one of these three, by what the read may cost

A use case that decides on what it has read locks it first (`with_for_update`); on SQLite,
where one transaction writes at a time, that costs nothing and changes nothing.

`sqlite.py` and `postgresql.py` implement it; `connect.py` picks one by URL.
"""

import asyncio
import math
import queue
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from app.db.changes import Changes
from app.db.durations import Durations
from app.db.rights import KnownRights
from app.db.sql import Tx
from app.domain.principals import Principal
from app.errors import Timeout, Unavailable

CONNECTIONS = 16
"""So many connections a server opens to PostgreSQL, unless it is told otherwise."""
FEWEST = 5
"""A writer, a reader, a scanner, the leader's and the listener's."""
SEARCHES = 1
SEARCH_SECONDS = 10.0

P = ParamSpec("P")
R = TypeVar("R")
UseCase = Callable[Concatenate[Tx, P], R]


class Job(NamedTuple):
    """A use case that waits for its transaction."""

    work: Callable[[Tx], Any]
    future: asyncio.Future[Any]
    principal: Principal


class WriteResult(NamedTuple):
    """The outcome of a job: its result, or an error for its caller."""

    future: asyncio.Future[Any]
    result: Any
    error: BaseException | None


class Effort(Enum):
    """The cost that a read may have. It decides where the read runs: see `Database.fetch`."""

    SHORT = "short"
    LONG = "long"
    SEARCH = "search"


class InUse(OSError):
    """Another process has what only one may have; `where`: the URL it serves at, or empty."""

    def __init__(self, where: str) -> None:
        super().__init__("another server is using it" + (f", at {where}" if where else ""))
        self.where = where


class Database(ABC):
    """Runs use cases, plain functions f(tx, …), in transactions."""

    dialect: str

    def __init__(self) -> None:
        self.changes = Changes()
        self._rights = KnownRights()
        self._searching = asyncio.Semaphore(SEARCHES)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._waiting = 0
        # Of each kind of transaction, with its wait for a turn; added to on the event loop.
        self.durations = {kind: Durations() for kind in ("write", "read", "scan")}
        # When a write was last rejected, on the monotonic clock.
        self.write_rejected_at = -math.inf

    @property
    def waiting_writes(self) -> int:
        """Return how many writes wait for their turn, or are under way."""
        return self._waiting

    def record_rejected_write(self) -> None:
        """Record that a write was rejected; heartbeat timeouts ignore this period."""
        self.write_rejected_at = time.monotonic()

    def _resolve(self, outcomes: list[WriteResult]) -> None:
        """Answer the callers of the jobs that are over; on the event loop."""
        self._waiting -= len(outcomes)
        for future, result, error in outcomes:
            if isinstance(error, Unavailable):
                self.record_rejected_write()
            if future.done():
                continue  # its caller went away; the work is committed all the same
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    @abstractmethod
    def acquire_lock(self) -> None:
        """Acquire the database for this process, where only one may have it.

        Raises OSError; InUse if another process has it.
        """

    @abstractmethod
    def announce(self, url: str) -> None:
        """Tell other processes that find the database in use where this one serves."""

    @abstractmethod
    def prepare(self, *, make: bool = True) -> None:
        """Takes the database for this process and brings it to this version's schema.

        Without `make`, one that was never this service's stays as it is. Raises Unavailable:
        one sentence for the person who started the server.
        """

    @abstractmethod
    def look(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs a read in this thread, between `prepare` and `start`. Raises Unavailable."""

    @abstractmethod
    async def start(self) -> None:
        """Prepares where that was not done, and begins to work. Raises Unavailable."""

    @abstractmethod
    async def stop(self) -> None:
        """Finishes what is under way and closes every connection."""

    @abstractmethod
    async def write(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs it in a transaction that is on disk when this returns.

        The use case may be run again from the start (after a conflict), so it must not
        act on anything but the transaction. Cancelled, it may be done or not, but never
        half. Raises Busy when too much is waiting, Unavailable when the database fails.
        """

    @abstractmethod
    async def read(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs a read of a few rows on one snapshot."""

    @abstractmethod
    async def scan(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs a read that may take long on one snapshot, off the event loop.

        Cancelled, it ends at once, in the database too: no thread is left with it.
        """

    async def fetch(
        self, effort: Effort, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run a read where its effort belongs: the event loop, a thread, or one of few searches."""
        match effort:
            case Effort.SHORT:
                return await self.read(use_case, *args, **kwargs)
            case Effort.LONG:
                return await self.scan(use_case, *args, **kwargs)
            case Effort.SEARCH:
                return await self.search(use_case, *args, **kwargs)

    async def search(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs a scan that looks through texts: few at a time, so that other scans go on meanwhile.

        Raises Timeout.
        """
        try:
            async with asyncio.timeout(SEARCH_SECONDS), self._searching:
                return await self._look_through(use_case, *args, **kwargs)
        except TimeoutError:
            raise Timeout(
                f"The search took longer than {SEARCH_SECONDS:g} s; look for a longer text, or "
                "within one experiment.",
                retry_after=5,
            ) from None

    async def _look_through(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a search, as `scan` does."""
        return await self.scan(use_case, *args, **kwargs)

    @abstractmethod
    async def acquire_leadership(self) -> bool:
        """Return True if this process is the leader, whose supervisor works; try to become it."""

    @abstractmethod
    async def release_leadership(self) -> None:
        """Let another process become the leader."""
