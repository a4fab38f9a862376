"""Checkpoint records: what was saved, what verification found, what was deleted.

A trainer saves (`saves.record_saved`: pending) → its files are read (`saves.apply_verification`:
ready or lost) → retention may take it (`mark_deleted`). "Newest" means saved last (`saved_at`),
never the highest step: two stages of one script may both count from 1.

The checkpoint that a cancel promises is in `promises`; marks are in `marks`. A path whose
`stored_as_id` is set is an alias of another checkpoint and always has that one's state.
"""

from collections.abc import Iterator
from typing import Any, Unpack

from sqlalchemy import Executable, Select

from app.db.changes import SUPERVISOR
from app.db.objects import replace
from app.db.rows import CheckpointChanges
from app.db.sql import Tx, by_id, changing, columns, query, select_all
from app.db.tables import Checkpoint, Run
from app.domain import paths
from app.domain.ids import new_id
from app.domain.lifecycle import GONE, is_external
from app.domain.lifecycle import CheckpointState as State
from app.errors import NotFound
from app.services import events

_checkpoint = columns(Checkpoint)


_by_id = by_id(Checkpoint)


@query(Checkpoint)
def _by_path(path: str) -> Executable:
    return select_all(Checkpoint).where(_checkpoint.ckpt_path == path)


@query(Checkpoint)
def _locked_by_path(path: str) -> Executable:
    return select_all(Checkpoint).where(_checkpoint.ckpt_path == path).with_for_update()


_oldest_first = select_all(Checkpoint).order_by(_checkpoint.created_at, _checkpoint.id)


@query(Checkpoint)
def _of_experiment(*, experiment: str) -> Executable:
    return _oldest_first.where(_checkpoint.experiment_id == experiment)


@query(Checkpoint)
def _of_run(*, run: str) -> Executable:
    return _oldest_first.where(_checkpoint.run_id == run)


def _newest_first(run: str, state: str) -> Select[Any]:
    # `is_not(None)` also keeps PostgreSQL from sorting NULL before every time.
    return (
        select_all(Checkpoint)
        .where(
            _checkpoint.run_id == run,
            _checkpoint.state == state,
            _checkpoint.saved_at.is_not(None),
        )
        .order_by(_checkpoint.saved_at.desc(), _checkpoint.id.desc())
    )


@query(Checkpoint)
def _of_state(*, run: str, state: str) -> Executable:
    return _newest_first(run, state)


@query(Checkpoint)
def _newest_of_state(*, run: str, state: str) -> Executable:
    return _newest_first(run, state).limit(1)


_unverified = (
    select_all(Checkpoint)
    .where(_checkpoint.state == State.PENDING.value, _checkpoint.stored_as_id.is_(None))
    .order_by(_checkpoint.id)
)


@query(Checkpoint)
def _pending() -> Executable:
    return _unverified


@query(Checkpoint)
def _lock_pending(*, run: str) -> Executable:
    return _unverified.where(_checkpoint.run_id == run).with_for_update()


@query(Checkpoint)
def _aliases(*, id: str) -> Executable:
    return select_all(Checkpoint).where(_checkpoint.stored_as_id == id).order_by(_checkpoint.id)


_run_by_id = by_id(Run)


def get(tx: Tx, checkpoint_id: str) -> Checkpoint:
    """Return the checkpoint. Raises NotFound."""
    checkpoint = tx.first(_by_id, checkpoint_id)
    if checkpoint is None:
        raise NotFound(f"There is no checkpoint {checkpoint_id}.")
    return checkpoint


def get_by_path(tx: Tx, ckpt_path: str) -> Checkpoint | None:
    """Return the checkpoint of a logical path, without a lock."""
    return tx.first(_by_path, ckpt_path)


def lock_by_path(tx: Tx, ckpt_path: str) -> Checkpoint | None:
    """Return the checkpoint of a logical path, locked until the transaction ends."""
    return tx.first(_locked_by_path, ckpt_path)


def list_of_run(tx: Tx, run_id: str) -> list[Checkpoint]:
    """Return all checkpoints of a run, in the order in which they became known."""
    return tx.all(_of_run, run=run_id)


def list_of_experiment(tx: Tx, experiment_id: str) -> list[Checkpoint]:
    """Return all checkpoints of an experiment, in the order in which they became known."""
    return tx.all(_of_experiment, experiment=experiment_id)


def list_ready(tx: Tx, run_id: str) -> list[Checkpoint]:
    """Return the ready checkpoints of a run, newest (saved last) first."""
    return tx.all(_of_state, run=run_id, state=State.READY.value)


def get_newest_ready(tx: Tx, run_id: str) -> Checkpoint | None:
    """Return the ready checkpoint that a run saved last."""
    return tx.first(_newest_of_state, run=run_id, state=State.READY.value)


def list_pending(tx: Tx) -> list[Checkpoint]:
    """Return every checkpoint that is promised or not yet verified, without aliases."""
    return tx.all(_pending)


def lock_pending(tx: Tx, run_id: str) -> list[Checkpoint]:
    """Return the checkpoints of a run that are promised or not yet verified, locked."""
    return tx.all(_lock_pending, run=run_id)


