"""Checkpoints: what is promised, ready, empty, declared or lost.

A cancel promises one path (`promise`) and the promise is always settled (`settle`): with
the trainer's own checkpoint under that path, else by standing for the newest good one of
the run or the one it was resumed from, else as empty or lost with the reason. A path that
stands for another (`stored_as_id`) shares its fate from then on.
"""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import bindparam, insert

from app.domain import paths
from app.domain.ids import new_id
from app.domain.lifecycle import CheckpointState as State
from app.domain.lifecycle import RunStatus
from app.errors import NotFound
from app.services import events
from app.store.changes import SUPERVISOR
from app.store.sql import (
    Statement,
    Tx,
    as_dict,
    by_id,
    changing,
    columns,
    every,
    evolve,
    row_type,
)
from app.store.tables import Checkpoint, Run
from app.trainer.checkpoint import Manifest

DELETING = "Retention is deleting it."
DELETED = (DELETING, "Deleted by retention.")
"""The reasons of checkpoints that retention took: their files are, or will be, gone."""

_checkpoint = columns(Checkpoint)

_INSERT = Statement[Any](insert(Checkpoint))
_BY_ID = by_id(Checkpoint)
_at = every(Checkpoint).where(_checkpoint.ckpt_path == bindparam("path"))
_AT = Statement(_at, Checkpoint)
_HELD = Statement(_at.with_for_update(), Checkpoint)
_oldest_first = every(Checkpoint).order_by(_checkpoint.created_at, _checkpoint.id)
_OF_EXPERIMENT = Statement(
    _oldest_first.where(_checkpoint.experiment_id == bindparam("experiment")), Checkpoint
)
_OF_RUN = Statement(_oldest_first.where(_checkpoint.run_id == bindparam("run")), Checkpoint)
_highest_first = (
    every(Checkpoint)
    .where(_checkpoint.run_id == bindparam("run"), _checkpoint.state == bindparam("state"))
    .order_by(_checkpoint.step.desc(), _checkpoint.created_at.desc(), _checkpoint.id.desc())
)
_OF_STATE = Statement(_highest_first, Checkpoint)
_HIGHEST = Statement(_highest_first.where(_checkpoint.step.is_not(None)).limit(1), Checkpoint)
_pending = (
    every(Checkpoint)
    .where(_checkpoint.state == State.PENDING.value, _checkpoint.stored_as_id.is_(None))
    .order_by(_checkpoint.id)
)
_PENDING = Statement(_pending, Checkpoint)
_PENDING_OF_RUN = Statement(
    _pending.where(_checkpoint.run_id == bindparam("run")).with_for_update(), Checkpoint
)
_STORED_AS = Statement(
    every(Checkpoint).where(_checkpoint.stored_as_id == bindparam("id")).order_by(_checkpoint.id),
    Checkpoint,
)
_RUN = by_id(Run)


def get(tx: Tx, checkpoint_id: str) -> Checkpoint:
    """The checkpoint. Raises NotFound."""
    found = tx.first(_BY_ID, id=checkpoint_id)
    if found is None:
        raise NotFound(f"There is no checkpoint {checkpoint_id}.")
    return found


def at(tx: Tx, ckpt_path: str) -> Checkpoint | None:
    """The checkpoint known under a logical path, to read."""
    return tx.first(_AT, path=ckpt_path)


def find(tx: Tx, ckpt_path: str) -> Checkpoint | None:
    """The checkpoint known under a logical path, held until the transaction ends."""
    return tx.first(_HELD, path=ckpt_path)


def of_run(tx: Tx, run_id: str) -> list[Checkpoint]:
    """All checkpoints of a run, oldest first."""
    return tx.all(_OF_RUN, run=run_id)


def of_experiment(tx: Tx, experiment_id: str) -> list[Checkpoint]:
    """All checkpoints of an experiment, oldest first."""
    return tx.all(_OF_EXPERIMENT, experiment=experiment_id)


def ready(tx: Tx, run_id: str) -> list[Checkpoint]:
    """The ready checkpoints of a run, highest step first."""
    return tx.all(_OF_STATE, run=run_id, state=State.READY.value)


def newest_ready(tx: Tx, run_id: str) -> Checkpoint | None:
    """The ready checkpoint of a run with the highest step."""
    return tx.first(_HIGHEST, run=run_id, state=State.READY.value)


def pending(tx: Tx) -> list[Checkpoint]:
    """Every checkpoint that is promised or waits to be verified, those that stand for others
    excepted."""
    return tx.all(_PENDING)


def unseen(tx: Tx, run_id: str) -> list[Checkpoint]:
    """The checkpoints of a run that are promised or announced and not yet looked at, held."""
    return tx.all(_PENDING_OF_RUN, run=run_id)


