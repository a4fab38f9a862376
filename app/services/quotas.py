"""What projects may have at a time, and what they have. Whether that is enough: `domain.queue`."""

from typing import Any

from sqlalchemy import Executable, func, select
from sqlalchemy.sql.elements import TextClause

from app.db import tables
from app.db.sql import Tx, columns, load, query
from app.db.tables import Checkpoint, Experiment, Project, Run
from app.domain.lifecycle import CheckpointState
from app.domain.queue import ProjectUse, Quota
from app.domain.resources import Resources
from app.services import projects

_project, _run = columns(Project), columns(Run)
_experiment, _checkpoint = columns(Experiment), columns(Checkpoint)


@query(tuple[str, int | None, int | None, int | None])
def _limits() -> Executable:
    return select(_project.id, _project.max_runs, _project.max_gpus, _project.max_bytes)


def _held(where: TextClause, project: Any) -> Executable:
    return (
        select(_run.gpus, _run.resources)
        .select_from(Run)
        .join(Experiment, _experiment.id == _run.experiment_id)
        .where(_experiment.project_id == project, where)
    )


@query(tuple[str, str])
def _launched(*, project: str) -> Executable:
    return _held(tables.LAUNCHED, project)


@query(tuple[str, str])
def _submitted(*, project: str) -> Executable:
    return _held(tables.SUBMITTED, project)


@query(tuple[int | None])
def _bytes(*, project: str) -> Executable:
    return (
        select(func.sum(_checkpoint.size_bytes))
        .select_from(Checkpoint)
        .join(Experiment, _experiment.id == _checkpoint.experiment_id)
        .where(
            _experiment.project_id == project,
            _checkpoint.state == CheckpointState.READY.value,
            _checkpoint.stored_as_id.is_(None),
        )
    )


def list_all(tx: Tx) -> dict[str, Quota]:
    """Return the quota of every project by the project's id."""
    return {id: Quota(runs, gpus, size) for id, runs, gpus, size in tx.all(_limits)}


def find_use(tx: Tx, project_id: str) -> ProjectUse:
    """Return what a project has now, and may have. Raises NotFound.

    Its runs are those that the service starts; checkpoints count as far as they are `ready`.
    """
    project = projects.get(tx, project_id)
    held = [*tx.all(_launched, project=project_id), *tx.all(_submitted, project=project_id)]
    return ProjectUse(
        Quota(project.max_runs, project.max_gpus, project.max_bytes),
        len(held),
        sum(count_gpus(gpus, resources) for gpus, resources in held),
        count_bytes(tx, project_id),
    )


def count_bytes(tx: Tx, project_id: str) -> int:
    """Return the size of all checkpoints of a project."""
    found = tx.first(_bytes, project=project_id)
    return int((found and found[0]) or 0)


def count_gpus(gpus: str, resources: str) -> int:
    """Return how many GPUs a run holds: those on record, else what it asked an engine for."""
    return len(load(gpus)) or Resources.from_dict(load(resources)).gpus_in_all
