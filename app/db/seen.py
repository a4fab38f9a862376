"""Lists of runs for a user who sees few of very many.

An index of all runs also holds those of others: to walk it costs as much as these are many, and a
page that ended at one of them would tell of it in its cursor. So the list is put together from the
user's own experiments:

    up to `MERGED` experiments         the list of each is read by itself; they are merged
    more, in an order of `TIMES`       one statement reads the first runs of each, up to `AT_ONCE`
    more of them, up to `FOUND` runs   the ids of the runs are found first, and then sorted
    more runs                          the list of all is walked

Where only some runs are counted, these are the newest ones of each (`newest_of_seen`).
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Executable, bindparam, func, literal_column, select, true

from app.db import tally
from app.db.cursors import Order
from app.db.json_lists import listed, one_of
from app.db.list_statements import FOUND_BY, INDEXED, Listing, Shape, page_statement
from app.db.matching import SEARCH, with_search
from app.db.sql import Statement, Tx, columns, dump, query
from app.db.tables import Experiment, Run, RunSearch

OF_EXPERIMENT = ("owner", "project_id", "task_type")
"""Filters of runs by what their experiment is."""
OF_NEWEST = {"active", *OF_EXPERIMENT}
"""Filters with which the newest runs of each experiment are the newest ones of the list."""
MERGED = 15
"""Experiments whose lists are read one by one and merged."""
_OLDER = ("archived", "created_after", "created_before")
"""Filters by which the newest runs of a list are others than the newest ones of its experiments."""
TIMES = ("created_at", "started_at", "finished_at")
"""Orders in which each experiment's runs have an index on both databases."""
AT_ONCE = 10_000
"""Runs that one statement reads, the first ones of each experiment, to make a page of them."""
FOUND = 4_000
"""Runs, or experiments, of a user whose runs are found before they are sorted."""
STEP = 16
"""The number of experiments read grows by this factor until their runs are too many."""
PASSED = 10_000
"""The most runs not visible to the user that a walk may pass."""
NOWHERE = ""
"""The id of an experiment that nobody sees."""

_experiment, _run = columns(Experiment), columns(Run)
_MOST: Any = literal_column(f"{FOUND}")


@lru_cache(8)
def _experiments(names: frozenset[str]) -> Statement[tuple[str]]:
    own = [getattr(_experiment, name) == bindparam(name) for name in sorted(names)]
    return Statement(select(_experiment.id).where(*own).limit(bindparam("most")))


@query(tuple[str])
def _runs_on_sqlite(*, experiments: str) -> Executable:
    return select(_run.id).where(one_of(_run.experiment_id, experiments))


@query(tuple[str])
def _runs_on_postgresql(*, experiments: str) -> Executable:
    # It takes a list for one of many runs, and would read those of all experiments.
    parents = listed(experiments)
    runs = select(_run.id).where(_run.experiment_id == parents.c.value)
    own = runs.limit(_MOST).lateral("own")
    return select(own.c.id).select_from(parents.join(own, true()))


RUNS_OF = {"sqlite": _runs_on_sqlite, "postgresql": _runs_on_postgresql}
"""The ids of the runs of few experiments, which have up to `FOUND` runs each."""


@query(tuple[int | None])
def _last_number() -> Executable:
    return select(func.max(columns(RunSearch).number))


def estimate(tx: Tx) -> int:
    """Return about how many runs there are for any user: an exact tally would add up all rows."""
    row = tx.first(_last_number)
    return (row and row[0]) or 0