def newest(tx: Tx, run: Run) -> Checkpoint | None:
    """The checkpoint to go on from: ready, or what an external trainer says it has saved."""
    found = newest_ready(tx, run.id)
    if found is None and run.recipe is None:
        found = tx.first(_HIGHEST, run=run.id, state=State.DECLARED.value)
    return found


def lineage(tx: Tx, run: Run) -> Iterator[Checkpoint]:
    """What a run was resumed from, then what was ready before that, the newest first.

    Up the lineage only as far as each run had come when the next was resumed from it: later
    steps of it are not among those that lead here.
    """
    limit: int | None = None
    while run.source_checkpoint_id is not None:
        source = get(tx, run.source_checkpoint_id)
        steps = [each for each in (limit, source.step) if each is not None]
        limit = min(steps) if steps else None
        yield source
        run = _of(tx, source)
        for each in ready(tx, run.id):
            if each.id != source.id and (limit is None or (each.step or 0) <= limit):
                yield each


def inherited(tx: Tx, run: Run) -> Checkpoint | None:
    """What a run was resumed from, held; if that is lost, the newest ready one before it.

    None: it was not resumed. One that is lost: so is all before it.
    """
    found = list(lineage(tx, run))
    good = [each for each in found if each.state != State.LOST]
    return next((find(tx, each.ckpt_path) for each in (*good, *found)), None)


def _of(tx: Tx, checkpoint: Checkpoint) -> Run:
    run = tx.first(_RUN, id=checkpoint.run_id)
    assert run is not None
    return run


