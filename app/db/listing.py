"""The lists (experiments, runs, checkpoints, events) with their orders and filters; rows by id.

`app.db.keyset` reads the pages.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

from sqlalchemy import (
    Executable,
    String,
    and_,
    bindparam,
    exists,
    func,
    literal_column,
    or_,
    select,
)
from sqlmodel import SQLModel

from app.db import search
from app.db.cursors import RowT
from app.db.json_lists import JsonNumber, few, one_of
from app.db.list_statements import Listing, unwalked
from app.db.objects import Table
from app.db.rows import (
    CheckpointRow,
    EventRow,
    ExperimentRow,
    MetricLatestRow,
    ProjectRow,
    RunRow,
)
from app.db.search import (
    FirstWithBeginning,
    FirstWithGrams,
    HasBeginning,
    HasGrams,
    Matches,
    MatchesBeginning,
    Position,
)
from app.db.sql import Query, Statement, Tx, columns, dump, query, select_all, select_row
from app.db.tables import (
    PLACE_OF_END,
    Checkpoint,
    Event,
    Experiment,
    ExperimentSearch,
    ExperimentTag,
    MetricLatest,
    Project,
    Run,
    RunSearch,
    RunTag,
)

_experiment = columns(Experiment)
_run = columns(Run)
_checkpoint = columns(Checkpoint)
_event = columns(Event)
_latest = columns(MetricLatest)
# Another name, since the order by a metric reads the same table.
_limited = cast(Any, MetricLatest).__table__.alias("limited").c


def _searched(id: Any, table: type[SQLModel]) -> dict[str, Any]:
    """Return the ways of finding the rows with a text; `keyset` takes the one that reads the least.

    `search_walk`: compares the text of each row of the list. `search_match`: asks the index of
    texts first; `search_short` as well, for a text that is shorter than a gram. `found`: the ids
    of the rows are known.
    """
    text, wanted = columns(table), bindparam("search", type_=String)
    contains = Position(text.text, wanted) > 0
    itself = select(bindparam("search_id", type_=String))
    by_index = {
        name: select(text.id).where(contains, search.of_table(has, table))
        for name, has in (("search_match", HasGrams), ("search_short", HasBeginning))
    }
    # Not EXISTS: PostgreSQL would rather compare all texts there are, once, and remember the ids.
    own = select(text.text).where(text.id == id).scalar_subquery()
    return {
        "search_walk": or_(Position(own, wanted) > 0, id == bindparam("search_id")),
        **{name: id.in_(found.union_all(itself)) for name, found in by_index.items()},
        "found": one_of(id, "found"),
    }


def _matches(table: type[SQLModel]) -> dict[str, Statement[tuple[int]]]:
    """Return the queries for the number of rows that the index of texts finds, up to `most`."""
    return {
        name: Statement(select(search.of_table(matches, table)))
        for name, matches in (("search_match", Matches), ("search_short", MatchesBeginning))
    }


def _hits(table: type[SQLModel]) -> dict[str, Statement[tuple[str, int]]]:
    """Return the queries for the first `most` of these rows: their ids, and where the text is."""
    text = columns(table)
    place = Position(text.text, bindparam("search", type_=String))
    row = select(text.id, place).limit(bindparam("most"))
    return {
        name: Statement(row.where(search.of_table(first, table)))
        for name, first in (("search_match", FirstWithGrams), ("search_short", FirstWithBeginning))
    }


def _tagged(experiment_id: Any, run_id: Any = None) -> Any:
    """Return the condition that an experiment, or a run of it, has every one of the tags."""
    tags, held, own = few("tags"), columns(ExperimentTag), columns(RunTag)

    def has(table: type[SQLModel], tag: Any, is_own: Any) -> Any:
        # Not EXISTS: PostgreSQL may read the tags of all runs for it, once, and remember them.
        found = select(tag).where(tag == tags.c.value, is_own).correlate_except(table)
        return found.scalar_subquery().is_not(None)

    either = has(ExperimentTag, held.tag, held.experiment_id == experiment_id)
    if run_id is not None:
        either = or_(either, has(RunTag, own.tag, own.run_id == run_id))
    return ~exists(select(tags.c.value).where(~either))


def _archived(column: Any) -> dict[str, Any]:
    return {"active": column.is_(None), "archived": column.is_not(None)}


def _equal(table: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(table, name) == bindparam(name) for name in names}


def _within(column: Any, after: str, before: str) -> dict[str, Any]:
    return {after: column >= bindparam(after), before: column < bindparam(before)}


def _among(column: Any, name: str) -> Any:
    # A concatenation, so that the index of a status does not lure from that of an experiment.
    return one_of(unwalked(column), name)


EXPERIMENTS = Listing(
    Experiment,
    ExperimentRow,
    _experiment.id,
    {"created_at": _experiment.created_at, "name": _experiment.name},
    _equal(_experiment, "task_type", "owner", "base_model", "project_id")
    | _within(_experiment.created_at, "created_after", "created_before")
    | {
        "ids": one_of(_experiment.id, "ids"),
        "tags": _tagged(_experiment.id),
    }
    | _archived(_experiment.archived_at)
    | _searched(_experiment.id, ExperimentSearch),
    matches=_matches(ExperimentSearch),
    hits=_hits(ExperimentSearch),
)
RUNS = Listing(
    Run,
    RunRow,
    _run.id,
    {
        "created_at": _run.created_at,
        "started_at": _run.started_at,
        "finished_at": _run.finished_at,
        "step": _run.step,
        "metric": _latest.value,
    },
    _equal(_run, "experiment_id", "model", "recipe", "name", "root_run_id", "parent_run_id")
    | _within(_run.created_at, "created_after", "created_before")
    | {
        "ids": one_of(_run.id, "ids"),
        "id_ends": and_(
            func.substr(_run.id, literal_column(f"{PLACE_OF_END}")) == bindparam("id_end"),
            _run.id.like("%" + bindparam("id_ends", type_=String)),  # no beginning: it has an index
        ),
        "status": _among(_run.status, "status"),
        "tags": _tagged(_run.experiment_id, _run.id),
        "metric": exists().where(
            _limited.run_id == _run.id,
            _limited.key == bindparam("filter_key"),
            _limited.value >= bindparam("filter_min"),
            _limited.value <= bindparam("filter_max"),
        ),
        "hyperparam": and_(
            JsonNumber(_run.hyperparams) >= bindparam("param_min"),
            JsonNumber(_run.hyperparams) <= bindparam("param_max"),
        ),
    }
    | _archived(_run.archived_at)
    | _searched(_run.id, RunSearch)
    | {
        name: exists().where(
            _experiment.id == _run.experiment_id, getattr(_experiment, name) == bindparam(name)
        )
        for name in ("task_type", "owner", "project_id")
    },
    spread="status",
    settled={"step": _run.settled_step},
    matches=_matches(RunSearch),
    hits=_hits(RunSearch),
)
CHECKPOINTS = Listing(
    Checkpoint,
    CheckpointRow,
    _checkpoint.id,
    {
        "created_at": _checkpoint.created_at,
        "marked_at": _checkpoint.marked_at,
        "step": _checkpoint.step,
    },
    _equal(_checkpoint, "experiment_id", "run_id", "tag_type", "release_tag")
    | {
        "state": _among(_checkpoint.state, "state"),
        "marked": (_checkpoint.marked_at.is_not(None)) == bindparam("marked"),
    },
    spread="state",
)
EVENTS = Listing(
    Event,
    EventRow,
    _event.seq,
    {"seq": _event.seq},
    _equal(_event, "experiment_id", "run_id", "type"),
)
PROJECTS = Listing(
    Project, ProjectRow, columns(Project).id, {"created_at": columns(Project).created_at}, {}
)
OF_TABLE: dict[type[Table], Listing[Any]] = {
    listed.table: listed for listed in (EXPERIMENTS, RUNS, CHECKPOINTS, EVENTS, PROJECTS)
}


@cache
def _with_ids(listing: Listing[RowT]) -> Query[[str], RowT]:
    @query(listing.row)
    def find(ids: str) -> Executable:
        return select_all(listing.table).where(one_of(columns(listing.table).id, ids))

    return find


LatestValue = tuple[str, str, int, float | None, float | None]
"""The columns of a MetricLatestRow: a row of its own for each value costs long lists more."""


@query(tuple[str, str, int, float | None, float | None])
def _latest_of(*, ids: str, most: int) -> Executable:
    latest = select_row(MetricLatest, MetricLatestRow).where(one_of(_latest.run_id, ids))
    return latest.order_by(_latest.run_id, _latest.key).limit(most)


@query(tuple[str, str, int, float | None, float | None])
def _latest_of_keys(*, ids: str, keys: str, most: int) -> Executable:
    latest = select_row(MetricLatest, MetricLatestRow).where(
        one_of(_latest.run_id, ids), one_of(_latest.key, keys)
    )
    return latest.order_by(_latest.run_id, _latest.key).limit(most)


def by_ids(tx: Tx, listing: Listing[RowT], ids: Sequence[str]) -> list[RowT | None]:
    """Return the rows with these ids, None where there is none."""
    rows: list[Any] = tx.all(_with_ids(listing), dump(list(ids)))
    by_id = {row.id: row for row in rows}
    return [by_id.get(row_id) for row_id in ids]


class TooMany(Exception):
    """There are more rows than there may be where they are read."""


def latest_metrics(
    tx: Tx, run_ids: Sequence[str], most: int = 2**62, keys: Sequence[str] | None = None
) -> list[list[MetricLatestRow]]:
    """Return the latest value of each key of each run, as `latest_values` does, as rows."""
    of_runs = latest_values(tx, run_ids, most, keys)
    return [list(map(MetricLatestRow._make, values)) for values in of_runs]


def latest_values(
    tx: Tx, run_ids: Sequence[str], most: int, keys: Sequence[str] | None = None
) -> list[list[LatestValue]]:
    """Return the latest value of each key of each run, by key; of all keys without `keys`.

    Raises TooMany where they are more than `most`.
    """
    latest: dict[str, list[LatestValue]] = {run_id: [] for run_id in run_ids}
    ids = dump(list(run_ids))
    if keys is None:
        rows = tx.all(_latest_of, ids=ids, most=most + 1)
    else:
        rows = tx.all(_latest_of_keys, ids=ids, keys=dump(list(keys)), most=most + 1)
    if len(rows) > most:
        raise TooMany
    for row in rows:
        latest[row[0]].append(row)
    return list(latest.values())
