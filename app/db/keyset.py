"""Keyset pages: any table in any order, filtered, for one parent or for many at once.

`page` reads one page of one list, `pages` the same page of the lists of many parents in one
statement; `count` and `counts` say how long they are. A cursor is the place of a row in its
order, so a page neither repeats nor skips a row when others come or go. Rows that lack the
value they are ordered by come last, in either direction: they are read by a second statement,
so that each of the two walks an index. An index on the values of a metric holds those of every
list, so SQLite is told not to walk it for a short one, and reads many lists one by one.

A text is looked for in the first rows of the list, where a common one fills the page; only then
the index of texts is asked, which for a common one would find nearly all rows.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Generic, NamedTuple, cast

from sqlalchemy import (
    Select,
    and_,
    bindparam,
    exists,
    func,
    literal_column,
    null,
    select,
    true,
    tuple_,
)
from sqlalchemy.sql.util import ClauseAdapter

from app.db.cursors import METRIC, Order, Page, RowT, Window, parse
from app.db.database import Effort
from app.db.json_lists import listed, number_params, one_of
from app.db.objects import Table, column_names
from app.db.search import GRAM, LIKE_ESCAPE, PREFIX, grams
from app.db.sql import Statement, Tx, columns, dump
from app.db.tables import MetricLatest
from app.domain.texts import fold

Parent = tuple[str, str]

SEARCH = "search"
COVERED = {"experiment_id", "status"}
"""Filters of runs for which an index holds all that a count needs."""
UNVALUED = ("active", "archived")
"""Conditions without a parameter."""
MOST = 100
SHORT_LIST = 20_000
"""Rows of a list that is read on the event loop whatever the filter."""
FEW = 2_000
PEEKED = 2_000
REMEMBERED = 512  # statements; clients choose among thousands of combinations
_latest = columns(MetricLatest)


@dataclass(frozen=True, eq=False)
class Listing(Generic[RowT]):
    """What one table can be listed by, and its light rows.

    `tie` is the column that makes every order total. `orders` and `filters` are by name; the
    order `metric` is by the latest value of one metric of the row. `spread` names a filter by
    a list of values whose column has an index of its own, in the order of creation.
    """

    table: type[Table]
    row: type[RowT]
    tie: Any
    orders: Mapping[str, Any]
    filters: Mapping[str, Any]
    spread: str | None = None

    def column(self, name: str) -> Any:
        return getattr(columns(self.table), name)

    def lacks(self, field: str) -> bool:
        """Return True if a row may lack the value of this order."""
        return field == METRIC or bool(self.orders[field].nullable)


class _Shape(NamedTuple):
    """All that makes one statement differ from another."""

    listing: Listing[Any]
    filters: frozenset[str]
    field: str
    downward: bool
    # The rows that have the value they are ordered by, or those that lack it.
    valued: bool
    # Of "low" and "high": the places, exclusive, that the page lies between.
    bounds: frozenset[str]
    # The column that says whose list a row is in; the dialect, where many are read at once.
    parent: str | None
    dialect: str | None
    # In the order by a metric: the list is short, so its rows are found first and then sorted.
    short: bool = False
    # Only the first `PEEKED` rows of the list are looked at; of all filters but the indexed ones.
    peek: bool = False


def effort(
    filters: Mapping[str, Any], order: Order, window: Window, length: int | None = None
) -> Effort:
    """Return what reading a page may cost.

    Args:
        length: rows that the list has at most, where that is known.
    """
    if SEARCH in filters:
        return Effort.SEARCH
    if window.size > MOST:
        return Effort.LONG
    if length is not None and length <= SHORT_LIST:
        return Effort.SHORT
    # Without filters, and in the order of creation, a page is a walk of an index.
    filtered = filters.keys() - {"active"}
    return Effort.LONG if filtered or order.field not in ("created_at", "seq") else Effort.SHORT


@lru_cache(REMEMBERED)
def _statement(shape: _Shape) -> Statement[Any]:
    """Return the rows of one page; for the order by a metric with its value behind the columns."""
    listing, metric = shape.listing, shape.field == METRIC
    sort, tie = listing.orders[shape.field], listing.tie
    selected = list(columns(listing.table))
    of_row = and_(_latest.run_id == tie, _latest.key == bindparam("metric_key"))
    if metric:
        selected.append((sort if shape.valued else null()).label("metric_value"))
    names = sorted(shape.filters)
    later = [name for name in names if shape.peek and name not in ("experiment_id", *INDEXED)]
    query = select(*selected).where(*(listing.filters[name] for name in names if name not in later))
    if metric and shape.short:
        # A concatenation, so that SQLite does not walk the values of all other lists.
        of_row = and_(_latest.run_id == tie.op("||")(""), _latest.key == bindparam("metric_key"))
    if metric and shape.valued:
        query = query.join(MetricLatest, of_row).where(sort.is_not(None))
        tie = _latest.run_id  # so that the index on values gives the order
    elif metric:
        query = query.where(~exists().where(of_row, sort.is_not(None)))
    elif listing.lacks(shape.field):
        query = query.where(sort.is_not(None) if shape.valued else sort.is_(None))
    key = tuple_(sort, tie) if shape.valued else tie
    for bound in sorted(shape.bounds):
        place: Any = bindparam(f"{bound}_tie")
        if shape.valued:
            place = tuple_(bindparam(f"{bound}_value"), place)
        query = query.where(key > place if bound == "low" else key < place)
    by = [sort, tie] if shape.valued else [tie]
    query = query.order_by(*_directed(by, shape)).limit(bindparam("most"))
    if shape.dialect is not None:
        query = _of_each(query, shape)
    elif shape.parent is not None:
        query = query.where(listing.column(shape.parent) == bindparam("parent"))
    if shape.peek:
        query = _among_first(query, [listing.filters[name] for name in later], shape)
    return Statement(query, None if metric else listing.row)


def _among_first(query: Select[Any], conditions: list[Any], shape: _Shape) -> Select[Any]:
    """Return those of the first rows of `query` that meet more conditions."""
    first = query.limit(PEEKED).subquery("first_rows")
    adapted: Any = ClauseAdapter(first).traverse
    sort = first.c.metric_value if shape.field == METRIC else first.c[shape.field]
    return (
        select(*first.c)
        .where(*map(adapted, conditions))
        .order_by(*_directed([sort, first.c[shape.listing.tie.name]], shape))
        .limit(bindparam("most"))
    )


def _directed(by: list[Any], shape: _Shape) -> list[Any]:
    return [column.desc() if shape.downward else column for column in by]


def _of_each(query: Select[Any], shape: _Shape) -> Select[Any]:
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
    place: Any = literal_column(f"{table.name}.rowid")
    rows = own.with_only_columns(place, maintain_column_froms=True).correlate(parents)
    found = literal_column("page.rowid").in_(rows)
    by = [page.c[listing.tie.name]]
    if shape.valued:
        by.insert(0, page.c[listing.orders[shape.field].name])
    return select(*page.c).select_from(parents.join(page, found)).order_by(*_directed(by, shape))


@lru_cache(REMEMBERED)
def _count(
    listing: Listing[Any], filters: frozenset[str], parent: str | None, many: bool
) -> Statement[Any]:
    conditions = [listing.filters[name] for name in sorted(filters)]
    if parent is None:
        return Statement(select(func.count()).select_from(listing.table).where(*conditions))
    column = listing.column(parent)
    own = one_of(column, "parents") if many else column == bindparam("parent")
    return Statement(select(column, func.count()).where(own, *conditions).group_by(column))


def split_archived(
    listing: Listing[Any], filters: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return two filters whose counts differ by what `filters` counts, or None.

    Rows that are not archived are counted as all less those that are: these are few and have an
    index of their own. The table itself would have to be read for each row otherwise.
    """
    rest = {name: value for name, value in filters.items() if name != "active"}
    if "active" not in filters or listing.spread != "status" or rest.keys() - COVERED:
        return None
    return rest, rest | {"archived": True}