def stored(tx: Tx, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint that holds the files: itself, or the one it stands for."""
    while checkpoint.stored_as_id is not None:
        checkpoint = get(tx, checkpoint.stored_as_id)
    return checkpoint


def origin(tx: Tx, checkpoint: Checkpoint) -> tuple[str, int | None]:
    """The run whose points lead to this checkpoint, and the attempt that saved it.

    Of one that only a client has named, that is as far as is known the present attempt.
    """
    held = stored(tx, checkpoint)
    run = tx.first(_RUN, id=held.run_id)
    return held.run_id, held.attempt or (run and run.attempt) or None


def _create(tx: Tx, run: Run, name: str, state: State, **facts: Any) -> Checkpoint:
    checkpoint = row_type(Checkpoint)(
        id=new_id("ckpt"),
        experiment_id=run.experiment_id,
        run_id=run.id,
        ckpt_path=str(paths.CheckpointPath(run.experiment_id, run.id, name)),
        state=state.value,
        created_at=tx.now,
        **{
            "reason": None, "attempt": None, "step": None, "size_bytes": None, "sha256": None,
            "stored_as_id": None, "tag_type": None, "release_tag": None,
            "metrics": "{}", "marked_at": None, "saved_at": None, "files_removed_at": None,
        } | facts,
    )  # fmt: skip
    tx.run(_INSERT, **as_dict(checkpoint))
    _announce(tx, checkpoint)
    return checkpoint


def change(tx: Tx, checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    """Writes attributes of a checkpoint."""
    tx.run(changing(Checkpoint, frozenset(changes)), key=checkpoint.id, **changes)
    return evolve(checkpoint, **changes)


def _announce(tx: Tx, checkpoint: Checkpoint, event: str | None = None) -> None:
    events.append(
        tx,
        checkpoint.experiment_id,
        f"checkpoint.{event or checkpoint.state}",
        run_id=checkpoint.run_id,
        checkpoint_id=checkpoint.id,
        ckpt_path=checkpoint.ckpt_path,
        step=checkpoint.step,
        reason=checkpoint.reason,
    )
    tx.touch(SUPERVISOR)


def _become(
    tx: Tx, checkpoint: Checkpoint, state: State, event: str | None = None, **facts: Any
) -> Checkpoint:
    """Gives a checkpoint a new state, and the same to every path that stands for it."""
    changed = change(tx, checkpoint, state=state.value, **facts)
    _announce(tx, changed, event)
    for other in tx.all(_STORED_AS, id=checkpoint.id):
        _become(
            tx, other, state, event, step=changed.step, size_bytes=changed.size_bytes,
            sha256=changed.sha256, reason=changed.reason or other.reason,
        )  # fmt: skip
    return changed


def announced(
    tx: Tx,
    run: Run,
    name: str,
    *,
    step: int,
    size_bytes: int | None,
    sha256: str | None,
    elsewhere: bool = False,
) -> Checkpoint:
    """A trainer says that it saved a checkpoint.

    One that the service can look at is pending until it is verified; one that an external
    trainer keeps elsewhere is declared. The same again changes nothing.
    """
    facts: dict[str, Any] = {
        "step": step, "size_bytes": size_bytes, "sha256": sha256, "attempt": run.attempt,
    }  # fmt: skip
    found = find(tx, str(paths.CheckpointPath(run.experiment_id, run.id, name)))
    state = State.DECLARED if elsewhere else State.PENDING
    if found is None:
        return _create(tx, run, name, state, **facts)
    if sha256 is None:  # then only another step or size tells that the name was written again
        same = step == found.step and size_bytes in (None, found.size_bytes)
    else:
        same = sha256 == found.sha256
    if found.state in (State.READY, State.LOST) and same:
        return found
    if found.state == State.READY and found.marked_at is not None:
        return found  # what somebody released is that, whatever its trainer says later
    if found.state == state:
        if state is State.PENDING:
            tx.touch(SUPERVISOR)
        return change(tx, found, **facts)
    return _become(tx, found, state, reason=None, stored_as_id=None, **facts)


def judged(
    tx: Tx, path: paths.CheckpointPath, expected: str | None, manifest: Manifest | str
) -> Checkpoint | None:
    """Records what was found on disk: the manifest that all files match, or what is wrong.

    `expected`: the manifest's SHA-256 that was on record when the files were read. None:
    the record changed since then, so that the finding is of no use.
    """
    run = tx.first(_RUN, id=path.run_id)
    if run is None:
        raise NotFound(f"There is no run {path.run_id}.")
    found = find(tx, str(path))
    if (found.sha256 if found else None) != expected or (found and found.reason in DELETED):
        return None
    if not isinstance(manifest, str) and expected not in (None, manifest.sha256):
        manifest = "Its manifest.json is not the one that was committed: the SHA-256 differs."
    if isinstance(manifest, str):
        if found is None:
            return _create(tx, run, path.name, State.LOST, reason=manifest)
        if found.state in (State.LOST, State.EMPTY):
            return found
        return _become(tx, found, State.LOST, reason=manifest)
    facts: dict[str, Any] = {
        "step": manifest.step, "size_bytes": manifest.size_bytes, "sha256": manifest.sha256,
    }  # fmt: skip
    if found is None:
        return _create(tx, run, path.name, State.READY, attempt=run.attempt, **facts)
    if found.state == State.READY:
        return found
    return _become(tx, found, State.READY, reason=None, stored_as_id=None, **facts)


def lost(tx: Tx, checkpoint: Checkpoint, reason: str, event: str | None = None) -> Checkpoint:
    """A checkpoint is known to be missing; `reason` in one sentence."""
    return _become(tx, checkpoint, State.LOST, event, reason=reason)


def promise(tx: Tx, run: Run) -> Checkpoint:
    """The checkpoint that a cancelled run leaves: pending until settled."""
    name = paths.stop_name(run.attempt)
    found = find(tx, str(paths.CheckpointPath(run.experiment_id, run.id, name)))
    if found is None:
        return _create(tx, run, name, State.PENDING, attempt=run.attempt)
    # A client may have named it before there was one, and been told that there was none.
    missed = (
        [State.DECLARED, State.LOST] if run.status == RunStatus.CANCELLING else [State.DECLARED]
    )
    if found.state in missed and (found.step, found.sha256, found.stored_as_id) == (None,) * 3:
        return _become(tx, found, State.PENDING, reason=None, attempt=run.attempt)
    return found


def settle(tx: Tx, run: Run, nothing_saved: str) -> Checkpoint:
    """The stated outcome of a promise whose trainer is gone.

    `nothing_saved`: why there is no checkpoint of that name, where there is none, in one sentence.
    """
    promised = promise(tx, run)
    if promised.state not in (State.PENDING, State.LOST):
        return promised
    fallback, origin = newest(tx, run), "the newest checkpoint of this run"
    if fallback is None and (source := inherited(tx, run)) and source.state != State.LOST:
        fallback, origin = source, "the checkpoint this run was resumed from"
        if source.id != run.source_checkpoint_id:
            origin = "the newest one before the lost one this run was resumed from"
    what = promised.reason or nothing_saved
    if fallback is not None:
        return _become(
            tx, promised, State(fallback.state), reason=f"{what} This is {origin}.",
            step=fallback.step, size_bytes=fallback.size_bytes, sha256=fallback.sha256,
            stored_as_id=fallback.id,
        )  # fmt: skip
    if promised.state == State.LOST:
        return promised
    if run.step == 0:
        return _become(tx, promised, State.EMPTY, reason="The run had taken no step.", step=0)
    return _become(
        tx, promised, State.LOST,
        reason=f"{what} It was at step {run.step}, and there is no earlier checkpoint.",
    )  # fmt: skip


def declare(tx: Tx, run: Run, ckpt_path: str) -> Checkpoint:
    """A path that a client named: the known checkpoint, or a new declared one."""
    return find(tx, ckpt_path) or _create(tx, run, paths.parse(ckpt_path).name, State.DECLARED)
