"""Deletion of a run or an experiment: at once, completely, and on record.

A `Removal` is written in the transaction that deletes, so that after a crash at any time either
nothing is deleted, or all leftovers are found and removed (`services.removals`). What remains is
the `Deletion`, the event `run.deleted`, and the record of usage. Earlier events of the run keep
their type and time, since the history has no gaps, and lose their details.
"""

from enum import StrEnum
from typing import Any

from sqlalchemy import Executable, and_, bindparam, delete, insert, or_, select, update

from app.db.changes import SUPERVISOR
from app.db.sql import Statement, Tx, by_id, changing, columns, query, select_all
from app.db.tables import (
    Alert,
    Alias,
    Attempt,
    Checkpoint,
    Deletion,
    Event,
    Experiment,
    ExperimentSearch,
    ExperimentTag,
    Expiration,
    HealthFinding,
    Label,
    LoggedModel,
    MetricLatest,
    Removal,
    Run,
    RunLink,
    RunSearch,
    RunTag,
    Tally,
    Verification,
    VerificationFinding,
    Webhook,
    WebhookDelivery,
)
from app.domain.failpoints import failpoint
from app.domain.gate import RELEASE
from app.domain.ids import new_id
from app.domain.lifecycle import TERMINAL, CheckpointState
from app.domain.permissions import Permission
from app.errors import NotFound, StillNeeded
from app.services import events, experiments, runs

MOST_NAMED = 10
"""Runs or checkpoints that a refusal names."""

_run, _checkpoint, _event = columns(Run), columns(Checkpoint), columns(Event)
_deletion, _removal, _model = columns(Deletion), columns(Removal), columns(LoggedModel)
_owners = select(_removal.owner_id).where(_removal.deletion_id == bindparam("deletion"))
_experiment_is: Any = bindparam("experiment")


class StillNeededFor(StrEnum):
    """The reason why something cannot be deleted: the stable code in `needed_for`."""

    RUN_NOT_ENDED = "run_not_ended"
    RELEASE = "release"
    RESUMED_RUN = "resumed_run"


def _deleting(table: Any, where: Any) -> Statement[Any]:
    return Statement(delete(table).where(where))


_INSERT_REMOVAL = Statement[Any](insert(Removal))


@query(tuple[str])
def _lock_experiment(*, experiment: str) -> Executable:
    own = columns(Experiment).id
    return select(own).where(own == experiment).with_for_update()


@query(tuple[str])
def _lock_runs(*, experiment: str) -> Executable:
    return (
        select(_run.id).where(_run.experiment_id == experiment).order_by(_run.id).with_for_update()
    )


@query(tuple[str])
def _models_of_run(*, run: str) -> Executable:
    return select(_model.id).where(_model.run_id == run)


@query(tuple[str])
def _models_of_experiment(*, experiment: str) -> Executable:
    return select(_model.id).where(_model.experiment_id == experiment)


_LOCK_CHECKPOINTS = Statement[tuple[str, str | None, int | None]](
    select(_checkpoint.state, _checkpoint.stored_as_id, _checkpoint.size_bytes)
    .where(_checkpoint.run_id.in_(_owners))
    .order_by(_checkpoint.id)
    .with_for_update()
)
_NOT_ENDED = Statement[tuple[str]](
    select(_run.id)
    .where(_run.id.in_(_owners), *[_run.status != status.value for status in sorted(TERMINAL)])
    .order_by(_run.id)
    .limit(MOST_NAMED)
)
_RELEASED = Statement[tuple[str]](
    select(_checkpoint.ckpt_path)
    .where(
        _checkpoint.run_id.in_(_owners),
        or_(_checkpoint.release_tag.is_not(None), _checkpoint.tag_type == RELEASE),
    )
    .order_by(_checkpoint.ckpt_path)
    .limit(MOST_NAMED)
)
_RESUMED = Statement[tuple[str]](
    select(_run.id)
    .where(_run.parent_run_id.in_(_owners), _run.id.not_in(_owners))
    .order_by(_run.id)
    .limit(MOST_NAMED)
)
_TABLES_OF_RUNS: dict[str, tuple[Any, ...]] = {
    "run_id": (
        Verification, Checkpoint, RunTag, Attempt, HealthFinding, RunLink, Alert, Expiration,
        MetricLatest,
    ),
    "owner_id": (Label,),
    "target_id": (Alias,),
    "id": (RunSearch, LoggedModel, Run),
}  # fmt: skip
"""By the column that holds the id of a deleted run or logged model."""
_ROWS_OF_RUNS = (
    _deleting(
        VerificationFinding,
        columns(VerificationFinding).checkpoint_id.in_(
            select(_checkpoint.id).where(_checkpoint.run_id.in_(_owners))
        ),
    ),
    *(
        _deleting(table, getattr(columns(table), owner).in_(_owners))
        for owner, tables in _TABLES_OF_RUNS.items()
        for table in tables
    ),
)
_BLANK_EVENTS = Statement[Any](
    update(Event).where(_event.run_id.in_(_owners)).values(data=bindparam("nothing"))
)
_ROWS_OF_EXPERIMENT = (
    _deleting(
        WebhookDelivery,
        columns(WebhookDelivery).webhook_id.in_(
            select(columns(Webhook).id).where(columns(Webhook).experiment_id == _experiment_is)
        ),
    ),
    *(
        _deleting(table, columns(table).experiment_id == _experiment_is)
        for table in (Webhook, Verification, Event, ExperimentTag, Tally)
    ),
    _deleting(ExperimentSearch, columns(ExperimentSearch).id == _experiment_is),
    _deleting(Label, columns(Label).owner_id == _experiment_is),
    _deleting(Alias, columns(Alias).target_id == _experiment_is),
    _deleting(Experiment, columns(Experiment).id == _experiment_is),
)
_BY_ID = by_id(Deletion)