def _params(listing: Listing[Any], filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filters as bound parameters. Lists travel as JSON."""
    params: dict[str, Any] = {}
    for name, value in filters.items():
        assert name in listing.filters, name
        if name == METRIC:
            key, least, greatest = value
            params["filter_key"] = key
            params["filter_min"] = -math.inf if least is None else least
            params["filter_max"] = math.inf if greatest is None else greatest
        elif name == "hyperparam":
            key, least, greatest = value
            params |= number_params(key)
            params["param_min"] = -math.inf if least is None else least
            params["param_max"] = math.inf if greatest is None else greatest
        elif name in UNVALUED:
            continue
        elif name.startswith(SEARCH):
            params |= _search_params(name, value)
        else:
            params[name] = value if isinstance(value, str | bool) else dump(list(value))
    return params


def _search_params(name: str, value: str) -> dict[str, Any]:
    term = fold(value)
    params = {"search_id": value, "search": term}
    if name == "search_match":
        params["search_grams"] = grams(term)
    elif name == "search_all":
        literal = re.sub(f"([{LIKE_ESCAPE}%_])", rf"{LIKE_ESCAPE}\1", term[:PREFIX])
        params["search_prefix"] = f"%{literal}%"
    return params


def _indexed_search(tx: Tx, filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filters, with the way of finding a text in a long list."""
    term = fold(filters[SEARCH])
    narrow = tx.dialect == "sqlite" and len(term) >= GRAM
    return _with_search(filters, "search_match" if narrow else "search_all")


def _with_search(filters: Mapping[str, Any], name: str) -> dict[str, Any]:
    rest = {each: value for each, value in filters.items() if each != SEARCH}
    return rest | {name: filters[SEARCH]}


def _parts(
    listing: Listing[Any], filters: Mapping[str, Any], order: Order, window: Window
) -> list[tuple[_Shape, dict[str, Any]]]:
    """Return the statements that make a page: of the rows that have the sort value, of the rest."""
    params = _params(listing, filters) | {"most": window.size + 1}
    if order.field == METRIC:
        params["metric_key"] = order.metric_key
    parts = []
    for valued in (True, False) if listing.lacks(order.field) else (True,):
        bounds: dict[str, Any] = {}
        beyond = False
        for cursor, argument in ((window.after, "after"), (window.before, "before")):
            if cursor is None:
                continue
            lacks = listing.lacks(order.field)
            value, tie = parse(cursor, order, argument, nullable=lacks)
            if (value is not None) == valued:
                side = "low" if (argument == "after") != order.descending else "high"
                bounds |= {f"{side}_tie": tie} | ({f"{side}_value": value} if valued else {})
            elif valued == (argument == "after"):
                beyond = True
        if not beyond:
            names = frozenset(name.partition("_")[0] for name in bounds)
            downward = order.descending != window.backward
            shape = _Shape(
                listing, frozenset(filters), order.field, downward, valued, names, None, None
            )
            parts.append((shape, params | bounds))
    return parts[::-1] if window.backward else parts


def _page(listing: Listing[Any], found: list[Any], order: Order, window: Window) -> Page[Any]:
    more = len(found) > window.size
    del found[window.size :]
    if window.backward:
        found.reverse()
    values: Sequence[Any] = ()
    if order.field == METRIC:
        values = [row[-1] for row in found]
        found = [listing.row.__new__(listing.row, *row[:-1]) for row in found]
    return Page(
        found,
        values,
        order,
        has_next=window.before is not None if window.backward else more,
        has_previous=more if window.backward else window.after is not None,
    )


def page(
    tx: Tx,
    listing: Listing[RowT],
    filters: Mapping[str, Any],
    order: Order,
    window: Window,
    parent: Parent | None = None,
) -> Page[RowT]:
    """Return one page of a list: of all, or of those whose column (`parent`) holds an id.

    Raises InvalidInput for a cursor that is not of this list.
    """
    found: list[Any]
    spread = listing.spread or ""
    if parent is not None and parent[0] == "experiment_id":
        filters, parent = {**filters, parent[0]: parent[1]}, None
    if SEARCH in filters:
        walked = _with_search(filters, "search_walk")
        if parent is not None or _short(tx, listing, filters):
            filters = walked
        else:
            if spread not in filters:
                first = _parts(listing, walked, order, window)[0]
                found = tx.all(_statement(first[0]._replace(peek=True)), **first[1])
                if len(found) > window.size:
                    return _page(listing, found, order, window)
            filters = _indexed_search(tx, filters)
    if parent is None and spread in filters and order.field == "created_at":
        rest = {name: value for name, value in filters.items() if name != spread}
        if not any(name in rest for name in INDEXED):
            return _merged(tx, listing, rest, order, window, (spread, filters[spread]))
    found = []
    short = order.field == METRIC and tx.dialect == "sqlite"
    short = short and (parent is not None or _short(tx, listing, filters))
    for shape, params in _parts(listing, filters, order, window):
        if short:
            shape = shape._replace(short=True)
        if parent is not None:
            shape = shape._replace(parent=parent[0])
            params["parent"] = parent[1]
        if len(found) <= window.size:
            found += tx.all(_statement(shape), **params)
    return _page(listing, found, order, window)


def _short(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any]) -> bool:
    """Return True if few rows pass the filters that have an index."""
    if any(name in filters for name in INDEXED):
        return True
    if "experiment_id" not in filters:
        return False
    found = tx.first(_first_few(listing), experiment_id=filters["experiment_id"])
    return found is not None and found[0] < FEW