def of_seen(
    tx: Tx,
    listing: Listing[Any],
    filters: Mapping[str, Any],
    order: Order | None = None,
    size: int = 0,
) -> list[dict[str, Any]] | None:
    """Return the filters of lists that are together what the user sees, if very many are others'.

    None where few are, where an index finds the runs, and where the user sees many runs of many
    experiments. More than `MERGED` lists are only returned where `is_at_once` says so.

    Args:
        order: of a page, which has up to `size` rows.
    """
    if (total := _estimate_walk(tx, listing, filters)) <= PASSED:
        return None
    of = {name: filters[name] for name in OF_EXPERIMENT if name in filters}
    merged = MERGED
    if order is not None and order.field in TIMES and filters.keys() <= OF_NEWEST:
        merged = max(MERGED, AT_ONCE // (size + 1))
    ids, numbers = _look_at(tx, of, merged + 1)
    if total - sum(numbers) <= PASSED:
        return None
    rest = {name: value for name, value in filters.items() if name not in of}
    if len(ids) <= merged:
        return [{**rest, "experiment_id": id} for id in ids or [NOWHERE]]
    most = len(ids)
    while len(ids) == most <= FOUND and sum(numbers) <= FOUND:
        most *= STEP
        ids, numbers = _look_at(tx, of, most)
    if len(ids) == most or sum(numbers) > FOUND:
        return None
    if SEARCH in rest:
        rest = with_search(rest, "search_walk")
    rows = tx.all(RUNS_OF[tx.dialect], experiments=dump(ids))
    return [{**rest, "found": [row[0] for row in rows]}]


def newest_of_seen(
    tx: Tx, listing: Listing[Any], filters: Mapping[str, Any], most: int
) -> list[str] | None:
    """Return the ids of the newest runs of each experiment that a user sees.

    They are about `most` in all, at most `FOUND`, and at least one of each; none that is archived
    if `filters` has "active". None if the index of all runs is to be walked: few of these are
    others', more than `FOUND` experiments are seen, or `filters` asks for archived runs or a time.
    """
    if not filters.keys().isdisjoint(_OLDER):
        return None
    if (total := _estimate_walk(tx, listing, filters)) <= PASSED:
        return None
    of = {name: filters[name] for name in OF_EXPERIMENT if name in filters}
    ids, numbers = _look_at(tx, of, FOUND + 1)
    if total - sum(numbers) <= PASSED or not 0 < len(ids) <= FOUND:
        return None
    active = frozenset(filters.keys() & {"active"})
    if active:
        numbers = tally.totals(tx, Run, ids, active, {})
    newest = Shape(
        listing.narrowed(()), active, "created_at", True, True, frozenset(), tx.dialect,
        parent="experiment_id", is_each=True,
    )  # fmt: skip
    each = share_evenly(numbers, min(most, FOUND))
    return [run.id for run in tx.all(page_statement(newest), parents=dump(ids), most=each)]


def _estimate_walk(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any]) -> int:
    """Return about how many runs a walk of their index reads.

    0 where another index finds them, or the user sees all.
    """
    found_by = (*FOUND_BY, *INDEXED, "ids", "experiment_id")
    if listing.table is not Run or not filters.keys().isdisjoint(found_by) or tx.sees_all():
        return 0
    return estimate(tx)


def is_at_once(parts: Sequence[Mapping[str, Any]], order: Order) -> bool:
    """Return True if a page of these lists is to be read by one statement."""
    if len(parts) <= MERGED or order.field not in TIMES:
        return False
    return {"experiment_id"} <= parts[0].keys() <= {"experiment_id", "active"}


def _look_at(tx: Tx, of: Mapping[str, str], most: int) -> tuple[list[str], list[int]]:
    """Return up to so many experiments that the user sees, and the number of runs of each."""
    ids = [row[0] for row in tx.all(_experiments(frozenset(of)), most=most, **of)]
    return ids, tally.totals(tx, Run, ids, frozenset(), {})


def share_evenly(numbers: Sequence[int], most: int) -> int:
    """Return the largest share, at least 1, that is the same for each and up to `most` in all."""
    each = 0
    for place, number in enumerate(sorted(numbers)):
        each = most // (len(numbers) - place)
        if number > each:
            break
        most -= number
    return max(1, each)
