"""The context of resolvers: access to the database, and batches that join many reads into one.

Sibling resolvers call `load` with the keys that each needs; in the next round of the event loop
one read serves them all. Nothing is cached, so a mutation, a later operation of the same
websocket and the next event of a subscription see current rows.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from starlette.requests import HTTPConnection

from app.db import counting, efforts, keyset, listing
from app.db.cursors import Order, Window
from app.db.database import Database, Effort
from app.db.list_statements import Listing
from app.db.sql import Tx, dump
from app.domain.gate import Gate
from app.domain.principals import Principal
from app.graphql.budget import Budget, Memory
from app.graphql.documents import Documents
from app.launchers.base import Launcher
from app.server.authentication import Authenticator
from app.services.expiry import Rule
from app.services.idempotency import InFlight
from app.storage.artifacts import ArtifactStorage
from app.storage.base import CheckpointStorage
from app.storage.readers import Readers

T = TypeVar("T")
Reader = Callable[[Tx, list[Any]], Sequence[Any]]
PART = 500
"""Rows read at once, before they are charged to the budget."""


class Context:
    """Request context. `for_operation()` copies it with batches and a timeout of its own."""

    def __init__(self, connection: HTTPConnection, memory: Memory, documents: Documents) -> None:
        state = connection.app.state
        self.db: Database = state.db
        self.recipes: Mapping[str, Any] = state.recipes
        self.launchers: Mapping[str, Launcher] = state.launchers
        self.secret: str = state.secret
        self.data_dir: Path = state.settings.data_dir
        self.gate: Gate = state.settings.gate
        self.kept = Rule(*state.settings.kept_days)
        self.storage: CheckpointStorage = state.storage
        self.artifacts: ArtifactStorage = state.artifacts
        self.readers: Readers = state.readers
        self.in_flight: InFlight = state.in_flight
        self.authenticator: Authenticator = state.authenticator
        self.principal: Principal = connection.scope["principal"]
        # Lets a websocket end with a token.
        self.end_with: Callable[[str | None], None] = connection.scope.get("end_with", _do_nothing)
        self.address = connection.client.host if connection.client is not None else ""
        self.connection_params: dict[str, Any] = {}
        self.memory = memory
        self.documents = documents
        self.shared = connection.scope["type"] == "websocket"
        self._answers: list[Budget] = []
        self._begin(None)

    def copy_for_operation(self) -> "Context":
        """Return a context for one of many operations on a websocket, with budgets of its own."""
        own = copy(self)
        own._answers = []
        return own

    def release(self) -> None:
        """Release the budgets of the answers that were sent."""
        while self._answers:
            self._answers.pop().release()

    def for_operation(self, seconds: float) -> "Context":
        """Return the context of one operation, or of one answer of a subscription."""
        own = copy(self)
        own._begin(seconds)
        return own

    def _begin(self, seconds: float | None) -> None:
        self.limit = asyncio.timeout(seconds)
        self.budget = Budget(self.memory)
        self._answers.append(self.budget)
        self._tasks: set[asyncio.Task[None]] = set()
        self._batches: dict[Hashable, list[_Asked]] = {}

    def load(
        self,
        name: Hashable,
        keys: list[Any],
        read: Reader,
        effort: Effort = Effort.SHORT,
    ) -> asyncio.Future[list[Any]]:
        """Return the values of these keys, read together with all loads of the same `name`.

        `read` gets distinct keys and returns their values in the same order.
        """
        loop = asyncio.get_running_loop()
        batch = self._batches.get(name)
        if batch is None:
            batch = self._batches[name] = []
            loop.call_soon(self._start, name, read, effort)
        batch.append(_Asked(keys, loop.create_future()))
        return batch[-1].answer

    def cancel(self) -> None:
        """Cancel the reads that are under way, down to the database."""
        for task in self._tasks:
            task.cancel()

    def _start(self, name: Hashable, read: Reader, effort: Effort) -> None:
        task = asyncio.create_task(self._finish(self._batches.pop(name), read, effort))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, batch: "list[_Asked]", read: Reader, effort: Effort) -> None:
        keys = list(dict.fromkeys(key for load in batch for key in load.keys))
        try:
            answers = await self.db.fetch(effort, read, keys)
            by_key = dict(zip(keys, answers, strict=True))
            for load in batch:
                if not load.answer.done():
                    load.answer.set_result([by_key[key] for key in load.keys])
        except Exception as error:
            for load in batch:
                if not load.answer.done():
                    load.answer.set_exception(error)
        finally:
            for load in batch:
                load.answer.cancel()  # where this read was given up

    async def rows(self, table: type[Any], ids: list[str | None]) -> list[Any]:
        """Return the rows with these ids, None where there is none."""
        if all(id is None for id in ids):
            return [None] * len(ids)
        return await self.load(table.__name__, ids, partial(_read_by_ids, table, self.budget))

    def pages(
        self,
        listed: Listing[Any],
        filters: dict[str, Any],
        order: Order,
        window: Window,
        column: str | None,
        ids: list[Any],
    ) -> asyncio.Future[list[Any]]:
        """Return the same page of each part of a list: its rows whose `column` holds an id.

        Without `column` the one part is the whole list.
        """
        budget = self.budget

        def read(tx: Tx, ids: list[Any]) -> Sequence[Any]:
            if column is None:
                listed_pages = [keyset.page(tx, listed, filters, order, window)]
                budget.charge_rows(listed.table, listed_pages[0].rows)
                return listed_pages
            listed_pages = []
            for part in _parts(ids, max(1, PART // window.size)):
                pages = keyset.read_pages(tx, listed, column, part, filters, order, window)
                budget.charge_rows(listed.table, (row for page in pages for row in page.rows))
                listed_pages += pages
            return listed_pages

        name = ("pages", listed, column, order, window, dump(filters))
        return self.load(name, ids, read, efforts.of_page(filters, order, window))

    def counts(
        self, listed: Listing[Any], filters: dict[str, Any], column: str | None, ids: list[Any]
    ) -> asyncio.Future[list[counting.Count]]:
        """Return the number of rows of such parts."""

        def read(tx: Tx, ids: list[Any]) -> Sequence[counting.Count]:
            if column is None:
                return [counting.count(tx, listed, filters)]
            return counting.counts(tx, listed, column, ids, filters)

        name = ("counts", listed.table, column, dump(filters))
        return self.load(name, ids, read, efforts.of_list(filters))

    async def read_groups(self, read: Callable[..., T], filters: dict[str, Any], *more: Any) -> T:
        """Read groups of the rows that match, where such a read belongs."""
        return await self.db.fetch(efforts.of_list(filters), read, filters, *more)


def _do_nothing(token_id: str | None) -> None:
    """Do nothing: a request ends by itself."""


def _read_by_ids(table: type[Any], budget: Budget, tx: Tx, ids: list[Any]) -> list[Any]:
    by_id: list[Any] = []
    for part in _parts(ids, PART):
        rows = listing.by_ids(tx, listing.OF_TABLE[table], part)
        budget.charge_rows(table, rows)
        by_id += rows
    return by_id


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


class _Asked(NamedTuple):
    keys: list[Any]
    answer: asyncio.Future[list[Any]]
