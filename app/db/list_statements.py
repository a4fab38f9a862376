"""The statements of lists: one page in any order, filtered, of one list or of many.

`Listing` says what a table can be listed by; `Shape` is all that makes one statement differ from
another, so that each is compiled once. `app.db.keyset` chooses and runs them.

An index holds the values of a metric of all runs, another one by experiment those of runs that no
trainer reports: in an experiment's order those of the others, which are few, are added. The steps
of runs are read so in any list. A database is told not to walk an index for a short list.
"""

from collections import namedtuple
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Generic, NamedTuple, cast

from sqlalchemy import (
    Select,
    and_,
    bindparam,
    exists,
    literal_column,
    null,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.sql.util import ClauseAdapter
from sqlmodel import AutoString

from app.db.cursors import METRIC, RowT
from app.db.json_lists import listed
from app.db.objects import Table
from app.db.sql import Statement, columns
from app.db.tables import MetricLatest, Run

FOUND_BY = frozenset(("search_match", "search_short", "found", "id_ends"))
"""Filters that begin with the index of texts or of ids' ends, or with ids that an index gave."""
REMEMBERED = 512  # statements; clients choose among thousands of combinations
INDEXED = ("run_id", "parent_run_id", "root_run_id")
"""Filters that are better walked by than a `spread`, which has an index in each experiment."""
BY_INDEX = frozenset(
    ("experiment_id", "active", "archived", "status", "created_after", "created_before")
)
"""Filters by what indexes of runs have: by these a long list is not looked through."""

_latest = columns(MetricLatest)
_ANY = true()
_IS_REPORTED = columns(Run).settled_step.is_(None)


@dataclass(frozen=True, eq=False)
class Listing(Generic[RowT]):
    """The orders and filters by which one table can be listed, and its light rows.

    `tie` is the column that makes every order total. `orders` and `filters` are by name; the
    order `metric` is by the latest value of one metric of the row. `spread` names a filter by
    a list of values whose column has an index of its own, in the order of creation. `settled`
    names, for an order by what each report changes, the column that holds it while no trainer
    reports, and has the index.
    """

    table: type[Table]
    row: type[RowT]
    tie: Any
    orders: Mapping[str, Any]
    filters: Mapping[str, Any]
    spread: str | None = None
    settled: Mapping[str, Any] = field(default_factory=dict)
    matches: Mapping[str, Statement[tuple[int]]] | None = None
    hits: Mapping[str, Statement[tuple[str, int]]] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the columns that the light rows have."""
        return cast(tuple[str, ...], cast(Any, self.row)._fields)

    def select(self, source: Any) -> list[Any]:
        """Return those columns of the table, or of a query of it."""
        return [source[name] for name in self.names]

    def narrowed(self, names: Iterable[str | None]) -> "Listing[Any]":
        """Return the same list with rows of these columns alone, and of those that pages need."""
        return _narrowed(self, frozenset((self.tie.name, "created_at", *names)))

    def column(self, name: str) -> Any:
        return getattr(columns(self.table), name)

    def lacks(self, field: str) -> bool:
        """Return True if a row may lack the value of this order."""
        return field == METRIC or bool(self.orders[field].nullable)


@lru_cache(REMEMBERED)
def _narrowed(listing: Listing[Any], names: frozenset[str]) -> Listing[Any]:
    kept = [name for name in listing.names if name in names]
    # Clients choose the names, so no type checker knows this row.
    row: Any = namedtuple(listing.row.__name__, kept)  # type: ignore[misc]
    return replace(listing, row=row)


class Shape(NamedTuple):
    """All that makes one statement differ from another."""

    listing: Listing[Any]
    filters: frozenset[str]
    field: str
    downward: bool
    # The rows that have the value they are ordered by, or those that lack it.
    valued: bool
    # Of "low" and "high": the places, exclusive, that the page lies between.
    bounds: frozenset[str]
    dialect: str
    # The column that says whose list a row is in; `is_each`: many lists are read at once.
    parent: str | None = None
    is_each: bool = False
    # The rows are found first and then sorted: no index of the order is walked.
    sort: bool = False
    # So many of the first rows of the list are looked at; 0: all. They are a number in the text: of
    # a parameter PostgreSQL assumes a tenth of the table, and would rather sort that.
    peek: int = 0


@lru_cache(REMEMBERED)
def page_statement(shape: Shape) -> Statement[Any]:
    """Return the rows of one page; for the order by a metric with its value behind the columns."""
    row = None if shape.field == METRIC else shape.listing.row
    return Statement(_page_query(shape), row)


@lru_cache(REMEMBERED)
def place_statement(shape: Shape) -> Statement[tuple[Any, Any]]:
    """Return the place of the last row that a page looks at, where they are so many.

    That is its `tie`, and the value that it is sorted by.
    """
    listing = shape.listing
    value = [] if shape.field == METRIC else [listing.orders[shape.field]]
    first = _walk(shape, [listing.tie, *value], literal_column(str(shape.peek)))
    query = first.limit(literal_column("1")).offset(literal_column(str(shape.peek - 1)))
    return Statement(query)


def _is_at_once(name: str, shape: Shape) -> bool:
    """Return True if an index that gives the order passes or skips rows by this filter.

    Rows that lack a metric are in the order of their ids, which no experiment has an index of.
    """
    of_order = ("created_after", "created_before") if shape.field == "created_at" else ()
    lacking = shape.field == METRIC and not shape.valued
    return name in (*INDEXED, *of_order) or (name == "experiment_id" and not lacking)


def _lacking(shape: Shape) -> Any:
    """Return the condition that a run has no value of the metric by which it is sorted."""
    of_row = and_(_latest.run_id == shape.listing.tie, _latest.key == bindparam("metric_key"))
    return ~exists().where(of_row, _latest.value.is_not(None))


def _page_query(shape: Shape) -> Select[Any]:
    if not shape.peek:
        return _walk(shape, shape.listing.select(columns(shape.listing.table)), bindparam("most"))
    names = sorted(shape.filters)
    later = [shape.listing.filters[name] for name in names if not _is_at_once(name, shape)]
    if shape.field == METRIC and not shape.valued:
        later.append(_lacking(shape))
    return _among_first(later, shape)


def _walk(shape: Shape, selected: list[Any], most: Any) -> Select[Any]:
    """Return the first rows of a list, up to `most`; with `peek`, those that are looked at.

    In the order by a metric their value is behind what is selected, which has the `tie` and, for
    that of a `settled` column, what they are sorted by.
    """
    names, by, settled = shape.filters, shape.field, shape.listing.settled.get(shape.field)
    if shape.sort or shape.is_each or not FOUND_BY.isdisjoint(names):
        return _rows(shape, selected, most)
    live = shape._replace(sort=True)
    if settled is not None and names.isdisjoint((*INDEXED, "ids")):
        own = [settled.label(by) if column.name == by else column for column in selected]
        ended = _rows(shape, own, most, of_run=settled.is_not(None), sort=settled)
        reported = _rows(live, selected, most, of_run=_IS_REPORTED)
    elif by == METRIC and shape.valued and "experiment_id" in names:
        others = shape._replace(filters=names - {"experiment_id"})  # which the value has
        is_own = _latest.experiment_id == bindparam("experiment_id")
        ended, by = _rows(others, selected, most, is_own), "metric_value"
        reported = _rows(live, selected, most, _latest.experiment_id.is_(None), _IS_REPORTED)
    else:
        return _rows(shape, selected, most)
    rows = union_all(select(ended.subquery()), select(reported.subquery())).subquery()
    place = [rows.c[by], rows.c[shape.listing.tie.name]]
    return select(*rows.c).order_by(*_directed(place, shape)).limit(most)


def _rows(
    shape: Shape,
    selected: list[Any],
    most: Any,
    of_value: Any = _ANY,
    of_run: Any = _ANY,
    sort: Any = None,
) -> Select[Any]:
    """Return the first rows of one walk, up to `most`.

    Args:
        of_value: one more condition on the latest value by which they are sorted.
        of_run: one more on the row itself.
        sort: the column that they are sorted by, if it is not that of their order.
    """
    listing, metric = shape.listing, shape.field == METRIC
    sort, tie = listing.orders[shape.field] if sort is None else sort, listing.tie
    by_text = not FOUND_BY.isdisjoint(shape.filters)
    if by_text or shape.sort:
        sort, tie = sort if metric else unwalked(sort), unwalked(tie)
    names = [each for each in sorted(shape.filters) if not shape.peek or _is_at_once(each, shape)]
    query = select(*selected).select_from(listing.table)
    query = query.where(*(condition(listing, name, by_text) for name in names), of_run)
    if metric and shape.valued:
        look_up = (by_text or shape.sort) and shape.dialect == "postgresql"
        query, sort, tie = _with_value(query, tie, look_up, of_value)
    elif metric:
        query = query.add_columns(null().label("metric_value"))
        query = query if shape.peek else query.where(_lacking(shape))
    elif listing.lacks(shape.field):
        query = query.where(sort.is_not(None) if shape.valued else sort.is_(None))
    by = [sort, tie] if shape.valued else [tie]
    query = query.where(*_bounds(by, shape))
    query = query.order_by(*_directed(by, shape)).limit(most)
    if shape.is_each:
        query = _of_each(query, shape)
    elif shape.parent is not None:
        query = query.where(listing.column(shape.parent) == bindparam("parent"))
    return query


def _with_value(
    query: Select[Any], tie: Any, look_up: bool, of_value: Any
) -> tuple[Select[Any], Any, Any]:
    """Return the rows that have the metric, with its value; that value, and the id beside it.

    Args:
        look_up: in each row; PostgreSQL would rather walk the index of values, and a limit of one
            keeps it from that.
        of_value: one more condition.
    """
    of_row = and_(_latest.run_id == tie, _latest.key == bindparam("metric_key"), of_value)
    own: Any = _latest
    if look_up:
        latest = select(own.value, own.run_id).where(of_row).limit(literal_column("1"))
        lateral = latest.lateral("latest")
        own, query = lateral.c, query.join(lateral, true())
    else:
        query = query.join(MetricLatest, of_row)
    query = query.add_columns(own.value.label("metric_value")).where(own.value.is_not(None))
    return query, own.value, own.run_id  # of the index on values, which so gives the order


def _bounds(by: list[Any], shape: Shape) -> Iterator[Any]:
    """Yield the conditions that a page lies between its cursors."""
    for bound in sorted(shape.bounds):
        places: list[Any] = [bindparam(f"{bound}_value")] if shape.valued else []
        places.append(bindparam(f"{bound}_tie"))
        key, place = (tuple_(*by), tuple_(*places)) if shape.valued else (by[0], places[0])
        yield key > place if bound == "low" else key < place


def unwalked(column: Any) -> Any:
    """Return a column in a form for which a database does not take an index.

    It would walk a list of a million runs for the few that have a text, or are sorted afterwards.
    """
    return column.op("||")("") if isinstance(column.type, AutoString) else column


def condition(listing: Listing[Any], name: str, by_text: bool) -> Any:
    if by_text and name == "experiment_id":
        return unwalked(listing.column(name)) == bindparam(name)
    return listing.filters[name]


def _among_first(conditions: list[Any], shape: Shape) -> Select[Any]:
    """Return those of the first rows of a list that meet more conditions.

    They come in the order in which they are looked at, and no more are than fill a page: for an
    ORDER BY here SQLite would read and sort all of them. PostgreSQL would join what a bare EXISTS
    asks for, in any order; `IS TRUE` lets it ask row by row.
    """
    listing, table = shape.listing, cast(Any, shape.listing.table).__table__
    # SQLite would copy each column of each row that is looked at: it looks their rows up instead.
    by_place, rowid = shape.dialect == "sqlite", _rowid(table)
    own = list(table.columns)
    if by_place:
        value = [listing.orders[shape.field]] if shape.field in listing.settled else []
        own = [rowid.label("place"), listing.tie, *value]
    first = _walk(shape, own, literal_column(str(shape.peek))).subquery("first_rows")
    value = [first.c.metric_value] if shape.field == METRIC else []
    if by_place:
        # A left join, whose left side comes first whatever the planner knows of the tables.
        found = select(*listing.select(table.c), *value)
        found = found.select_from(first.outerjoin(table, rowid == first.c.place))
    else:  # the conditions may be on any column
        conditions = list(map(ClauseAdapter(first).traverse, conditions))
        found = select(*listing.select(first.c), *value)
    return found.where(*(asked.is_(true()) for asked in conditions)).limit(bindparam("most"))


def _rowid(table: Any) -> Any:
    """Return SQLite's own key of the rows of a table."""
    return literal_column(f"{table.name}.rowid")


def _directed(by: list[Any], shape: Shape) -> list[Any]:
    return [column.desc() if shape.downward else column for column in by]


def _of_each(query: Select[Any], shape: Shape) -> Select[Any]:
    """Return the first rows of `query` for each of many parents, found through the index of each.

    A window function would read every row of every parent. SQLite has no LATERAL; there a
    correlated list of row numbers is the same walk.
    """
    assert shape.parent is not None
    listing, parents = shape.listing, listed("parents")
    own = query.where(listing.column(shape.parent) == parents.c.value)
    if shape.dialect == "postgresql":
        lateral = own.lateral("page")
        return select(*lateral.c).select_from(parents.join(lateral, true()))
    table = cast(Any, listing.table).__table__
    page: Any = table.alias("page")
    rows = own.with_only_columns(_rowid(table), maintain_column_froms=True).correlate(parents)
    is_listed = literal_column("page.rowid").in_(rows)
    by = [page.c[listing.tie.name]]
    if shape.valued:
        by.insert(0, page.c[listing.orders[shape.field].name])
    return (
        select(*listing.select(page.c))
        .select_from(parents.join(page, is_listed))
        .order_by(*_directed(by, shape))
    )
