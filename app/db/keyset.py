"""Keyset pages: any table in any order, filtered, for one parent or for many at once.

`page` reads one page of one list, `read_pages` the same page of the lists of many parents in one
statement; `app.db.list_statements` makes what they run. A cursor is the place of a row in its
order, so a page neither repeats nor skips a row when others come or go. Rows that lack the value
they are ordered by come last, in either direction: they are read by a second statement, so that
each of the two walks an index. An index on the values of a metric holds those of every list, so
many lists are read one by one on SQLite.

What has to be read to be found (a text, a tag, a range) is looked for in the first rows of a long
list (`matching.LOOKED_AT`), where a common one fills the page; only then an index is asked. Where
that finds too many, the page ends early.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from app.db import counting, matching, tally
from app.db.cursors import METRIC, Order, Page, RowT, Window, cursor_of, parse
from app.db.list_statements import (
    FOUND_BY,
    INDEXED,
    Listing,
    Shape,
    page_statement,
    place_statement,
)
from app.db.listing import RUNS
from app.db.matching import SEARCH, Parent, bind, is_short, with_search
from app.db.merging import merge
from app.db.narrowing import narrow, of_active, of_archived, of_experiments, of_few, of_tagged
from app.db.seen import OF_EXPERIMENT, is_at_once, of_seen
from app.db.sql import Tx, dump


def _parts(
    tx: Tx, listing: Listing[Any], filters: Mapping[str, Any], order: Order, window: Window
) -> list[tuple[Shape, dict[str, Any]]]:
    """Return the statements that make a page: of the rows that have the sort value, of the rest."""
    params = bind(tx, listing, filters) | {"most": window.size + 1}
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
            shape = Shape(
                listing, frozenset(filters), order.field, downward, valued, names, tx.dialect
            )
            parts.append((shape, params | bounds))
    return parts[::-1] if window.backward else parts


def _page(listing: Listing[Any], rows: list[Any], order: Order, window: Window) -> Page[Any]:
    more = len(rows) > window.size
    del rows[window.size :]
    if window.backward:
        rows.reverse()
    values: Sequence[Any] = ()
    if order.field == METRIC:
        values = [row[-1] for row in rows]
        rows = [listing.row.__new__(listing.row, *row[:-1]) for row in rows]
    return Page(
        rows,
        values,
        order,
        has_next=window.before is not None if window.backward else more,
        has_previous=more if window.backward else window.after is not None,
        backward=window.backward,
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
    if parent is not None:
        name, id = parent
        if filters.get(name, id) != id:  # the filter names another one
            return _page(listing, [], order, window)
        filters = {**filters, name: id}
    if (parts := of_seen(tx, listing, filters, order, window.size)) is not None:
        return _of_each(tx, listing, parts, order, window)
    if (archived := of_archived(tx, listing, filters)) is not None:
        return _read_all(tx, listing, archived, order, window)
    sort = counting.must_sort(tx, listing, filters, order)
    look = not sort and _must_look(tx, listing, filters, order)
    if look and order.field == "created_at":
        return _read_by_looking(tx, listing, filters, order, window)
    if (active := of_active(tx, listing, filters)) is not None:
        return _read_all(tx, listing, active, order, window)
    if look:
        return _read_by_looking(tx, listing, filters, order, window)
    if (tagged := of_tagged(tx, listing, filters)) is not None:
        return _read_all(tx, listing, tagged, order, window)
    if SEARCH in filters:
        filters = with_search(filters, "search_walk")
    return _read_all(tx, listing, filters, order, window, sort=sort)


def _of_each(
    tx: Tx, listing: Listing[RowT], parts: Sequence[Mapping[str, Any]], order: Order, window: Window
) -> Page[RowT]:
    """Return one page of the lists of experiments, each read by itself; of many at once."""
    if not is_at_once(parts, order):
        return merge([page(tx, listing, part, order, window) for part in parts], order, window)
    of, light = "experiment_id", RUNS.narrowed((order.field,))
    rest = {name: value for name, value in parts[0].items() if name != of}
    first = _read_merged(tx, light, rest, order, window, (of, [part[of] for part in parts]))
    found = {"found": [row.id for row in first.rows]}
    return first._replace(rows=_read_all(tx, listing, found, order, Window(window.size)).rows)


def _read_all(
    tx: Tx,
    listing: Listing[RowT],
    filters: Mapping[str, Any],
    order: Order,
    window: Window,
    *,
    sort: bool = False,
) -> Page[RowT]:
    """Return a page of all rows that match, however many have to be read.

    But of those that lack the metric by which a long list is sorted no more are looked at than
    `matching.LOOKED_AT`: the page may end early there.
    """
    spread, parent = listing.spread or "", dict[str, str]()
    by_text = not FOUND_BY.isdisjoint(filters)
    if spread in filters and order.field == "created_at" and not by_text:
        rest = {name: value for name, value in filters.items() if name != spread}
        if not any(name in rest for name in INDEXED):
            return _read_merged(tx, listing, rest, order, window, (spread, filters[spread]))
    if sort and len(filters.get(spread, ())) == 1:  # they have an index
        parent = {"parent": filters[spread][0]}
        filters = {name: value for name, value in filters.items() if name != spread}

    def parts() -> Iterator[tuple[Shape, dict[str, Any]]]:
        for shape, params in _parts(tx, listing, filters, order, window):
            shape = shape._replace(sort=sort, parent=spread if parent else None)
            if not (by_text or sort or shape.valued):
                shape = _of_lacking(tx, shape, filters)
            yield shape, params | parent

    return _read(tx, listing, parts(), order, window)


def _read(
    tx: Tx,
    listing: Listing[RowT],
    parts: Iterable[tuple[Shape, dict[str, Any]]],
    order: Order,
    window: Window,
) -> Page[RowT]:
    """Return the page that these statements make; one that looks at some rows may end it early."""
    rows: list[Any] = []
    for shape, params in parts:
        rows += tx.all(page_statement(shape), **params)
        if len(rows) > window.size:
            break
        if shape.peek and (place := tx.first(place_statement(shape), **params)) is not None:
            tie, value = place
            return _end_early(_page(listing, rows, order, window), cursor_of(order, value, tie))
    return _page(listing, rows, order, window)


def _of_lacking(tx: Tx, shape: Shape, filters: Mapping[str, Any]) -> Shape:
    """Return how to read the rows that lack what a list is sorted by, which come by their id.

    Those of a short experiment are found and then sorted; of a long list, by a metric, the first
    are looked at; any other is a walk of the primary key.
    """
    of_one, by_metric = "experiment_id" in filters, shape.field == METRIC
    if not (of_one or by_metric):
        return shape
    of_few = not filters.keys().isdisjoint((*INDEXED, "ids"))
    if of_few or not counting.is_long(tx, shape.listing, filters):
        return shape._replace(sort=of_one)
    return shape._replace(peek=matching.LOOKED_AT) if by_metric else shape


def _must_look(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any], order: Order) -> bool:
    """Return True if rows of a list that may be long have to be read to know which ones match."""
    if SEARCH in filters:
        return not is_short(tx, listing, filters)
    if not counting.reads_rows(listing, filters):
        return False
    if "archived" not in filters and len(filters.get("status", ())) < 2:
        # In the order of creation the first rows cost no more than a short list would.
        return order.field == "created_at" or counting.must_read(tx, listing, filters)
    if not counting.must_read(tx, listing, filters):
        return False
    if "experiment_id" not in filters and not filters.keys().isdisjoint(OF_EXPERIMENT):
        return True  # they are spread over a list of all
    counted = {name: filters[name] for name in filters if tally.covers(listing.table, {name: ""})}
    if "status" in counted and order.field != "created_at":
        return True
    # There may be few in these states, which are better read to their end.
    params = bind(tx, listing, counted)
    return tally.total(tx, listing.table, frozenset(counted), params) > counting.READ


def _read_by_looking(
    tx: Tx, listing: Listing[RowT], filters: Mapping[str, Any], order: Order, window: Window
) -> Page[RowT]:
    """Return a page of a list whose rows have to be read to know which ones match.

    The first rows are looked at; where these do not fill it, an index of a long list is asked.
    """
    walked = with_search(filters, "search_walk") if SEARCH in filters else filters
    of_some = not filters.keys().isdisjoint(OF_EXPERIMENT)
    if of_some and order.field == METRIC and counting.must_read(tx, listing, filters):
        few = of_few(tx, listing, walked)  # the first rows by a metric lie far apart
        if few is not None:
            return _read_all(tx, listing, few, order, window)
        if SEARCH not in filters and (parts := of_experiments(tx, listing, filters)) is not None:
            return _of_each(tx, listing, parts, order, window)
    first = _read_among_first(tx, listing, walked, order, window)
    if first.stopped_at is None:
        return first
    if SEARCH not in filters and not counting.must_read(tx, listing, filters):
        return _read_all(tx, listing, filters, order, window)
    narrowed = narrow(tx, listing, filters)
    if narrowed is None:
        return first
    return _read_all(tx, listing, narrowed, order, window)


def _read_among_first(
    tx: Tx, listing: Listing[RowT], filters: Mapping[str, Any], order: Order, window: Window
) -> Page[RowT]:
    """Return a page of the first `matching.LOOKED_AT` rows of a list; it may end early there."""
    spread, parent = listing.spread or "", dict[str, str]()
    if order.field == "created_at" and len(filters.get(spread, ())) == 1:  # they have an index
        parent = {"parent": filters[spread][0]}
        filters = {name: value for name, value in filters.items() if name != spread}
    peek = matching.LOOKED_AT
    if order.field in (METRIC, *listing.settled):  # their index has them far apart on the disk
        peek = max(1, peek // 4)
    parts = [
        (
            shape._replace(
                peek=peek if shape.valued else matching.LOOKED_AT,
                parent=spread if parent else None,
            ),
            params | parent,
        )
        for shape, params in _parts(tx, listing, filters, order, window)
    ]
    return _read(tx, listing, parts, order, window)


def _end_early(page: Page[RowT], at: str) -> Page[RowT]:
    """Return a page that ends early, at a place which need not be that of one of its rows."""
    if page.backward:
        return page._replace(stopped_at=at, has_previous=True)
    return page._replace(stopped_at=at, has_next=True)


def _read_merged(
    tx: Tx,
    listing: Listing[RowT],
    filters: Mapping[str, Any],
    order: Order,
    window: Window,
    spread: tuple[str, Sequence[str]],
) -> Page[RowT]:
    """Return a page of several lists in one: the first rows of each are enough to know it."""
    name, values = spread
    is_each = len(values) > 1
    parents = {"parents": dump(sorted(set(values)))} if is_each else {"parent": values[0]}
    rows: list[Any] = []
    for shape, params in _parts(tx, listing, filters, order, window):
        statement = page_statement(shape._replace(parent=name, is_each=is_each))
        own: list[Any] = tx.all(statement, **parents, **params)
        if is_each:
            by = (order.field, "id") if shape.valued else ("id",)
            own.sort(key=attrgetter(*by), reverse=shape.downward)
        rows += own
        if len(rows) > window.size:
            break
    return _page(listing, rows, order, window)


def read_pages(
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
    alone = alone or SEARCH in filters or "id_ends" in filters
    lacks = listing.lacks(order.field)
    by_value = parent == "experiment_id" and (lacks or order.field in listing.settled)
    is_long = by_value and not alone and counting.is_long(tx, listing, filters, parents)
    alone = alone or (is_long and order.field in (METRIC, *listing.settled))
    alone = alone or counting.must_read(tx, listing, {**filters, parent: ""}, parents)
    if alone:
        return [
            page(tx, listing, filters, order, window, (parent, parent_id)) for parent_id in parents
        ]
    rows: dict[str, list[Any]] = {parent_id: [] for parent_id in parents}
    place = listing.names.index(parent)
    # The rows that lack a value come by their id, and the primary key has those of all lists.
    sort = lacks and not is_long
    for shape, params in _parts(tx, listing, filters, order, window):
        shape = shape._replace(parent=parent, is_each=True, sort=sort and not shape.valued)
        for row in tx.all(page_statement(shape), parents=dump(list(parents)), **params):
            rows[row[place]].append(row)
    return [_page(listing, rows[parent_id], order, window) for parent_id in parents]
