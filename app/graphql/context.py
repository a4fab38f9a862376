"""What resolvers get: the way to a transaction, and batches that make one read of many.

Resolvers that run side by side call `load`; a moment later one read answers them all.
Nothing is cached, so a mutation, a later operation of the same websocket and the next
event of a subscription all see the present.
"""

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

from starlette.requests import HTTPConnection

from app.services import keyset, listing
from app.services.idempotency import InFlight
from app.services.keyset import Listing, Order, Window
from app.store.database import Database
from app.store.sql import Tx, dump

Reader = Callable[[Tx, list[Any]], Sequence[Any]]


class Context:
    """One for each request or websocket."""

    def __init__(self, connection: HTTPConnection) -> None:
        state = connection.app.state
        self.db: Database = state.db
        self.recipes: Mapping[str, Any] = state.recipes
        self.secret: str = state.secret
        self.in_flight: InFlight = state.in_flight
        self.caller: str = connection.scope["caller"]
        self.connection_params: dict[str, Any] = {}
        self._batches: dict[Hashable, list[tuple[Any, asyncio.Future[Any]]]] = {}

    def load(self, name: Hashable, key: Any, read: Reader, *, long: bool = False) -> Any:
        """What `read` answers for `key`, read together with all that `load` the same `name`.

        `read` gets distinct keys and answers in their order. `long`: not on the event loop.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        batch = self._batches.get(name)
        if batch is None:
            batch = self._batches[name] = []
            loop.call_soon(self._start, name, read, long)
        batch.append((key, future))
        return future

    def _start(self, name: Hashable, read: Reader, long: bool) -> None:
        task = asyncio.create_task(self._finish(self._batches.pop(name), read, long))
        task.add_done_callback(lambda done: done.exception())

    async def _finish(
        self, batch: list[tuple[Any, asyncio.Future[Any]]], read: Reader, long: bool
    ) -> None:
        keys = list(dict.fromkeys(key for key, _ in batch))
        try:
            answers = await (self.db.scan if long else self.db.read)(read, keys)
            found = dict(zip(keys, answers, strict=True))
            for key, future in batch:
                if not future.done():
                    future.set_result(found[key])
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)

    def row(self, table: type[Any], id: str | None) -> Any:
        """The row with this id, or None."""
        return self.load(table.__name__, id, lambda tx, ids: listing.by_ids(tx, table, ids))

    def page(
        self,
        listed: Listing[Any],
        filters: dict[str, Any],
        order: Order,
        window: Window,
        parent: tuple[str, str] | None,
    ) -> Any:
        """A page of a list, or of the list of one parent (column and id) among many."""
        name = ("page", id(listed), dump(filters), order, window, parent and parent[0])
        return self.load(
            name,
            parent and parent[1],
            partial(_pages, listed, parent and parent[0], filters, order, window),
            long=bool(filters) or order.field == "metric",
        )

    def count(
        self, listed: Listing[Any], filters: dict[str, Any], parent: tuple[str, str] | None
    ) -> Any:
        """How many rows such a list has."""
        return self.load(
            ("count", id(listed), dump(filters), parent and parent[0]),
            parent and parent[1],
            partial(_counts, listed, parent and parent[0], filters),
            long=True,
        )


def _pages(
    listed: Listing[Any],
    parent: str | None,
    filters: dict[str, Any],
    order: Order,
    window: Window,
    tx: Tx,
    parents: list[Any],
) -> Sequence[Any]:
    if parent is None:
        return [keyset.page(tx, listed, filters, order, window)]
    return keyset.pages(tx, listed, parent, parents, filters, order, window)


def _counts(
    listed: Listing[Any], parent: str | None, filters: dict[str, Any], tx: Tx, parents: list[Any]
) -> Sequence[int]:
    if parent is None:
        return [keyset.count(tx, listed, filters)]
    return keyset.counts(tx, listed, parent, parents, filters)
