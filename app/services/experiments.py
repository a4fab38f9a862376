"""Experiments: create, find, and the whole of one at a glance."""

from typing import Any, NamedTuple

from sqlalchemy import bindparam, delete, func, insert, select

from app.db.sql import Statement, Tx, as_dict, columns, dump, load, new_row, select_all
from app.db.tables import (
    Checkpoint,
    Event,
    Experiment,
    ExperimentSearch,
    ExperimentTag,
    MetricLatest,
    Run,
)
from app.domain.ids import new_id
from app.domain.requests import ExperimentRequest
from app.domain.texts import searchable
from app.errors import NotFound
from app.services import events, projects

_experiment = columns(Experiment)
_run = columns(Run)
_checkpoint = columns(Checkpoint)
_latest = columns(MetricLatest)

_INSERT = Statement[Any](insert(Experiment))
_INSERT_TEXT = Statement[Any](
    insert(ExperimentSearch).values(id=bindparam("id"), text=bindparam("text")).inline()
)
_INSERT_TAG = Statement[Any](insert(ExperimentTag))
_DELETE_TAGS = Statement[Any](
    delete(ExperimentTag).where(columns(ExperimentTag).experiment_id == bindparam("id"))
)
_BY_ID = Statement(select_all(Experiment).where(_experiment.id == bindparam("id")), Experiment)
_RUNS = Statement(
    select_all(Run)
    .where(_run.experiment_id == bindparam("experiment"))
    .order_by(_run.created_at.desc(), _run.id.desc())
    .limit(bindparam("most")),
    Run,
)
_CHECKPOINTS = Statement(
    select_all(Checkpoint)
    .where(_checkpoint.experiment_id == bindparam("experiment"))
    .order_by(_checkpoint.created_at.desc(), _checkpoint.id.desc())
    .limit(bindparam("most")),
    Checkpoint,
)
_COUNT_RUNS, _COUNT_CHECKPOINTS = (
    Statement[tuple[int]](
        select(func.count()).select_from(table).where(column == bindparam("experiment"))
    )
    for table, column in (
        (Run, _run.experiment_id), (Checkpoint, _checkpoint.experiment_id),
    )
)  # fmt: skip
_LATEST = Statement(
    select_all(MetricLatest)
    .where(
        _latest.run_id.in_(
            # The same page of runs again, so that one statement serves any number.
            select_all(Run)
            .with_only_columns(_run.id)
            .where(_run.experiment_id == bindparam("experiment"))
            .order_by(_run.created_at.desc(), _run.id.desc())
            .limit(bindparam("most"))
        )
    )
    .order_by(_latest.run_id.desc(), _latest.key)
    .limit(bindparam("most_values")),
    MetricLatest,
)
MOST_VALUES = 50_000


class Detail(NamedTuple):
    """An experiment with its newest runs, checkpoints and events, each oldest first.

    `totals`: how many of each there are.
    """

    experiment: Experiment
    runs: list[Run]
    metrics: dict[str, list[MetricLatest]]
    checkpoints: list[Checkpoint]
    events: list[Event]
    totals: dict[str, int]


def create(tx: Tx, request: ExperimentRequest) -> Experiment:
    """Create an experiment, with its first event. Raises NotPermitted, InvalidInput."""
    project_id = projects.choose(tx, request.project)
    experiment = new_row(
        Experiment,
        id=new_id("exp"),
        name=request.name,
        task_type=request.task_type,
        goal=request.goal,
        version=request.version,
        base_model=request.base_model,
        owner=request.owner,
        param_config=dump(request.param_config),
        tags=dump(request.tags),
        created_at=tx.now,
        last_seq=0,
        notes=request.notes,
        archived_at=None,
        project_id=project_id,
    )
    tx.send(_INSERT, **as_dict(experiment))
    tx.send(_INSERT_TEXT, id=experiment.id, text=search_text(experiment))
    if request.tags:
        set_tags(tx, experiment)
    events.append(tx, experiment.id, "experiment.created", name=request.name)
    return experiment


def search_text(experiment: Experiment) -> str:
    """Return the text that an experiment is found by."""
    row = experiment
    return searchable((row.name, row.goal, row.owner, row.base_model, row.task_type, row.notes))


def set_tags(tx: Tx, experiment: Experiment) -> None:
    """Store the tags of an experiment for filters, in the place of those that it had."""
    tx.run(_DELETE_TAGS, id=experiment.id)
    tags = dict.fromkeys(load(experiment.tags))
    tx.many(_INSERT_TAG, [{"tag": tag, "experiment_id": experiment.id} for tag in tags])


def get(tx: Tx, experiment_id: str) -> Experiment:
    """Return the experiment. Raises NotFound."""
    experiment = tx.first(_BY_ID, id=experiment_id)
    if experiment is None:
        raise NotFound(f"There is no experiment {experiment_id}.")
    return experiment


def detail(tx: Tx, experiment_id: str, most: int) -> Detail:
    """Return the experiment and its newest `most` runs, checkpoints and events. Raises NotFound.

    Fewer runs, where they have more than `MOST_VALUES` metrics together.
    """
    experiment = get(tx, experiment_id)
    runs = tx.all(_RUNS, experiment=experiment_id, most=most)[::-1]
    metrics: dict[str, list[MetricLatest]] = {}
    values = tx.all(_LATEST, experiment=experiment_id, most=most, most_values=MOST_VALUES + 1)
    if len(values) > MOST_VALUES:
        runs = [run for run in runs if run.id > values[-1].run_id]
    for latest in values:
        metrics.setdefault(latest.run_id, []).append(latest)
    return Detail(
        experiment,
        runs,
        metrics,
        tx.all(_CHECKPOINTS, experiment=experiment_id, most=most)[::-1],
        events.newest(tx, experiment_id, most),
        {
            "runs": _count(tx, _COUNT_RUNS, experiment_id),
            "checkpoints": _count(tx, _COUNT_CHECKPOINTS, experiment_id),
            "events": experiment.last_seq,
        },
    )


def _count(tx: Tx, statement: Statement[tuple[int]], experiment_id: str) -> int:
    row = tx.first(statement, experiment=experiment_id)
    return row[0] if row else 0
