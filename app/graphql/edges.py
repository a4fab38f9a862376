"""Edges from a row to another, and to lists: makers of fields.

Every edge goes through a batch of the context, so the number of statements does not grow with the
number of rows.
"""

from collections.abc import Callable
from typing import Annotated, Any

import strawberry

from app.db import listing
from app.db.list_statements import Listing
from app.graphql.connections import After, Before, First, Last, connect, window
from app.graphql.describe import Info, each, edge
from app.graphql.filters import CheckpointFilter, CheckpointOrder, EventFilter, RunFilter, RunOrder

Row = strawberry.Parent[Any]
EventFilters = Annotated[
    EventFilter | None, strawberry.argument(description="Conditions on the events; all must hold.")
]


def one(table: type[Any], column: str, description: str) -> Any:
    """Return an edge to the row whose id is in `column`."""

    async def resolve(row: Row, info: Info) -> Any:
        def load(rows: list[Any]) -> Any:
            return info.context.rows(table, [getattr(row, column) for row in rows])

        return await each(row, load)

    return edge(resolve, description, column)


def connection(
    listed: Listing[Any], filters: Any, orders: Any, what: str
) -> Callable[[str | None, str], Any]:
    """Return a maker of connections: to all rows of a list, or to those with the id in `column`."""
    Which = Annotated[
        filters | None, strawberry.argument(description=f"Conditions on the {what}; all must hold.")
    ]
    Sorted = Annotated[orders | None, strawberry.argument(description="Sort field and direction.")]

    def to(column: str | None, description: str) -> Any:
        async def resolve(
            row: Row, info: Info, first: First = None, after: After = None, last: Last = None,
            before: Before = None, filter: Which = None, order_by: Sorted = None,
        ) -> Any:  # fmt: skip
            page = window(first, after, last, before)
            return await connect(info, listed, page, filter, order_by, column, row)

        return edge(resolve, description)

    return to


runs = connection(listing.RUNS, RunFilter, RunOrder, "runs")
checkpoints = connection(listing.CHECKPOINTS, CheckpointFilter, CheckpointOrder, "checkpoints")


def events(column: str, description: str) -> Any:
    """Return an edge to the events with the id of the row in `column`, in their one order."""

    async def resolve(
        row: Row, info: Info, first: First = None, after: After = None, last: Last = None,
        before: Before = None, filter: EventFilters = None,
    ) -> Any:  # fmt: skip
        page = window(first, after, last, before)
        return await connect(info, listing.EVENTS, page, filter, None, column, row)

    return edge(resolve, description)
