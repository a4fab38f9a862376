"""Experiments: create, find, and the whole of one at a glance."""

from typing import NamedTuple

from sqlalchemy import Executable, delete, insert

from app.db import tally
from app.db.rows import CheckpointRow, EventRow, MetricLatestRow, RunRow
from app.db.sql import Tx, columns, dump, load, query, select_all, select_row, statement
from app.db.tables import (
    Checkpoint,
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


@statement
def _insert_text(*, id: str, text: str) -> Executable:
    return insert(ExperimentSearch).values(id=id, text=text).inline()


@statement
def _delete_tags(*, id: str) -> Executable:
    return delete(ExperimentTag).where(columns(ExperimentTag).experiment_id == id)


@query(Experiment)
def _by_id(*, id: str) -> Executable:
    return select_all(Experiment).where(_experiment.id == id)


@query(RunRow)
def _newest_runs(*, experiment: str, most: int) -> Executable:
    return (
        select_all(Run)
        .where(_run.experiment_id == experiment)
        .order_by(_run.created_at.desc(), _run.id.desc())
        .limit(most)
    )


@query(CheckpointRow)
def _newest_checkpoints(*, experiment: str, most: int) -> Executable:
    return (
        select_all(Checkpoint)
        .where(_checkpoint.experiment_id == experiment)
        .order_by(_checkpoint.created_at.desc(), _checkpoint.id.desc())
        .limit(most)
    )


@query(MetricLatestRow)
def _latest_of_newest(*, experiment: str, most: int, most_values: int) -> Executable:
    return (
        select_row(MetricLatest, MetricLatestRow)
        .where(
            _latest.run_id.in_(
                # The same page of runs again, so that one statement serves any number.
                select_all(Run)
                .with_only_columns(_run.id)
                .where(_run.experiment_id == experiment)
                .order_by(_run.created_at.desc(), _run.id.desc())
                .limit(most)
            )
        )
        .order_by(_latest.run_id.desc(), _latest.key)
        .limit(most_values)
    )


MOST_VALUES = 50_000


class Detail(NamedTuple):
    """An experiment with its newest runs, checkpoints and events, each oldest first.

    `totals`: how many of each there are.
    """

    experiment: Experiment
    runs: list[RunRow]
    metrics: dict[str, list[MetricLatestRow]]
    checkpoints: list[CheckpointRow]
    events: list[EventRow]
    totals: dict[str, int]


def create(tx: Tx, request: ExperimentRequest) -> Experiment:
    """Create an experiment, with its first event. Raises NotPermitted, InvalidInput."""
    project_id = projects.choose(tx, request.project)
    experiment = Experiment(
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
    tx.insert(experiment)
    tx.send(_insert_text, id=experiment.id, text=search_text(experiment))
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
    tx.run(_delete_tags, id=experiment.id)
    tags = dict.fromkeys(load(experiment.tags))
    tx.insert(*(ExperimentTag(tag=tag, experiment_id=experiment.id) for tag in tags))


def get(tx: Tx, experiment_id: str) -> Experiment:
    """Return the experiment. Raises NotFound."""
    experiment = tx.first(_by_id, id=experiment_id)
    if experiment is None:
        raise NotFound(f"There is no experiment {experiment_id}.")
    return experiment


def get_detail(tx: Tx, experiment_id: str, most: int) -> Detail:
    """Return the experiment and its newest `most` runs, checkpoints and events. Raises NotFound.

    Fewer runs, where they have more than `MOST_VALUES` metrics together.
    """
    experiment = get(tx, experiment_id)
    runs = tx.all(_newest_runs, experiment=experiment_id, most=most)[::-1]
    metrics: dict[str, list[MetricLatestRow]] = {}
    values = tx.all(
        _latest_of_newest, experiment=experiment_id, most=most, most_values=MOST_VALUES + 1
    )
    if len(values) > MOST_VALUES:
        runs = [run for run in runs if run.id > values[-1].run_id]
    for latest in values:
        metrics.setdefault(latest.run_id, []).append(latest)
    return Detail(
        experiment,
        runs,
        metrics,
        tx.all(_newest_checkpoints, experiment=experiment_id, most=most)[::-1],
        events.list_newest(tx, experiment_id, most),
        {
            "runs": tally.totals(tx, Run, [experiment_id], frozenset(), {})[0],
            "checkpoints": tally.totals(tx, Checkpoint, [experiment_id], frozenset(), {})[0],
            "events": experiment.last_seq,
        },
    )
