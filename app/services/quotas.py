"""Quotas of projects and their current use. `domain.queue` decides what fits."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Executable, func, select
from sqlalchemy.sql.elements import TextClause

from app.db import tables
from app.db.json_lists import one_of
from app.db.sql import Tx, columns, dump, load, query
from app.db.tables import Checkpoint, Experiment, Project, Run
from app.domain.lifecycle import CheckpointState
from app.domain.quotas import ProjectUse, Quota
from app.domain.resources import Resources
from app.services import projects

_project, _run = columns(Project), columns(Run)
_experiment, _checkpoint = columns(Experiment), columns(Checkpoint)


_LIMITS = select(_project.id, _project.max_runs, _project.max_gpus, _project.max_bytes)


@query(tuple[str, int | None, int | None, int | None])
def _limits() -> Executable:
    return _LIMITS


@query(tuple[str, int | None, int | None, int | None])
def _limits_of(*, projects: str) -> Executable:
    return _LIMITS.where(one_of(_project.id, projects))


def _held(where: TextClause, projects: Any) -> Executable:
    return (
        select(_experiment.project_id, _run.gpus_held, _run.gpus, _run.resources)
        .select_from(Run)
        .join(Experiment, _experiment.id == _run.experiment_id)
        .where(one_of(_experiment.project_id, projects), where)
    )


@query(tuple[str, int | None, str, str])
def _launched(*, projects: str) -> Executable:
    return _held(tables.LAUNCHED, projects)


@query(tuple[str, int | None, str, str])
def _submitted(*, projects: str) -> Executable:
    return _held(tables.SUBMITTED, projects)


@query(tuple[str, int | None])
def _bytes(*, projects: str) -> Executable:
    return (
        select(_experiment.project_id, func.sum(_checkpoint.size_bytes))
        .select_from(Checkpoint)
        .join(Experiment, _experiment.id == _checkpoint.experiment_id)
        .where(
            one_of(_experiment.project_id, projects),
            _checkpoint.state == CheckpointState.READY.value,
            _checkpoint.stored_as_id.is_(None),
        )
        .group_by(_experiment.project_id)
    )


def list_all(tx: Tx) -> dict[str, Quota]:
    """Return the quota of every project by the project's id."""
    return {id: Quota(runs, gpus, size) for id, runs, gpus, size in tx.all(_limits)}


def find_use(tx: Tx, project_id: str) -> ProjectUse:
    """Return what a project has now, and may have. Raises NotFound.

    Its runs are those that the service starts; checkpoints count as far as they are `ready`.
    """
    projects.get(tx, project_id)
    return find_uses(tx, [project_id])[project_id]


def find_uses(tx: Tx, project_ids: Sequence[str]) -> dict[str, ProjectUse]:
    """Return the same of several projects; of one that is not seen, nothing."""
    ids = dump(project_ids)
    uses = {id: ProjectUse() for id in project_ids}
    for id, *limits in tx.all(_limits_of, projects=ids):
        uses[id].quota = Quota(*limits)
    for statement in (_launched, _submitted):
        for id, held, gpus, resources in tx.all(statement, projects=ids):
            if held is None:  # launched by an earlier version
                held = Resources.from_dict(load(resources)).count_held(load(gpus))
            uses[id].add(held)
    for id, size in tx.all(_bytes, projects=ids):
        uses[id].bytes = int(size or 0)
    return uses


def count_bytes(tx: Tx, project_id: str) -> int:
    """Return the size of all checkpoints of a project."""
    row = tx.first(_bytes, projects=dump([project_id]))
    return int((row and row[1]) or 0)
