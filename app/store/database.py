"""`Database`: where use cases run.

    run = await db.write(runs.cancel, run_id)      one committed transaction
    run = await db.read(runs.get, run_id)          a short read, where it is fastest
    rows = await db.scan(runs.search, filters)     a read that may take long

`sqlite.py` and `postgresql.py` hold the two implementations; `connect` picks by URL.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from app.store.changes import Changes
from app.store.sql import Tx

P = ParamSpec("P")
R = TypeVar("R")
UseCase = Callable[Concatenate[Tx, P], R]


class Database(ABC):
    """Runs use cases, plain functions f(tx, …), in transactions."""

    dialect: str

    def __init__(self) -> None:
        self.changes = Changes()

    @abstractmethod
    async def start(self) -> None:
        """Opens connections. Raises OSError or the driver's error where it cannot."""

    @abstractmethod
    async def stop(self) -> None:
        """Finishes what is under way and closes every connection."""

    @abstractmethod
    async def write(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs it in a transaction that is on disk when this returns.

        The use case may be run again from the start (after a conflict), so it must not
        act on anything but the transaction. Raises Busy when too much is waiting.
        """

    @abstractmethod
    async def read(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs a read of a few rows on one snapshot."""

    @abstractmethod
    async def scan(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs a read that may take long on one snapshot, off the event loop."""

    @abstractmethod
    async def lead(self) -> bool:
        """Whether this process is the one whose supervisor works; tries to become it."""


def connect(url: str) -> Database:
    """The database behind a `sqlite:///` or `postgresql+psycopg://` URL. Not yet started."""
    if url.startswith("sqlite:///"):
        from app.store.sqlite import SqliteDatabase

        return SqliteDatabase(url)
    if url.startswith(("postgresql+psycopg://", "postgresql://")):
        from app.store.postgresql import PostgresDatabase

        return PostgresDatabase(url)
    raise ValueError(
        "LLM_TRAIN_DATABASE_URL must begin with sqlite:/// or postgresql+psycopg:// "
        f"(it begins with {url.split(':', 1)[0]!r})"
    )