@cache
def _first_few(listing: Listing[Any]) -> Statement[tuple[int]]:
    rows = select(listing.tie).where(listing.filters["experiment_id"]).limit(FEW).subquery()
    return Statement(select(func.count()).select_from(rows))


INDEXED = ("run_id", "parent_run_id", "root_run_id")
"""Filters that are better walked by than a `spread`, which has an index in each experiment."""


def _merged(
    tx: Tx,
    listing: Listing[RowT],
    filters: Mapping[str, Any],
    order: Order,
    window: Window,
    spread: tuple[str, Sequence[str]],
) -> Page[RowT]:
    """Return a page of several lists in one: the first rows of each are enough to know it."""
    name, values = spread
    ((shape, params),) = _parts(listing, filters, order, window)
    if len(values) == 1:
        shape = shape._replace(parent=name)
        return _page(listing, tx.all(_statement(shape), parent=values[0], **params), order, window)
    shape = shape._replace(parent=name, dialect=tx.dialect)
    found: list[Any] = tx.all(_statement(shape), parents=dump(sorted(set(values))), **params)
    found.sort(key=lambda row: (row.created_at, row.id), reverse=shape.downward)
    return _page(listing, found, order, window)


def pages(
    tx: Tx,
    listing: Listing[RowT],
    parent: str,
    parents: Sequence[str],
    filters: Mapping[str, Any],
    order: Order,
    window: Window,
) -> list[Page[RowT]]:
    """Return the same page for each parent: of the rows whose column `parent` holds its id."""
    # One walk for all would be along the values of every run there is.
    alone = len(parents) == 1 or (order.field == METRIC and tx.dialect == "sqlite")
    alone = alone or SEARCH in filters
    if alone:
        return [page(tx, listing, filters, order, window, (parent, each)) for each in parents]
    found: dict[str, list[Any]] = {each: [] for each in parents}
    place = column_names(listing.table).index(parent)
    for shape, params in _parts(listing, filters, order, window):
        shape = shape._replace(parent=parent, dialect=tx.dialect)
        for row in tx.all(_statement(shape), parents=dump(list(parents)), **params):
            found[row[place]].append(row)
    return [_page(listing, found[each], order, window) for each in parents]


