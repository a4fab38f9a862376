"""Changes to what describes a run or an experiment: name, notes, tags, archive.

None of it changes what a run does, but for the priority, which orders the queue. An event names
what was changed; a change that changes nothing writes none.
"""

from typing import Any

from sqlalchemy import Executable, literal_column, null, update

from app.db.changes import SUPERVISOR
from app.db.objects import replace
from app.db.sql import Tx, changing, columns, dump, query, select_all, statement
from app.db.tables import Experiment, ExperimentSearch, Run
from app.domain.lifecycle import TERMINAL, RunStatus
from app.domain.requests import UpdateExperimentRequest, UpdateRunRequest
from app.errors import Conflict, NotFound
from app.services import events, experiments, runs

_run = columns(Run)
_experiment = columns(Experiment)


@query(Experiment)
def _lock(*, id: str) -> Executable:
    return select_all(Experiment).where(_experiment.id == id).with_for_update()


@statement
def _set_experiment_text(*, id: str, words: str) -> Executable:
    return update(ExperimentSearch).where(columns(ExperimentSearch).id == id).values(text=words)


_ENDED = _run.status.in_([literal_column(f"'{status.value}'") for status in sorted(TERMINAL)])


@statement
def _archive_runs(*, experiment: str, at: str) -> Executable:
    return (
        update(Run)
        .where(_run.experiment_id == experiment, _run.archived_at.is_(None), _ENDED)
        .values(archived_at=at)
    )


@statement
def _restore_runs(*, experiment: str, at: str) -> Executable:
    return (
        update(Run)
        .where(_run.experiment_id == experiment, _run.archived_at == at)
        .values(archived_at=null())
    )


def update_run(
    tx: Tx, run_id: str, request: UpdateRunRequest, experiment_id: str | None = None
) -> Run:
    """Change the fields of a run that were given. Raises NotFound, Conflict.

    A run that has not ended cannot be archived: it would go on unseen.
    """
    run = runs.lock(tx, run_id, experiment_id)
    changes: dict[str, Any] = {}
    for name in request.model_fields_set:
        value = getattr(request, name)
        match name:
            case "tags":
                changes["tags"] = dump(value)
            case "priority":
                changes["priority"] = value.rank
            case "archived":
                changes["archived_at"] = (run.archived_at or tx.now) if value else None
            case _:
                changes[name] = value
    changes = {name: value for name, value in changes.items() if getattr(run, name) != value}
    if changes.get("archived_at") and RunStatus(run.status) not in TERMINAL:
        raise Conflict(f"Run {run.id} is {run.status}; cancel it before it is archived.")
    if not changes:
        return run
    if "priority" in changes:
        tx.notify(SUPERVISOR)
    run = runs.change(tx, run, **changes)
    if "tags" in changes:
        runs.set_tags(tx, run)
    if changes.keys() & {"name", "notes", "tags"}:
        runs.put_text(tx, run)
    events.append(
        tx, run.experiment_id, "run.updated", run_id=run.id, changed=_list_changed_fields(changes)
    )
    return run


def update_experiment(tx: Tx, experiment_id: str, request: UpdateExperimentRequest) -> Experiment:
    """Change the fields of an experiment that were given. Raises NotFound.

    Its runs that have ended are archived with it, and come back with it.
    """
    experiment = tx.first(_lock, id=experiment_id)
    if experiment is None:
        raise NotFound(f"There is no experiment {experiment_id}.")
    changes: dict[str, Any] = {}
    for name in request.model_fields_set:
        value = getattr(request, name)
        if name == "archived":
            changes["archived_at"] = (experiment.archived_at or tx.now) if value else None
        else:
            changes[name] = dump(value) if name == "tags" else value
    changes = {name: value for name, value in changes.items() if getattr(experiment, name) != value}
    if not changes:
        return experiment
    if "archived_at" in changes:
        if changes["archived_at"]:
            tx.run(_archive_runs, experiment=experiment.id, at=changes["archived_at"])
        elif experiment.archived_at:
            tx.run(_restore_runs, experiment=experiment.id, at=experiment.archived_at)
    tx.run(changing(Experiment, frozenset(changes)), key=experiment.id, **changes)
    experiment = replace(experiment, **changes)
    if "tags" in changes:
        experiments.set_tags(tx, experiment)
    tx.run(_set_experiment_text, id=experiment.id, words=experiments.search_text(experiment))
    events.append(tx, experiment.id, "experiment.updated", changed=_list_changed_fields(changes))
    return replace(experiment, last_seq=experiment.last_seq + 1)


def _list_changed_fields(changes: dict[str, Any]) -> list[str]:
    return sorted("archived" if name == "archived_at" else name for name in changes)
