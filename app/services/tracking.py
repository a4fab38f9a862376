"""Runs and experiments of tracking clients: MLflow's and W&B's words, as this service's use cases.

    create_experiment, find_experiment    by name, which is unique among those of clients
    create_run                            an external run that has a trainer at once
    log, report                           metrics and parameters, as one report
    end                                   what a client says of the end

The lifecycle stays the service's own: what a client says ends an external run, of which nobody
else can know, and never the run of a recipe.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Executable

from app.db.sql import Tx, columns, load, query, select_all
from app.db.tables import Experiment, Run
from app.domain.lifecycle import TERMINAL, RunStatus, is_external
from app.domain.permissions import DEFAULT_PROJECT
from app.domain.reports import MetricColumns, ReportRequest
from app.domain.requests import MAX_NAME, ExperimentRequest, RunRequest, UpdateRunRequest
from app.domain.tracking import NAME_LABEL, moves_progress, parse_parameter
from app.errors import InvalidInput, NameTaken
from app.services import audit, edits, experiments, labels, projects, reports, runs
from app.services.audit import Action

BY_NAME = "experiment"
"""Scope of the names of experiments."""
DEFAULT = "Default"
_experiment = columns(Experiment)


@query(Experiment)
def _newest_of_name(*, wanted: str) -> Executable:
    return (
        select_all(Experiment)
        .where(_experiment.name == wanted)
        .order_by(_experiment.id.desc())
        .limit(1)
    )


class Point(NamedTuple):
    """One value of a metric. `wall_time` is unix seconds, or None."""

    key: str
    step: int
    value: float
    wall_time: float | None


class Writer(NamedTuple):
    """The writer of a run: the trainer of one attempt, or a caller who may write to any run."""

    run_id: str
    attempt: int | None = None


def _scope(project_id: str) -> str:
    """Return the scope of the names of a project's experiments."""
    return BY_NAME if project_id == DEFAULT_PROJECT else f"{BY_NAME} {project_id}"


def find_experiment(tx: Tx, name: str) -> Experiment | None:
    """Return the experiment that clients know under a name, else the newest that has it."""
    known = labels.find_alias_target(tx, _scope(projects.choose_to_read(tx)), name)
    if known is not None:
        return experiments.get(tx, known)
    return tx.first(_newest_of_name, wanted=name)


def create_experiment(
    tx: Tx, name: str, labelled: Mapping[str, str], task_type: str = "mlflow"
) -> Experiment:
    """Create an experiment of a name that none has. Raises NameTaken."""
    if find_experiment(tx, name) is None:
        experiment = experiments.create(tx, ExperimentRequest(name=name, task_type=task_type))
        if labels.add_alias(
            tx, _scope(experiment.project_id), name, experiment.id
        ):  # else another one was faster
            labels.set_labels(tx, experiment.id, labelled)
            audit.record(tx, Action("create_experiment", experiment.id))
            return experiment
    raise NameTaken(f"Experiment {name!r:.300} already exists.")


def get_or_create_experiment(tx: Tx, name: str, task_type: str = "mlflow") -> Experiment:
    """Return the experiment of a name, which is created if there is none."""
    experiment = find_experiment(tx, name)
    return experiment or create_experiment(tx, name, {}, task_type)


def create_run(
    tx: Tx, experiment_id: str, name: str, labelled: Mapping[str, str], heartbeat_seconds: float
) -> Run:
    """Create an external run whose trainer is at work; one without a name gets one.

    Raises NotFound.
    """
    model = name or experiments.get(tx, experiment_id).name
    request = RunRequest(model=model[:MAX_NAME], name=name[:MAX_NAME] or None)
    run = runs.submit(tx, experiment_id, request, {}, heartbeat_seconds)
    labels.set_labels(tx, run.id, {**labelled, NAME_LABEL: name or f"run-{run.id[-6:]}"})
    reports.ingest(tx, run.id, ReportRequest())
    audit.record(tx, Action("create_run", run.id))
    return runs.get(tx, run.id)


def rename(tx: Tx, run_id: str, name: str) -> Run:
    """Give a run the name that a client has for it. Raises NotFound."""
    labels.set_labels(tx, run_id, {NAME_LABEL: name})
    audit.record(tx, Action("update_run", run_id))
    return edits.update_run(tx, run_id, UpdateRunRequest(name=name[:MAX_NAME]))


def log(tx: Tx, writer: Writer, points: Iterable[Point], params: Mapping[str, str]) -> None:
    """Record metrics and parameters, which are texts, as one report. Raises like `report`."""
    requested = load(runs.get(tx, writer.run_id).hyperparams)
    used = {key: parse_parameter(text, requested.get(key)) for key, text in params.items()}
    report(tx, writer, points, used)


def report(
    tx: Tx, writer: Writer, points: Iterable[Point], used: Mapping[str, Any] | None = None
) -> None:
    """Record metrics and hyperparameters as one report; the same again changes nothing.

    Raises NotFound, RunFinished, StaleAttempt, InvalidInput, RunLimit.
    """
    run = runs.lock(tx, writer.run_id)
    columns: dict[str, MetricColumns] = {}
    last = run.total_steps or math.inf
    reached = 0
    for key, step, value, wall_time in points:
        column = columns.get(key)
        if column is None:
            column = columns[key] = MetricColumns.model_construct(
                steps=[], values=[], wall_times=[]
            )
        assert column.wall_times is not None
        column.steps.append(step)
        column.values.append(value)
        column.wall_times.append(wall_time)
        if moves_progress(key, step) and reached < step <= last:
            reached = step
    if not is_external(run) and not run.last_batch and run.heartbeat_seconds is None:
        # These clients are silent while they evaluate or store a model: they send no heartbeats.
        runs.change(tx, run, heartbeat_seconds=0.0)
    request = ReportRequest.model_construct(
        attempt=_attempt(writer, run), step=reached, metrics=columns,
        effective_hyperparams=dict(used) if used else None,
    )  # fmt: skip
    reports.ingest(tx, run.id, request)


def _attempt(writer: Writer, run: Run) -> int | None:
    """Return the attempt that a report is of; one without credentials is of the current one."""
    return writer.attempt if writer.attempt is not None or is_external(run) else run.attempt


def end(tx: Tx, writer: Writer, status: str) -> Run:
    """Record a status that a client tells: it ends an external run, and no other.

    Raises NotFound, InvalidInput.
    """
    run = runs.lock(tx, writer.run_id)
    if status not in ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"):
        raise InvalidInput(f"{status!r:.50} is no status of a run.")
    if not is_external(run) or RunStatus(run.status) in TERMINAL:
        return run
    report: dict[str, Any] = {}
    if status == "KILLED":
        runs.cancel(tx, run.id)
        report = {"finished": True}  # nobody is left to wait for
    elif status == "FINISHED":
        report = {"finished": True}
    elif status == "FAILED":
        report = {"failed": "Its client reports that it has failed."}
    if RunStatus(runs.get(tx, run.id).status) not in TERMINAL:
        reports.ingest(tx, run.id, ReportRequest(**report, attempt=writer.attempt))
    if report:
        audit.record(tx, Action("cancel_run" if status == "KILLED" else "update_run", run.id))
    return runs.get(tx, run.id)


def resolve_experiment(tx: Tx, experiment_id: str) -> Experiment:
    """Return an experiment; "0" is the one called Default, made when it is first needed.

    Raises NotFound.
    """
    if experiment_id == "0":
        return get_or_create_experiment(tx, DEFAULT)
    return experiments.get(tx, experiment_id)