def count(
    tx: Tx, listing: Listing[Any], filters: Mapping[str, Any], parent: Parent | None = None
) -> int:
    """Return the number of rows of a list."""
    if parent is not None:
        return counts(tx, listing, parent[0], [parent[1]], filters)[0]
    if (split := split_archived(listing, filters)) is not None:
        every, archived = (count(tx, listing, each) for each in split)
        return every - archived
    names, params = matching(tx, listing, filters)
    found = tx.first(_count(listing, names, None, False), **params)
    return int(found[0]) if found else 0


def matching(
    tx: Tx, listing: Listing[Any], filters: Mapping[str, Any]
) -> tuple[frozenset[str], dict[str, Any]]:
    """Return the conditions to read a whole list by: their names in it, and their parameters."""
    if SEARCH in filters:
        filters = _indexed_search(tx, filters)
    return frozenset(filters), _params(listing, filters)


def counts(
    tx: Tx, listing: Listing[Any], parent: str, parents: Sequence[str], filters: Mapping[str, Any]
) -> list[int]:
    """Return the number of rows of the list of each parent."""
    if parent == "experiment_id" and (split := split_archived(listing, filters)) is not None:
        every, archived = (counts(tx, listing, parent, parents, each) for each in split)
        return [number - gone for number, gone in zip(every, archived, strict=True)]
    many = len(parents) > 1
    if SEARCH in filters:
        short = all(_short(tx, listing, {**filters, parent: each}) for each in parents)
        walk = _with_search(filters, "search_walk")
        filters = walk if short else _indexed_search(tx, filters)
    params = _params(listing, filters)
    params["parents" if many else "parent"] = dump(list(parents)) if many else parents[0]
    found = dict(tx.all(_count(listing, frozenset(filters), parent, many), **params))
    return [found.get(each, 0) for each in parents]
