"""Counts, facets and comparisons of runs, read for queries."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from app.db import groups
from app.db.database import Effort
from app.db.groups import Counted, RunFacet
from app.db.listing import RUNS
from app.db.sql import Tx, dump
from app.domain.comparison import MISSING, Section
from app.domain.ids import is_id
from app.domain.lifecycle import RunStatus
from app.errors import InvalidInput, NotFound
from app.graphql.budget import OBJECT, VALUE, Budget
from app.graphql.context import Context
from app.graphql.filters import RunFilter, check_text, get_conditions, get_default_conditions
from app.services import overviews, usage
from app.services.usage import Account, By, Period

DEFAULT_FACETS = 50
_ORDER = {status.value: place for place, status in enumerate(RunStatus)}


@dataclass(frozen=True)
class Count:
    """One StatusCount."""

    status: RunStatus
    count: int
    is_lower_bound: bool


@dataclass(frozen=True)
class Value:
    """One Facet."""

    value: str
    count: int


@dataclass(frozen=True)
class Compared:
    """One ComparedParam."""

    section: Section
    key: str
    values: list[str | None]
    differs: bool


def _counts(rows: list[Counted], is_lower_bound: bool = False) -> list[Count]:
    rows = sorted(rows, key=lambda row: _ORDER[row[0]])
    return [Count(RunStatus(status), count, is_lower_bound) for status, count in rows]


async def count_runs(context: Context, chosen: RunFilter | None) -> list[Count]:
    """Return how many of the runs that match are in each status."""
    filters = _conditions(chosen)
    return _counts(*await context.read_groups(groups.by_status, filters))


async def count_runs_of(context: Context, experiments: list[Any]) -> list[list[Count]]:
    """Return the same of the runs of each experiment."""
    ids = [experiment.id for experiment in experiments]
    by_experiment = await context.load("run counts", ids, groups.by_status_of, Effort.LONG)
    return [_counts(rows) for rows in by_experiment]


async def list_facets(
    context: Context, field: RunFacet, chosen: RunFilter | None, prefix: str, first: int
) -> list[Value]:
    """Return the most frequent values of a column of runs."""
    counted = await context.read_groups(
        partial(_read_facet, field), _conditions(chosen), check_text(prefix), _size(first)
    )
    return [Value(*row) for row in counted]


def _read_facet(field: RunFacet, tx: Tx, filters: Any, prefix: str, most: int) -> list[Counted]:
    return groups.facet(tx, field, filters, prefix, most)


async def list_metric_keys(
    context: Context, chosen: RunFilter | None, prefix: str, first: int
) -> list[Value]:
    """Return the most frequent keys of metrics."""
    counted = await context.read_groups(
        groups.metric_keys, _conditions(chosen), check_text(prefix), _size(first)
    )
    return [Value(*row) for row in counted]


def _conditions(chosen: RunFilter | None) -> dict[str, Any]:
    return get_default_conditions(RUNS) if chosen is None else get_conditions(chosen)


def _size(first: int) -> int:
    if not 1 <= first <= groups.MAX_VALUES:
        raise InvalidInput(f"`first` must be 1 to {groups.MAX_VALUES}.")
    return first


async def account(
    context: Context, by: By, period: Period, after: str, first: int
) -> list[Account]:
    """Return the account of ended attempts in groups. Raises InvalidInput, NotFound."""
    if period.experiment_id is not None and not is_id(period.experiment_id, "exp"):
        raise NotFound(f"There is no experiment {period.experiment_id!r}.")
    if period.project_id is not None and not is_id(period.project_id, "prj"):
        raise NotFound(f"There is no project {period.project_id!r}.")
    return await context.db.scan(usage.account, by, period, check_text(after), _size(first))


async def compare(context: Context, ids: list[str], only_different: bool) -> list[Compared]:
    """Return the parameters of runs side by side. Raises InvalidInput, NotFound."""
    if not 1 <= len(ids) <= overviews.MAX_COMPARED:
        raise InvalidInput(f"Compare 1 to {overviews.MAX_COMPARED} runs.")
    for id in ids:
        if not is_id(id, "run"):
            raise NotFound(f"There is no run {id!r}.")
    return await context.db.scan(_compare, ids, only_different, context.budget)


def _compare(tx: Tx, ids: list[str], only_different: bool, budget: Budget) -> list[Compared]:
    compared = []
    for row in overviews.compare(tx, ids):
        if only_different and not row.differs:
            continue
        values = [None if value is MISSING else dump(value) for value in row.values]
        budget.charge(OBJECT + sum(VALUE + len(value or "") for value in values))
        compared.append(Compared(row.section, row.key, values, row.differs))
    return compared
