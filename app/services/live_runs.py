"""The runs that the supervisor looks at: those that wait in its queue, and those under way.

Several thousand rows may be read twice a second, so runs under way are light `LiveRun` rows. What
is decided about them is in `launches` (starts) and `endings` (ends).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Executable, and_, func, literal_column, select, tuple_

from app.db import tables
from app.db.sql import Statement, Tx, columns, query
from app.db.tables import AttemptUsage, Checkpoint, Experiment, Run
from app.domain.lifecycle import TERMINAL, CheckpointState, RunStatus
from app.errors import NotFound
from app.services import runs

_run, _experiment, _usage = columns(Run), columns(Experiment), columns(AttemptUsage)
_checkpoint = columns(Checkpoint)


class QueuedRun(NamedTuple):
    """The fields of a waiting run that the supervisor needs."""

    id: str
    experiment_id: str
    project_id: str
    recipe: str | None
    priority: int
    attempt: int
    resources: str
    status: str
    status_reason: str | None
    status_detail: str | None
    next_attempt_at: str | None
    launcher: str | None
    submitted_at: str | None
    source_checkpoint_id: str | None
    source_ckpt_path: str | None
    queued_at: str
    """The time at which it was submitted, or its last attempt ended."""


_OF_OTHERS = {
    "project_id": _experiment.project_id,
    "queued_at": func.coalesce(_usage.ended_at, _run.created_at),
}


@query(QueuedRun)
def _queued(*, priority: int, id: str, most: int) -> Executable:
    return (
        select(*[_OF_OTHERS.get(name, _run.get(name)) for name in QueuedRun._fields])
        .select_from(Run)
        .join(Experiment, _experiment.id == _run.experiment_id)
        .outerjoin(AttemptUsage, and_(_usage.run_id == _run.id, _usage.attempt == _run.attempt))
        .where(
            # In the words of the index ix_run_queue; within a priority by id, which is by time.
            _run.status == literal_column("'queued'"),
            _run.recipe.is_not(None),
            _run.submitted_at.is_(None),
            tuple_(_run.priority, _run.id) > tuple_(priority, id),
        )
        .order_by(_run.priority, _run.id)
        .limit(most)
    )


@query(tuple[int])
def _waiting(*, priority: int, id: str) -> Executable:
    return (
        select(func.count())
        .select_from(Run)
        .where(
            _run.status == literal_column("'queued'"),
            _run.recipe.is_not(None),
            _run.submitted_at.is_(None),
            tuple_(_run.priority, _run.id) <= tuple_(priority, id),
        )
    )


class LiveRun(NamedTuple):
    """The fields of a run with a trainer that the supervisor reads twice a second."""

    id: str
    experiment_id: str
    recipe: str | None
    status: str
    status_reason: str | None
    status_detail: str | None
    termination_reason: str | None
    attempt: int
    nonce: str | None
    host: str | None
    launcher: str | None
    engine_id: str | None
    submitted_at: str | None
    claimed_at: str | None
    gpus: str
    resources: str
    step: int
    finished: bool
    launched_at: str | None
    heartbeat_at: str | None
    heartbeat_seconds: float | None
    last_progress_at: str | None
    promised_checkpoint_id: str | None
    priority: int
    preemptions: int


AnyRun = Run | LiveRun


def _live(where: Any) -> Statement[LiveRun]:
    statement = select(*[_run[name] for name in LiveRun._fields])
    return Statement(statement.where(where).order_by(_run.id), LiveRun)


# In the words of the indexes.
_LAUNCHED = _live(tables.LAUNCHED)
_SUBMITTED = _live(tables.SUBMITTED)
_EXTERNAL = _live(tables.EXTERNAL)
_ENDING = _live(tables.ENDING)
_PROJECTS_OF_LIVE = [
    Statement[tuple[str, str]](
        select(_run.id, _experiment.project_id)
        .select_from(Run)
        .join(Experiment, _experiment.id == _run.experiment_id)
        .where(where)
    )
    for where in (tables.LAUNCHED, tables.SUBMITTED)
]
_SAVED = Statement[tuple[str]](
    select(_run.id)
    .distinct()
    .select_from(Run)
    .join(
        Checkpoint,
        and_(
            _checkpoint.run_id == _run.id,
            _checkpoint.attempt == _run.attempt,
            _checkpoint.state == CheckpointState.READY.value,
        ),
    )
    .where(tables.LAUNCHED)
)


class QueueCursor(NamedTuple):
    """A position in the queue: behind the run of this priority's rank and this id."""

    priority: int = -1
    id: str = ""


def list_queued(tx: Tx, after: QueueCursor, most: int) -> list[QueuedRun]:
    """Return runs with a recipe that wait to be launched, by priority, then oldest first."""
    return tx.all(_queued, **after._asdict(), most=most)


def count_waiting(tx: Tx, up_to: QueueCursor) -> int:
    """Return how many runs with a recipe wait to be launched, up to a position in the queue."""
    row = tx.first(_waiting, **up_to._asdict())
    return row[0] if row else 0


def list_launched(tx: Tx) -> list[LiveRun]:
    """Return the runs of recipes that may have a trainer, oldest first."""
    return tx.all(_LAUNCHED)


def list_submitted(tx: Tx) -> list[LiveRun]:
    """Return the runs that wait in the queue of an engine, oldest first."""
    return tx.all(_SUBMITTED)


def list_projects_of_live(tx: Tx) -> dict[str, str]:
    """Return the project of each run that `list_launched` and `list_submitted` return."""
    return {id: project for statement in _PROJECTS_OF_LIVE for id, project in tx.all(statement)}


def list_saved(tx: Tx) -> set[str]:
    """Return the launched runs that have a good checkpoint of their current attempt."""
    return {id for (id,) in tx.all(_SAVED)}


def list_unwanted(tx: Tx, keys: Sequence[tuple[str, int]]) -> list[Any]:
    """Return the attempts among `keys` that are no run's current one, or whose run has ended."""
    unwanted = []
    for key in keys:
        try:
            run = runs.get(tx, key[0])
        except NotFound:  # of another service
            continue
        if run.attempt != key[1] or RunStatus(run.status) in TERMINAL:
            unwanted.append(key)
    return unwanted


def list_external(tx: Tx) -> list[LiveRun]:
    """Return the external runs that have a trainer. They may be thousands."""
    return tx.all(_EXTERNAL)


def list_ending_external(tx: Tx) -> list[LiveRun]:
    """Return the external runs that have finished, or are to end."""
    return tx.all(_ENDING)
