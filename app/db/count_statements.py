"""The statements of how long lists are, and of their newest rows.

`app.db.counting` and `app.db.groups` choose and run them.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import Select, bindparam, func, literal_column, select, true, union_all
from sqlalchemy.sql.util import ClauseAdapter
from sqlalchemy.sql.visitors import iterate

from app.db.json_lists import listed
from app.db.list_statements import FOUND_BY, INDEXED, REMEMBERED, Listing, condition, unwalked
from app.db.sql import Statement, columns


@lru_cache(REMEMBERED)
def count_statement(
    listing: Listing[Any],
    filters: frozenset[str],
    parent: str | None,
    newest: bool,
    states: int = 0,
) -> Statement[Any]:
    """Return the number of rows of a list, counted up to `counted`; with `parent` of each of them.

    `newest`: only of the first rows of the list, `looked_at` of them. `states`: of those in so many
    states (`state_0`, …).
    """
    one: list[Any] = [literal_column("1").label("one")]
    if newest:
        rows = _among_newest(listing, one, filters)
    elif states:
        each = (
            of_state.limit(bindparam("counted"))
            for of_state in _of_states(listing, one, filters, states)
        )
        rows = select(_union(each))
    else:
        rows = _matching(listing, one, filters)
    rows = rows.limit(bindparam("counted"))
    if parent is None:
        return Statement(select(func.count()).select_from(rows.subquery("counted_rows")))
    parents, column = listed("parents"), listing.column(parent)
    own = (column if FOUND_BY.isdisjoint(filters) else unwalked(column)) == parents.c.value
    of_parent = rows.where(own).correlate(parents).subquery("counted_rows")
    number = select(func.count()).select_from(of_parent).scalar_subquery()
    return Statement(select(parents.c.value, number))


def newest_rows(
    listing: Listing[Any],
    selected: list[Any],
    filters: frozenset[str],
    newest: bool,
    states: int,
    most: Any,
) -> Select[Any]:
    """Return the query for the rows of a list, newest first.

    Args:
        newest: for those of its newest rows that match, `looked_at` of them.
        states: for those in so many states (`state_0`, …), the newest `most` of each.
    """
    if newest:
        return _among_newest(listing, selected, filters)
    if states:
        return _newest_of_each(listing, selected, filters, states, most)
    by = [columns(listing.table).created_at, listing.tie]
    if not FOUND_BY.isdisjoint(filters):
        by = [unwalked(column) for column in by]
    return _matching(listing, selected, filters).order_by(*(column.desc() for column in by))


def _matching(listing: Listing[Any], selected: list[Any], filters: frozenset[str]) -> Select[Any]:
    by_text = not FOUND_BY.isdisjoint(filters)
    conditions = [condition(listing, name, by_text) for name in sorted(filters)]
    return select(*selected).select_from(listing.table).where(*conditions)


def _newest_of_each(
    listing: Listing[Any], selected: list[Any], filters: frozenset[str], states: int, most: Any
) -> Select[Any]:
    """Return the query for the newest rows of each state, by the index that it has.

    A walk of the whole list would read all of it for a state that few rows are in.
    """
    newest = [columns(listing.table).created_at.desc(), listing.tie.desc()]
    if states == 1:
        return next(_of_states(listing, selected, filters, 1)).order_by(*newest)
    used = _used(listing, [listing.tie, *selected, *newest])
    of_states = _of_states(listing, used, filters, states)
    rows = _union(each.order_by(*newest).limit(most) for each in of_states)
    adapted: Any = ClauseAdapter(rows).traverse
    return select(*map(adapted, selected)).order_by(*map(adapted, newest))


def _of_states(
    listing: Listing[Any], selected: list[Any], filters: frozenset[str], states: int
) -> Iterator[Select[Any]]:
    """Yield the query for the rows of each state."""
    spread = listing.spread or ""
    for place in range(states):
        is_in = listing.column(spread) == bindparam(f"state_{place}")
        yield _matching(listing, selected, filters - {spread}).where(is_in)


def _union(queries: Iterable[Select[Any]]) -> Any:
    """Return a table of the rows of all. SQLite takes no LIMIT right within a UNION."""
    return union_all(*(select(query.subquery()) for query in queries)).subquery("of_states")


def _among_newest(
    listing: Listing[Any], selected: list[Any], filters: frozenset[str]
) -> Select[Any]:
    own = columns(listing.table)
    at_once = [name for name in sorted(filters) if name in ("experiment_id", *INDEXED)]
    later = [listing.filters[name] for name in sorted(filters) if name not in at_once]
    rows = select(*_used(listing, [listing.tie, *selected, *later]))
    rows = rows.where(*(listing.filters[name] for name in at_once))
    rows = rows.order_by(own.created_at.desc(), listing.tie.desc()).limit(bindparam("looked_at"))
    first = rows.subquery("newest_rows")
    adapted: Any = ClauseAdapter(first).traverse
    # PostgreSQL may make a bare EXISTS a join, and read the newest rows again for each match.
    conditions = (adapted(asked).is_(true()) for asked in later)
    return select(*map(adapted, selected)).select_from(first).where(*conditions)


@lru_cache(REMEMBERED)
def first_few(listing: Listing[Any]) -> Statement[tuple[int]]:
    rows = (
        select(listing.tie)
        .where(listing.filters["experiment_id"])
        .limit(bindparam("few"))
        .subquery()
    )
    return Statement(select(func.count()).select_from(rows))


def _used(listing: Listing[Any], clauses: Iterable[Any]) -> list[Any]:
    """Return the columns of the table that these clauses name.

    Of rows that are looked at SQLite copies each column that is selected.
    """
    table = cast(Any, listing.table).__table__
    used = {part for clause in clauses for part in iterate(clause)}
    return [column for column in table.columns if column in used]
