"""Runs in groups: how many are in each status, which values they have, which metrics they report.

The conditions are those of the list of runs (`listing.RUNS`), so that a count and the list beside
it agree. `by_status` counts all runs that match; the others look at the newest `NEWEST` of them, so
that what they cost does not grow with the table.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar

from sqlalchemy import Select, String, bindparam, func, select

from app.db import keyset
from app.db.json_lists import one_of
from app.db.listing import RUNS
from app.db.sql import Statement, Tx, columns, dump
from app.db.tables import Experiment, MetricLatest, Run, RunTag

NEWEST = 10_000
MAX_VALUES = 500
"""Values in one answer."""

_run = columns(Run)
_experiment = columns(Experiment)
_latest = columns(MetricLatest)
_tag = columns(RunTag)

K = TypeVar("K")
Counted = tuple[str, int]


class RunFacet(StrEnum):
    """A column of runs whose values may be counted."""

    STATUS = "status"
    MODEL = "model"
    RECIPE = "recipe"
    TASK_TYPE = "task_type"
    OWNER = "owner"
    TAG = "tag"


def by_status(tx: Tx, filters: Mapping[str, Any]) -> list[Counted]:
    """Return how many of the runs that match are in each status; those with none are left out."""
    if (split := keyset.split_archived(RUNS, filters)) is not None:
        every, archived = (by_status(tx, each) for each in split)
        return _less(every, archived)
    names, params = keyset.matching(tx, RUNS, filters)
    return tx.all(_by_status(names), **params)


def by_status_of(tx: Tx, experiment_ids: Sequence[str]) -> list[list[Counted]]:
    """Return how many runs of each experiment, without those archived, are in each status."""
    every, archived = (
        tx.all(statement, ids=dump(list(experiment_ids)))
        for statement in (_OF_EXPERIMENTS, _ARCHIVED_OF_EXPERIMENTS)
    )
    left = _less(
        [((id, status), count) for id, status, count in every],
        [((id, status), count) for id, status, count in archived],
    )
    found: dict[str, list[Counted]] = {id: [] for id in experiment_ids}
    for (experiment_id, status), count in left:
        found[experiment_id].append((status, count))
    return [found[id] for id in experiment_ids]


def _less(every: Sequence[tuple[K, int]], some: Sequence[tuple[K, int]]) -> list[tuple[K, int]]:
    gone = dict(some)
    return [(key, count - gone.get(key, 0)) for key, count in every if count > gone.get(key, 0)]


def facet(
    tx: Tx, field: RunFacet, filters: Mapping[str, Any], prefix: str, most: int
) -> list[Counted]:
    """Return the values of a column that begin with `prefix`, the most frequent first."""
    names, params = keyset.matching(tx, RUNS, filters)
    return tx.all(_facet(field, names), prefix=prefix, most_values=most, newest=NEWEST, **params)


def metric_keys(tx: Tx, filters: Mapping[str, Any], prefix: str, most: int) -> list[Counted]:
    """Return the keys of metrics that begin with `prefix`, and how many runs have reported each."""
    names, params = keyset.matching(tx, RUNS, filters)
    return tx.all(_metric_keys(names), prefix=prefix, most_values=most, newest=NEWEST, **params)


def _of_experiments(*conditions: Any) -> Statement[tuple[str, str, int]]:
    return Statement(
        select(_run.experiment_id, _run.status, func.count())
        .where(one_of(_run.experiment_id, "ids"), *conditions)
        .group_by(_run.experiment_id, _run.status)
    )


_OF_EXPERIMENTS = _of_experiments()
_ARCHIVED_OF_EXPERIMENTS = _of_experiments(RUNS.filters["archived"])


def _where(filters: frozenset[str]) -> list[Any]:
    return [RUNS.filters[name] for name in sorted(filters)]


@lru_cache(keyset.REMEMBERED)
def _by_status(filters: frozenset[str]) -> Statement[Counted]:
    counted = select(_run.status, func.count()).select_from(Run)
    return Statement(counted.where(*_where(filters)).group_by(_run.status))


@lru_cache(keyset.REMEMBERED)
def _facet(field: RunFacet, filters: frozenset[str]) -> Statement[Counted]:
    if field is RunFacet.TAG:
        newest = _newest(select(_run.id.label("value")), filters)
        joined = select(_tag.tag).select_from(newest)
        return _counted(_tag.tag, joined.join(RunTag, _tag.run_id == newest.c.value))
    of_experiment = field in (RunFacet.TASK_TYPE, RunFacet.OWNER)
    own: Any = getattr(_run, "experiment_id" if of_experiment else field.value)
    newest = _newest(select(own.label("value")), filters)
    if not of_experiment:
        return _counted(newest.c.value, select(newest.c.value))
    value = getattr(_experiment, field.value)
    joined = select(value).select_from(newest).join(Experiment, _experiment.id == newest.c.value)
    return _counted(value, joined)


@lru_cache(keyset.REMEMBERED)
def _metric_keys(filters: frozenset[str]) -> Statement[Counted]:
    newest = _newest(select(_run.id.label("value")), filters)
    joined = select(_latest.key).select_from(newest)
    return _counted(_latest.key, joined.join(MetricLatest, _latest.run_id == newest.c.value))


def _newest(query: Select[Any], filters: frozenset[str]) -> Any:
    query = query.where(*_where(filters)).order_by(_run.created_at.desc(), _run.id.desc())
    return query.limit(bindparam("newest")).subquery("newest")


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
