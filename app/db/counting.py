"""Lengths of lists: from the tally that triggers keep, else by reading up to `COUNTED` rows.

A text that many rows have is counted in the newest rows alone, and the answer says so.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from app.db import matching, tally
from app.db.count_statements import count_statement, first_few
from app.db.cursors import METRIC, Order
from app.db.list_statements import BY_INDEX, FOUND_BY, INDEXED, Listing
from app.db.matching import (
    SEARCH,
    Parent,
    bind,
    first_hits,
    is_short,
    with_search,
)
from app.db.seen import estimate, newest_of_seen, of_seen
from app.db.sql import Tx, dump
from app.db.tables import Run
from app.domain.lifecycle import RunStatus

USUAL = 100
"""So many rows of the newest `matching.PEEKED` make a text one that is counted among the newest."""
COUNTED = 10_000
"""Rows that are counted at most where no trigger counts them."""
READ = 10_000
"""The newest runs of a list, among which those are counted that no index tells from the others."""
EXAMINED = 2_000
"""Rows that the index of texts finds and that are then read, to count them."""
LOOKED_AT = 5_000
"""The newest rows of a list, among which a usual text is counted."""
SORTED = 100
"""Runs are found first and then sorted if that reads no more than a hundred steps along an index
of the order, from one of them to the next."""


class Count(NamedTuple):
    """The length of a list; with `is_lower_bound`, it is or may be longer."""

    number: int
    is_lower_bound: bool = False


class Scope(NamedTuple):
    """The conditions for reading a whole list, with their parameters and how far to read.

    `partial`: they do not find all rows that match. `newest`: only the newest rows of the list
    are read, as many as the parameters say. `states`: the runs are in so many states, each of
    which has an index.
    """

    names: frozenset[str]
    params: dict[str, Any]
    partial: bool = False
    newest: bool = False
    states: int = 0


def scope(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any]) -> Scope:
    """Return how to read all rows of a list, or enough of them where very many have a text."""
    partial = False
    more: dict[str, int] = {}
    if SEARCH in filters:
        walked = with_search(filters, "search_walk")
        if is_short(tx, listing, filters):
            filters = walked
        elif _is_usual(tx, listing, walked):
            partial = _has_more(tx, listing, filters, LOOKED_AT)
            filters, more = among_newest(tx, listing, walked, LOOKED_AT)
        else:
            text = filters[SEARCH]
            ids, partial = first_hits(tx, listing, text, EXAMINED)
            filters = {name: filters[name] for name in filters if name != SEARCH}
            filters["found"] = [*ids, text]  # which may be the id of a row
    elif must_read(tx, listing, filters):
        partial, (filters, more) = True, among_newest(tx, listing, filters, READ)
    states = _states(listing, filters)
    params = bind(tx, listing, filters) | more
    params |= {f"state_{place}": state for place, state in enumerate(states)}
    return Scope(frozenset(filters), params, partial, newest=bool(more), states=len(states))


def _states(listing: Listing[Any], filters: Mapping[str, Any]) -> Sequence[str]:
    """Return the states to read one by one, each by its index; none: the whole list is walked.

    The archived runs of an experiment have such an index for every state.
    """
    if listing.table is not Run or not filters.keys() <= BY_INDEX:
        return ()
    of_archived = {"experiment_id", "archived"} <= filters.keys()
    return tuple(dict.fromkeys(filters.get("status", RunStatus if of_archived else ())))


def among_newest(
    tx: Tx, listing: Listing[Any], filters: Mapping[str, Any], most: int
) -> tuple[Mapping[str, Any], dict[str, int]]:
    """Return filters and parameters for reading only the newest `most` rows of a list.

    For a user who sees few of very many runs the filters name the rows, without parameters.
    """
    ids = newest_of_seen(tx, listing, filters, most)
    return (filters, {"looked_at": most}) if ids is None else ({**filters, "found": ids}, {})


def _is_usual(tx: Tx, listing: Listing[Any], walked: Mapping[str, Any]) -> bool:
    """Return True if enough of the newest rows have a text that no others need be read."""
    filters, more = among_newest(tx, listing, walked, matching.PEEKED)
    params = bind(tx, listing, filters) | more
    statement = count_statement(listing, frozenset(filters), None, bool(more))
    row = tx.first(statement, counted=USUAL, **params)
    return row is not None and row[0] >= USUAL


def count(
    tx: Tx, listing: Listing[Any], filters: Mapping[str, Any], parent: Parent | None = None
) -> Count:
    """Return the number of rows of a list, as `counts` does."""
    if parent is not None:
        return counts(tx, listing, parent[0], [parent[1]], filters)[0]
    if tally.covers(listing.table, filters):
        params = bind(tx, listing, filters)
        return Count(tally.total(tx, listing.table, frozenset(filters), params))
    if (parts := of_seen(tx, listing, filters)) is not None:
        numbers = [count(tx, listing, part) for part in parts]
        number = sum(each.number for each in numbers)
        return _bounded(number, any(each.is_lower_bound for each in numbers))
    own = scope(tx, listing, filters)
    statement = count_statement(listing, own.names, None, own.newest, own.states)
    row = tx.first(statement, counted=COUNTED + 1, **own.params)
    return _bounded(row[0] if row else 0, own.partial)


def counts(
    tx: Tx, listing: Listing[Any], parent: str, parents: Sequence[str], filters: Mapping[str, Any]
) -> list[Count]:
    """Return the number of rows of the list of each parent.

    What triggers have not counted is read, up to `COUNTED` rows of each.
    """
    if parent == "experiment_id" and tally.covers(listing.table, filters):
        params = bind(tx, listing, filters)
        numbers = tally.totals(tx, listing.table, parents, frozenset(filters), params)
        return [Count(number) for number in numbers]
    each = SEARCH in filters or (parent == "experiment_id" and bool(_states(listing, filters)))
    if each or must_read(tx, listing, {**filters, parent: ""}, parents):
        return [count(tx, listing, {**filters, parent: parent_id}) for parent_id in parents]
    params = bind(tx, listing, filters) | {"parents": dump(list(parents))}
    statement = count_statement(listing, frozenset(filters), parent, False)
    read = dict(tx.all(statement, counted=COUNTED + 1, **params))
    return [_bounded(read.get(parent_id, 0), False) for parent_id in parents]


def _bounded(number: int, partial: bool) -> Count:
    return Count(min(number, COUNTED), number > COUNTED or partial)


def reads_rows(listing: Listing[Any], filters: Mapping[str, Any]) -> bool:
    """Return True if no index of runs tells which ones pass the filters."""
    names, indexed = filters.keys(), {*INDEXED, *FOUND_BY, "ids"}
    if "experiment_id" not in filters:
        indexed.add("name")
    return listing.table is Run and bool(names - BY_INDEX) and not names & indexed


def must_read(
    tx: Tx, listing: Listing[Any], filters: Mapping[str, Any], experiments: Sequence[str] = ()
) -> bool:
    """Return True if runs of a list of more than `READ` have to be read to know which ones pass."""
    return reads_rows(listing, filters) and is_long(tx, listing, filters, experiments)


def must_sort(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any], order: Order) -> bool:
    """Return True if the runs of a list are to be found first, and then sorted.

    An index of the order has runs in all states, so that those in one may be far apart.
    """
    by_metric, names = order.field == METRIC, filters.keys()
    if order.field == "created_at" or listing.table is not Run:
        return False
    if not names.isdisjoint((*FOUND_BY, *INDEXED)):
        return by_metric
    if "status" not in names:
        return False
    of_experiment = names & {"experiment_id"}
    read = _total(tx, listing, filters, {"status", *of_experiment})
    active = {"status", "active", *of_experiment}
    found = _total(tx, listing, filters, active) if "active" in names else read
    walked = _total(tx, listing, filters, of_experiment) if of_experiment else estimate(tx)
    return read * found < SORTED * walked


def _total(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any], names: Set[str]) -> int:
    """Return how many runs pass some of these filters, which the tally knows."""
    params = bind(tx, listing, {name: filters[name] for name in names})
    return tally.total(tx, Run, frozenset(names), params)


def is_long(
    tx: Tx, listing: Listing[Any], filters: Mapping[str, Any], experiments: Sequence[str] = ()
) -> bool:
    """Return True if an experiment, or one of these, or all of them have more than `READ` runs."""
    if experiments:
        return max(tally.totals(tx, Run, experiments, frozenset(), {})) > READ
    if "experiment_id" not in filters:
        return tally.total(tx, Run, frozenset(), {}) > READ
    return _has_more(tx, listing, filters, READ)


def _has_more(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any], number: int) -> bool:
    """Return True if the list of an experiment has more than so many rows; that of all is long.

    It counts keys of an index. The tally would have to be added up, a row for each submit until
    it is compacted.
    """
    if "experiment_id" not in filters:
        return True
    asked = {"experiment_id": filters["experiment_id"], "few": number + 1}
    row = tx.first(first_few(listing), **asked)
    return row is not None and row[0] > number
