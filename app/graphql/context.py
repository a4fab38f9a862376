"""What resolvers get: the way to a transaction, and batches that make one read of many.

Resolvers that run side by side call `load` with the keys that each of them needs; a moment
later one read answers them all. Nothing is cached, so a mutation, a later operation of the
same websocket and the next event of a subscription all see the present.
"""

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from starlette.requests import HTTPConnection

from app.services import keyset, listing
from app.services.cursors import Order, Window
from app.services.idempotency import InFlight
from app.services.keyset import Listing
from app.services.reading import Readers
from app.store.database import Database
from app.store.sql import Tx, dump

Reader = Callable[[Tx, list[Any]], Sequence[Any]]


class Context:
    """One for each request or websocket, and from it one `for_operation`."""

    def __init__(self, connection: HTTPConnection) -> None:
        state = connection.app.state
        self.db: Database = state.db
        self.recipes: Mapping[str, Any] = state.recipes
        self.secret: str = state.secret
        self.data_dir: Path = state.settings.data_dir
        self.readers: Readers = state.readers
        self.in_flight: InFlight = state.in_flight
        self.caller: str = connection.scope["caller"]
        self.connection_params: dict[str, Any] = {}
        self._begin(None)

    def for_operation(self, seconds: float) -> "Context":
        """What one operation, or one answer of a subscription, gets: its own reads and limit."""
        own = copy(self)
        own._begin(seconds)
        return own

    def _begin(self, seconds: float | None) -> None:
        self.limit = asyncio.timeout(seconds)
        self._tasks: set[asyncio.Task[None]] = set()
        self._batches: dict[Hashable, list[_Asked]] = {}

    def load(
        self, name: Hashable, keys: list[Any], read: Reader, *, long: bool = False
    ) -> asyncio.Future[list[Any]]:
        """What `read` answers for these keys, read together with all that ask the same `name`.

        `read` gets distinct keys and answers in their order. `long`: not on the event loop.
        """
        loop = asyncio.get_running_loop()
        batch = self._batches.get(name)
        if batch is None:
            batch = self._batches[name] = []
            loop.call_soon(self._start, name, read, long)
        batch.append(_Asked(keys, loop.create_future()))
        return batch[-1].answer

    def cancel(self) -> None:
        """Gives up the reads that are under way, down to the database."""
        for task in self._tasks:
            task.cancel()

    def _start(self, name: Hashable, read: Reader, long: bool) -> None:
        task = asyncio.create_task(self._finish(self._batches.pop(name), read, long))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, batch: "list[_Asked]", read: Reader, long: bool) -> None:
        keys = list(dict.fromkeys(key for asked in batch for key in asked.keys))
        try:
            answers = await (self.db.scan if long else self.db.read)(read, keys)
            found = dict(zip(keys, answers, strict=True))
            for asked in batch:
                if not asked.answer.done():
                    asked.answer.set_result([found[key] for key in asked.keys])
        except Exception as error:
            for asked in batch:
                if not asked.answer.done():
                    asked.answer.set_exception(error)
        finally:
            for asked in batch:
                asked.answer.cancel()  # where this read was given up

    async def rows(self, table: type[Any], ids: list[str | None]) -> list[Any]:
        """The rows with these ids, None where there is none."""
        if all(id is None for id in ids):
            return [None] * len(ids)
        return await self.load(table.__name__, ids, partial(_by_ids, table))

    def pages(
        self,
        listed: Listing[Any],
        filters: dict[str, Any],
        order: Order,
        window: Window,
        column: str | None,
        ids: list[Any],
    ) -> asyncio.Future[list[Any]]:
        """The same page of the parts of a list whose `column` holds an id; of all without one."""

        def read(tx: Tx, ids: list[Any]) -> Sequence[Any]:
            if column is None:
                return [keyset.page(tx, listed, filters, order, window)]
            return keyset.pages(tx, listed, column, ids, filters, order, window)

        long = bool(filters) or order.field not in ("created_at", "seq")
        name = ("pages", listed.table, column, order, window, long and dump(filters))
        return self.load(name, ids, read, long=long)

    def counts(
        self, listed: Listing[Any], filters: dict[str, Any], column: str | None, ids: list[Any]
    ) -> asyncio.Future[list[int]]:
        """How many rows such parts have."""

        def read(tx: Tx, ids: list[Any]) -> Sequence[int]:
            if column is None:
                return [keyset.count(tx, listed, filters)]
            return keyset.counts(tx, listed, column, ids, filters)

        return self.load(("counts", listed.table, column, dump(filters)), ids, read, long=True)


def _by_ids(table: type[Any], tx: Tx, ids: list[Any]) -> list[Any]:
    return listing.by_ids(tx, table, ids)


class _Asked(NamedTuple):
    keys: list[Any]
    answer: asyncio.Future[list[Any]]
