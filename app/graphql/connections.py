"""Relay: Node, and connections with keyset cursors, edges, nodes and totalCount."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Generic, TypeVar, cast

import strawberry
from graphql import (
    FieldNode,
    FragmentSpreadNode,
    GraphQLObjectType,
    InlineFragmentNode,
    get_named_type,
)

from app.db.counting import Count
from app.db.cursors import Page, Window
from app.db.list_statements import Listing
from app.errors import InvalidInput
from app.graphql.describe import Info, attribute, each, edge, field, interface, output
from app.graphql.filters import get_conditions, get_default_conditions, order
from app.graphql.limits import DEFAULT_SIZE
from app.graphql.limits import PAGE as MOST

T = TypeVar("T")

First = Annotated[
    int | None, strawberry.argument(description=f"Number of rows from the start, 1 to {MOST}.")
]
Last = Annotated[
    int | None, strawberry.argument(description=f"Number of rows from the end, 1 to {MOST}.")
]
After = Annotated[str | None, strawberry.argument(description="Only rows after this cursor.")]
Before = Annotated[str | None, strawberry.argument(description="Only rows before this cursor.")]


@interface
class Node:
    """An object with a global id, by which it can be fetched again."""

    id: strawberry.ID = attribute("Globally unique id, the same as in REST.")


@output
class PageInfo:
    """Position of a page in its list."""

    page: strawberry.Private[Page[Any]]

    @field
    def has_next_page(self) -> bool:
        """True if rows follow this page, or may: a page of rows that have to be read to be found
        ends early after 4,000 of them, with fewer rows than asked for, or none."""
        return self.page.has_next

    @field
    def has_previous_page(self) -> bool:
        """True if rows precede this page, or may."""
        return self.page.has_previous

    @field
    def start_cursor(self) -> str | None:
        """Cursor of the first row, or of where a page that is read backwards ended early."""
        return self.page.start_cursor()

    @field
    def end_cursor(self) -> str | None:
        """Cursor of the last row, or of where a page ended early."""
        return self.page.end_cursor()


@output
class Edge(Generic[T]):
    """A row and its position in the list."""

    node: T = attribute("The row.")
    cursor: str = attribute("Position of the row, for `after` and `before`.")


@output
class Connection(Generic[T]):
    """One page of a list."""

    page: strawberry.Private[Page[Any]]
    id: strawberry.Private[str | None]
    counts: strawberry.Private[Callable[[list[str | None]], Awaitable[list[Count]]]]
    nodes: list[T] = attribute("The rows of this page.")

    @field
    def edges(self) -> list[Edge[T]]:
        """The rows of this page with their cursors."""
        return [
            Edge(node=row, cursor=self.page.cursor(index))
            for index, row in enumerate(self.page.rows)
        ]

    @field
    def page_info(self) -> PageInfo:
        """Position of this page in the list."""
        return PageInfo(page=self.page)

    @edge
    async def total_count(self) -> int:
        """Number of rows in the whole list; see `totalCountIsLowerBound`."""
        # All in `Rows` are parts of the same list, so the first can count them all.
        count: int = await each(self, partial(_read_counts, "number"))
        return count

    @edge
    async def total_count_is_lower_bound(self) -> bool:
        """True if there are more rows than `totalCount`, or may be. Rows that have to be read to be
        counted are counted among the newest, up to 10,000; those with a common text, up to some
        thousand."""
        is_lower_bound: bool = await each(self, partial(_read_counts, "is_lower_bound"))
        return is_lower_bound


async def _read_counts(of: str, connections: list[Connection[Any]]) -> list[Any]:
    counts = await connections[0].counts([connection.id for connection in connections])
    return [getattr(count, of) for count in counts]


def window(first: int | None, after: str | None, last: int | None, before: str | None) -> Window:
    """Return the window that the arguments of a connection describe. Raises InvalidInput."""
    if first is not None and last is not None:
        raise InvalidInput("Give `first` or `last`, not both.")
    size = last if first is None else first
    if size is None:
        size = DEFAULT_SIZE
    if not 1 <= size <= MOST:
        raise InvalidInput(f"`first` and `last` must be 1 to {MOST}; page on with a cursor.")
    return Window(size, after, before, backward=last is not None)


def _narrow(listed: Listing[Any], info: Info, names: set[str | None]) -> Listing[Any]:
    """Return the list with rows of these columns alone, and those that the selection reads.

    All of them, where a field has a resolver that may read any.
    """
    raw = info._raw_info
    kind = cast(GraphQLObjectType, get_named_type(raw.return_type))
    rows, spread = listed.table.__name__, set[str]()
    waiting = [(kind, node.selection_set) for node in raw.field_nodes]
    while waiting:
        kind, selected = waiting.pop()
        for selection in selected.selections if selected else ():
            if isinstance(selection, FragmentSpreadNode):
                if selection.name.value not in spread:
                    spread.add(selection.name.value)
                    waiting.append((kind, raw.fragments[selection.name.value].selection_set))
            elif isinstance(selection, InlineFragmentNode):
                waiting.append((kind, selection.selection_set))
            elif isinstance(selection, FieldNode) and selection.name.value in kind.fields:
                field = kind.fields[selection.name.value]
                if kind.name == rows:
                    definition = field.extensions["strawberry-definition"]
                    own = definition.metadata.get("column")
                    if own is None and not definition.is_basic_field:
                        return listed
                    names.add(own or definition.python_name)
                elif selection.name.value in ("nodes", "edges", "node"):
                    below = cast(GraphQLObjectType, get_named_type(field.type))
                    waiting.append((below, selection.selection_set))
    return listed.narrowed(names)


async def connect(
    info: Info,
    listed: Listing[Any],
    page: Window,
    filter: Any,
    order_by: Any,
    column: str | None = None,
    row: Any = None,
) -> Any:
    """Return a page of a list: of all rows, or of those with the id of `row` in `column`."""
    context, sorting = info.context, order(order_by, listed)
    chosen = get_default_conditions(listed) if filter is None else get_conditions(filter)
    narrow = _narrow(listed, info, {column, sorting.field})

    async def load(parents: list[Any]) -> list[Any]:
        # A list of all rows is of the root, which a payload of a mutation has as well.
        ids = [None if column is None else parent.id for parent in parents]
        listed_pages = await context.pages(narrow, chosen, sorting, page, column, ids)
        count = partial(context.counts, listed, chosen, column)
        return [
            Connection(nodes=page_of_rows.rows, page=page_of_rows, id=id, counts=count)
            for page_of_rows, id in zip(listed_pages, ids, strict=True)
        ]

    return await each(row, load)