def get_newest(tx: Tx, run: Run) -> Checkpoint | None:
    """Return the checkpoint to resume a run from: the newest ready one, or of an external run
    that has none the one that its trainer reported last."""
    checkpoint = get_newest_ready(tx, run.id)
    if checkpoint is None and is_external(run):
        checkpoint = tx.first(_newest_of_state, run=run.id, state=State.DECLARED.value)
    return checkpoint


def lineage(tx: Tx, run: Run) -> Iterator[Checkpoint]:
    """Yield what a run was resumed from, then the ready checkpoints before it, newest first.

    Of each ancestor only what it had saved up to the checkpoint that the next run was resumed
    from: what it saved later belongs to another branch.
    """
    while run.source_checkpoint_id is not None:
        source = get(tx, run.source_checkpoint_id)
        yield source
        run = _get_run(tx, source)
        for checkpoint in list_ready(tx, run.id):
            before = source.saved_at is None or (checkpoint.saved_at or "") <= source.saved_at
            if checkpoint.id != source.id and before:
                yield checkpoint


def lock_inherited(tx: Tx, run: Run) -> Checkpoint | None:
    """Return what a run was resumed from, locked; if that is gone, the newest ready one before.

    None: it was not resumed. A lost or deleted one: nothing before it is left either.
    """
    candidates = list(lineage(tx, run))
    left = [checkpoint for checkpoint in candidates if checkpoint.state not in GONE]
    best = next(iter([*left, *candidates]), None)
    return lock_by_path(tx, best.ckpt_path) if best else None


def _get_run(tx: Tx, checkpoint: Checkpoint) -> Run:
    run = tx.first(_run_by_id, checkpoint.run_id)
    assert run is not None
    return run


def get_stored(tx: Tx, checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint that has the files: itself, or the one it is an alias of."""
    while checkpoint.stored_as_id is not None:
        checkpoint = get(tx, checkpoint.stored_as_id)
    return checkpoint


def find_origin(tx: Tx, checkpoint: Checkpoint) -> tuple[str, int | None]:
    """Return the run whose points lead to this checkpoint, and the attempt that saved it.

    Of one that only a client has named, that is the current attempt, as far as is known.
    """
    stored = get_stored(tx, checkpoint)
    run = tx.first(_run_by_id, stored.run_id)
    return stored.run_id, stored.attempt or (run and run.attempt) or None


def create(
    tx: Tx, run: Run, name: str, state: State, /, **facts: Unpack[CheckpointChanges]
) -> Checkpoint:
    """Insert a checkpoint of a run and append its event."""
    checkpoint = Checkpoint(
        id=new_id("ckpt"),
        experiment_id=run.experiment_id,
        run_id=run.id,
        ckpt_path=str(paths.CheckpointPath(run.experiment_id, run.id, name)),
        state=state.value,
        created_at=tx.now,
    )
    checkpoint = replace(checkpoint, **facts)
    tx.insert(checkpoint)
    _append_event(tx, checkpoint)
    return checkpoint


def change(tx: Tx, checkpoint: Checkpoint, **changes: Unpack[CheckpointChanges]) -> Checkpoint:
    """Write attributes of a checkpoint."""
    tx.send(changing(Checkpoint, frozenset(changes)), key=checkpoint.id, **changes)
    return replace(checkpoint, **changes)


def _append_event(tx: Tx, checkpoint: Checkpoint) -> None:
    events.append(
        tx,
        checkpoint.experiment_id,
        f"checkpoint.{checkpoint.state}",
        run_id=checkpoint.run_id,
        checkpoint_id=checkpoint.id,
        ckpt_path=checkpoint.ckpt_path,
        step=checkpoint.step,
        reason=checkpoint.reason,
    )
    tx.notify(SUPERVISOR)


def set_state(
    tx: Tx, checkpoint: Checkpoint, state: State, /, **facts: Unpack[CheckpointChanges]
) -> Checkpoint:
    """Give a checkpoint a new state, and the same to every alias of it."""
    facts["state"] = state.value
    changed = change(tx, checkpoint, **facts)
    _append_event(tx, changed)
    for alias in tx.all(_aliases, id=checkpoint.id):
        set_state(
            tx, alias, state, step=changed.step, size_bytes=changed.size_bytes,
            sha256=changed.sha256, saved_at=changed.saved_at,
            reason=changed.reason or alias.reason,
        )  # fmt: skip
    return changed


def is_good(checkpoint: Checkpoint) -> bool:
    """Return False if its metrics or weights are known to hold NaN or an infinity."""
    return checkpoint.healthy is None or bool(checkpoint.healthy)  # SQLite has numbers


def mark_lost(tx: Tx, checkpoint: Checkpoint, reason: str) -> Checkpoint:
    """Record that the files of a checkpoint are missing or damaged; `reason` is one sentence."""
    return set_state(tx, checkpoint, State.LOST, reason=reason)


def mark_deleted(tx: Tx, checkpoint: Checkpoint, reason: str) -> Checkpoint:
    """Record that the service deletes a checkpoint. Its files are removed afterwards, which
    `files_removed_at` records."""
    return set_state(tx, checkpoint, State.DELETED, reason=reason)


def declare(tx: Tx, run: Run, ckpt_path: str) -> Checkpoint:
    """Return the checkpoint of a path that a client named, created as declared if unknown."""
    return lock_by_path(tx, ckpt_path) or create(
        tx, run, paths.parse(ckpt_path).name, State.DECLARED
    )
