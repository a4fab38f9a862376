"""Runs in groups: how many are in each status, which values they have, which metrics they report.

The conditions are those of the list of runs (`listing.RUNS`), so that a count and the list beside
it agree. `by_status` counts all runs that match; the others look at the newest `NEWEST` of them, so
that their cost does not grow with the table. For a common text, whose runs would all have to be
sorted to find the newest, they read the newest runs of the list instead; for a user of many
experiments, beside very many runs of others, the newest ones of each.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Select, String, bindparam, func, literal_column, select, true

from app.db import counting, tally
from app.db.count_statements import newest_rows
from app.db.list_statements import REMEMBERED
from app.db.listing import RUNS
from app.db.matching import bind
from app.db.narrowing import of_active, of_archived
from app.db.seen import OF_NEWEST, of_seen
from app.db.sql import Statement, Tx, columns
from app.db.tables import Experiment, MetricLatest, Run, RunTag

NEWEST = 10_000
NEWEST_REPORTING = 2_000
"""The same where the metrics of each run are read."""
MAX_VALUES = 500
"""Values in one answer."""

_run = columns(Run)
_experiment = columns(Experiment)
_latest = columns(MetricLatest)
_tag = columns(RunTag)

Counted = tuple[str, int]


class RunFacet(StrEnum):
    """A column of runs whose values may be counted."""

    STATUS = "status"
    MODEL = "model"
    RECIPE = "recipe"
    TASK_TYPE = "task_type"
    OWNER = "owner"
    TAG = "tag"


class ByStatus(NamedTuple):
    """The number of runs in each status; with `is_lower_bound` there are or may be more."""

    counts: list[Counted]
    is_lower_bound: bool = False


def by_status(tx: Tx, filters: Mapping[str, Any]) -> ByStatus:
    """Return how many of the runs that match are in each status; those with none are left out.

    What triggers have not counted is read: the newest `counting.COUNTED` runs that match.
    """
    if tally.covers(Run, filters):
        params = bind(tx, RUNS, filters)
        return ByStatus(tally.by_state(tx, Run, frozenset(filters), params))
    if (parts := of_seen(tx, RUNS, filters)) is not None:
        return _add_counts([by_status(tx, part) for part in parts])
    scope = counting.scope(tx, RUNS, filters)
    counted = tx.all(_by_status(_way(tx, scope, counting.COUNTED + 1)), **scope.params)
    more = sum(count for _, count in counted) > counting.COUNTED
    return ByStatus(counted, more or scope.partial)


def _add_counts(of_each: Sequence[ByStatus]) -> ByStatus:
    """Return the sums of the counts of several lists."""
    numbers = Counter[str]()
    for counted in of_each:
        numbers.update(dict(counted.counts))
    return ByStatus(list(numbers.items()), any(each.is_lower_bound for each in of_each))


def by_status_of(tx: Tx, experiment_ids: Sequence[str]) -> list[list[Counted]]:
    """Return how many runs of each experiment, without those archived, are in each status."""
    counted: dict[str, list[Counted]] = {id: [] for id in experiment_ids}
    for experiment_id, status, count in tally.by_state_of(tx, Run, experiment_ids):
        counted[experiment_id].append((status, count))
    return [counted[id] for id in experiment_ids]


def facet(
    tx: Tx, field: RunFacet, filters: Mapping[str, Any], prefix: str, most: int
) -> list[Counted]:
    """Return the values of a column that begin with `prefix`, the most frequent first."""
    scope = _newest_scope(tx, filters, NEWEST)
    way = _way(tx, scope, NEWEST)
    return tx.all(_facet(field, way), prefix=prefix, most_values=most, **scope.params)


def metric_keys(tx: Tx, filters: Mapping[str, Any], prefix: str, most: int) -> list[Counted]:
    """Return the keys of metrics that begin with `prefix`, and how many runs have reported each."""
    scope = _newest_scope(tx, filters, NEWEST_REPORTING)
    way = _way(tx, scope, NEWEST_REPORTING)
    return tx.all(_metric_keys(way), prefix=prefix, most_values=most, **scope.params)


class _Way(NamedTuple):
    """How the runs are read that are counted: all that makes one statement differ from another.

    `most` of them are, a number in the text: of a parameter no planner knows that it is small.
    """

    names: frozenset[str]
    newest: bool
    states: int
    most: int
    dialect: str


def _way(tx: Tx, scope: counting.Scope, most: int) -> _Way:
    return _Way(scope.names, scope.newest, scope.states, most, tx.dialect)


def _newest_scope(tx: Tx, filters: Mapping[str, Any], most: int) -> counting.Scope:
    """Return how to read the newest `most` runs of a list, or at least enough of them."""
    if (parts := of_seen(tx, RUNS, filters)) is not None:
        filters = parts[0] if len(parts) == 1 else {"found": _newest_of(tx, parts, most)}
    elif filters.keys() <= OF_NEWEST:
        filters, _ = counting.among_newest(tx, RUNS, filters, most)
    return _scope(tx, filters)


def _scope(tx: Tx, filters: Mapping[str, Any]) -> counting.Scope:
    """Return how to read the runs of one list, of which few may be archived, or not archived."""
    if "experiment_id" not in filters and (found := of_archived(tx, RUNS, filters)) is not None:
        filters = found  # those of an experiment have an index for each status
    elif (found := of_active(tx, RUNS, filters)) is not None:
        filters = found
    return counting.scope(tx, RUNS, filters)


def _newest_of(tx: Tx, parts: Sequence[Mapping[str, Any]], most: int) -> list[str]:
    """Return the ids of the newest runs of several lists."""
    places: list[tuple[str, str]] = []
    for part in parts:
        scope = _scope(tx, part)
        places += tx.all(_places(_way(tx, scope, most)), **scope.params)
    return [id for _, id in sorted(places, reverse=True)[:most]]


@lru_cache(REMEMBERED)
def _places(way: _Way) -> Statement[tuple[str, str]]:
    return Statement(_newest(way, _run.created_at, _run.id))


@lru_cache(REMEMBERED)
def _by_status(way: _Way) -> Statement[Counted]:
    rows = _values(_run.status, way)
    return Statement(select(rows.c.value, func.count()).group_by(rows.c.value))


@lru_cache(REMEMBERED)
def _facet(field: RunFacet, way: _Way) -> Statement[Counted]:
    if field is RunFacet.TAG:
        rows = _values(_run.id, way)
        return _counted_of_each(rows, _tag.tag, _tag.run_id, way)
    of_experiment = field in (RunFacet.TASK_TYPE, RunFacet.OWNER)
    own: Any = getattr(_run, "experiment_id" if of_experiment else field.value)
    rows = _values(own, way)
    if not of_experiment:
        return _counted(rows.c.value, select(rows.c.value))
    value = getattr(_experiment, field.value)
    joined = select(value).select_from(rows).join(Experiment, _experiment.id == rows.c.value)
    return _counted(value, joined)


@lru_cache(REMEMBERED)
def _metric_keys(way: _Way) -> Statement[Counted]:
    rows = _values(_run.id, way)
    return _counted_of_each(rows, _latest.key, _latest.run_id, way)


def _counted_of_each(rows: Any, value: Any, run_id: Any, way: _Way) -> Statement[Counted]:
    """Count the values that these runs have in another table, which is looked up run by run.

    SQLite does so as it knows how few runs these are. PostgreSQL would read all of that table, but
    for an OFFSET, by which it plans a query by itself.
    """
    own = select(value).where(run_id == rows.c.value)
    if way.dialect == "sqlite":
        return _counted(value, own)
    each = own.offset(literal_column("0")).lateral("of_each")
    value = each.c[value.name]
    return _counted(value, select(value).select_from(rows.join(each, true())))


def _newest(way: _Way, *selected: Any) -> Select[Any]:
    most: Any = literal_column(f"{way.most}")
    return newest_rows(RUNS, list(selected), way.names, way.newest, way.states, most).limit(most)


def _values(column: Any, way: _Way) -> Any:
    """Return a table with one column `value`: that of the newest runs."""
    return _newest(way, column.label("value")).subquery("counted_runs")


def _counted(value: Any, query: Select[Any]) -> Statement[Counted]:
    prefix = bindparam("prefix", type_=String)
    number = func.count().label("number")
    return Statement(
        query.add_columns(number)
        .where(value.is_not(None), func.substr(value, 1, func.length(prefix)) == prefix)
        .group_by(value)
        .order_by(number.desc(), value)
        .limit(bindparam("most_values"))
    )
