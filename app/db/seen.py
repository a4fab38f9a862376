"""Lists of a user who sees few of very many runs: those of its experiments, one by one.

An index of all runs has others' between them, as many as there are, and a page of it must not end
at one of these: its cursor would tell of it.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import Executable, bindparam, func, select

from app.db import tally
from app.db.list_statements import FOUND_BY, INDEXED, Listing
from app.db.sql import Statement, Tx, columns, query
from app.db.tables import Experiment, Run, RunSearch

OF_EXPERIMENT = ("owner", "project_id", "task_type")
"""Filters of runs by what their experiment is."""
MERGED = 15
"""Experiments whose lists are read one by one and merged."""
PASSED = 10_000
"""A walk may pass so many runs that the user does not see."""
NOWHERE = ""
"""The id of an experiment that nobody sees."""

_experiment = columns(Experiment)


@lru_cache(8)
def _experiments(names: frozenset[str]) -> Statement[tuple[str]]:
    own = [getattr(_experiment, name) == bindparam(name) for name in sorted(names)]
    return Statement(select(_experiment.id).where(*own).limit(bindparam("most")))


@query(tuple[int | None])
def _last_number() -> Executable:
    return select(func.max(columns(RunSearch).number))


def estimate(tx: Tx) -> int:
    """Return about how many runs there are, whoever asks: the tally of all would be added up."""
    row = tx.first(_last_number)
    return (row and row[0]) or 0


def of_seen(
    tx: Tx, listing: Listing[Any], filters: Mapping[str, Any]
) -> list[dict[str, Any]] | None:
    """Return the filters for each experiment that the user sees, if very many runs are others'.

    None where few are, where an index finds the runs, and where the user sees many experiments.
    """
    found_by = (*FOUND_BY, *INDEXED, "ids", "experiment_id")
    if listing.table is not Run or not filters.keys().isdisjoint(found_by) or tx.sees_all():
        return None
    of = {name: filters[name] for name in OF_EXPERIMENT if name in filters}
    ids = [row[0] for row in tx.all(_experiments(frozenset(of)), most=MERGED + 1, **of)]
    if len(ids) > MERGED:
        return None
    if estimate(tx) - sum(tally.totals(tx, Run, ids, frozenset(), {})) <= PASSED:
        return None
    rest = {name: value for name, value in filters.items() if name not in of}
    return [{**rest, "experiment_id": id} for id in ids or [NOWHERE]]