@query(Deletion)
def _of_run(*, run: str) -> Executable:
    return select_all(Deletion).where(_deletion.run_id == run).limit(1)


@query(Deletion)
def _of_whole(*, experiment: str) -> Executable:
    whole = and_(_deletion.experiment_id == experiment, _deletion.run_id.is_(None))
    return select_all(Deletion).where(whole).limit(1)


@query(Deletion)
def _newest(*, before: str, most: int) -> Executable:
    older = select_all(Deletion).where(_deletion.id < before)
    return older.order_by(_deletion.id.desc()).limit(most)


def delete_run(tx: Tx, run_id: str, experiment_id: str | None = None) -> Deletion:
    """Delete a run that has ended; repeated, return the same. Raises NotFound, StillNeeded."""
    earlier = tx.first(_of_run, run=run_id)
    if earlier is not None and experiment_id in (None, earlier.experiment_id):
        return earlier
    run = runs.lock(tx, run_id, experiment_id)
    tx.require(Permission.MAINTAIN, run.experiment_id)
    models = [row[0] for row in tx.all(_models_of_run, run=run.id)]
    experiment = experiments.get(tx, run.experiment_id)
    name = run.name or run.model
    deletion = _delete_runs(tx, experiment, run.id, name, [run.id, *models])
    events.append(
        tx, run.experiment_id, "run.deleted", run_id=run.id,
        deletion_id=deletion.id, checkpoints=deletion.checkpoints, size_bytes=deletion.size_bytes,
    )  # fmt: skip
    failpoint("delete.rows")
    return deletion


def delete_experiment(tx: Tx, experiment_id: str) -> Deletion:
    """Delete an experiment with its runs, all of which have ended; repeated, return the same.

    Raises NotFound, StillNeeded.
    """
    earlier = tx.first(_of_whole, experiment=experiment_id)
    if earlier is not None:
        return earlier
    tx.require(Permission.MAINTAIN, experiment_id)
    tx.first(_lock_experiment, experiment=experiment_id)
    experiment = experiments.get(tx, experiment_id)
    owners = [row[0] for row in tx.all(_lock_runs, experiment=experiment_id)]
    owners += [row[0] for row in tx.all(_models_of_experiment, experiment=experiment_id)]
    deletion = _delete_runs(tx, experiment, None, experiment.name, owners)
    for rows in _ROWS_OF_EXPERIMENT:
        tx.run(rows, experiment=experiment_id)
    tx.notify(experiment_id)
    failpoint("delete.rows")
    return deletion


def _delete_runs(
    tx: Tx, experiment: Experiment, run_id: str | None, name: str, owners: list[str]
) -> Deletion:
    """Delete the rows of runs and logged models, and record what is still to be removed."""
    deletion = Deletion(
        id=new_id("del"), project_id=experiment.project_id, experiment_id=experiment.id,
        run_id=run_id, name=name,
        runs=sum(owner.startswith("run_") for owner in owners), checkpoints=0, size_bytes=0,
        requested_at=tx.now, finished_at=None if owners else tx.now,
    )  # fmt: skip
    tx.insert(deletion)
    removals = {"experiment_id": experiment.id, "deletion_id": deletion.id}
    tx.many(_INSERT_REMOVAL, [{"owner_id": owner, **removals} for owner in owners])
    stored = tx.all(_LOCK_CHECKPOINTS, deletion=deletion.id)
    _check_not_needed(tx, deletion)
    kept = [
        size or 0 for state, alias, size in stored if state == CheckpointState.READY and not alias
    ]
    counts = {"checkpoints": len(kept), "size_bytes": sum(kept)}
    tx.run(changing(Deletion, frozenset(counts)), key=deletion.id, **counts)
    tx.run(_BLANK_EVENTS, deletion=deletion.id, nothing="{}")
    for rows in _ROWS_OF_RUNS:
        tx.run(rows, deletion=deletion.id)
    tx.notify(SUPERVISOR)
    return get(tx, deletion.id)


def _check_not_needed(tx: Tx, deletion: Deletion) -> None:
    """Raise StillNeeded if somebody needs a run that is being deleted."""
    for why, needing, sentence in (
        (StillNeededFor.RUN_NOT_ENDED, _NOT_ENDED, "{} has not ended: cancel it first."),
        (StillNeededFor.RELEASE, _RELEASED, "{} is a release, which stays."),
        (
            StillNeededFor.RESUMED_RUN, _RESUMED,
            "{} was resumed from it and begins with its checkpoint and curves: delete that first.",
        ),
    ):  # fmt: skip
        needed = [row[0] for row in tx.all(needing, deletion=deletion.id)]
        if needed:
            others = f" and {len(needed) - 1} more" if len(needed) > 1 else ""
            raise StillNeeded(
                sentence.format(needed[0] + others), needed_for=why.value, needed_by=needed
            )


def get(tx: Tx, deletion_id: str) -> Deletion:
    """Return the record of a deletion. Raises NotFound."""
    deletion = tx.first(_BY_ID, deletion_id)
    if deletion is None:
        raise NotFound(f"There is no deletion {deletion_id!a}.")
    return deletion


def list_newest(tx: Tx, before: str | None, most: int) -> list[Deletion]:
    """Return records of deletions, newest first, those before an id."""
    return tx.all(_newest, before=before or "e", most=most)
