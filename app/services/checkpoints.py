"""Checkpoints: what is promised, ready, empty, declared or lost, and the marks on them.

A cancel promises one path (`promise`) and the promise is always settled (`settle`): with
the trainer's own checkpoint under that path, else by standing for the newest ready one of
the run or the one it was resumed from, else as empty or lost with the reason.
"""

from typing import Any

from sqlalchemy import bindparam, insert, update

from app.domain import paths
from app.domain.ids import new_id
from app.domain.lifecycle import CheckpointState as State
from app.domain.requests import MarkRequest
from app.errors import BadCheckpointPath, NotFound, ReleaseTagTaken
from app.services import events
from app.store.changes import SUPERVISOR
from app.store.sql import Statement, Tx, as_dict, columns, dump, every, evolve, load, row_type
from app.store.tables import Checkpoint, Run

_checkpoint = columns(Checkpoint)
_run = columns(Run)

_INSERT = Statement[Any](insert(Checkpoint))
_BY_ID = Statement(every(Checkpoint).where(_checkpoint.id == bindparam("id")), Checkpoint)
_BY_PATH = Statement(
    every(Checkpoint).where(_checkpoint.ckpt_path == bindparam("path")).with_for_update(),
    Checkpoint,
)
_OF_RUN = Statement(
    every(Checkpoint)
    .where(_checkpoint.run_id == bindparam("run"))
    .order_by(_checkpoint.created_at, _checkpoint.id),
    Checkpoint,
)
_READY = Statement(
    every(Checkpoint)
    .where(_checkpoint.run_id == bindparam("run"), _checkpoint.state == State.READY.value)
    .order_by(_checkpoint.step.desc(), _checkpoint.created_at.desc(), _checkpoint.id.desc()),
    Checkpoint,
)
_PENDING = Statement(
    every(Checkpoint).where(_checkpoint.state == State.PENDING.value).order_by(_checkpoint.id),
    Checkpoint,
)
_STORED_AS = Statement(
    every(Checkpoint).where(_checkpoint.stored_as_id == bindparam("id")).order_by(_checkpoint.id),
    Checkpoint,
)
_BY_RELEASE = Statement(
    every(Checkpoint).where(
        _checkpoint.experiment_id == bindparam("experiment"),
        _checkpoint.release_tag == bindparam("release"),
    ),
    Checkpoint,
)
_UPDATE = Statement[Any](
    update(Checkpoint)
    .where(_checkpoint.id == bindparam("key"))
    .values(
        {
            name: bindparam(name)
            for name in (
                "state", "reason", "step", "size_bytes", "sha256", "stored_as_id",
                "tag_type", "release_tag", "metrics", "marked_at",
            )
        }
    )
)  # fmt: skip
_FIND_RUN = Statement(every(Run).where(_run.id == bindparam("id")), Run)


def get(tx: Tx, checkpoint_id: str) -> Checkpoint:
    """The checkpoint. Raises NotFound."""
    found = tx.first(_BY_ID, id=checkpoint_id)
    if found is None:
        raise NotFound(f"There is no checkpoint {checkpoint_id}.")
    return found


def find(tx: Tx, ckpt_path: str) -> Checkpoint | None:
    """The checkpoint known under a logical path."""
    return tx.first(_BY_PATH, path=ckpt_path)


def of_run(tx: Tx, run_id: str) -> list[Checkpoint]:
    """All checkpoints of a run, oldest first."""
    return tx.all(_OF_RUN, run=run_id)


def ready(tx: Tx, run_id: str) -> list[Checkpoint]:
    """The ready checkpoints of a run, highest step first."""
    return tx.all(_READY, run=run_id)


def pending(tx: Tx) -> list[Checkpoint]:
    """Every checkpoint that is promised or waits to be verified."""
    return tx.all(_PENDING)


def stored(tx: Tx, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint that holds the files: itself, or the one it stands for."""
    while checkpoint.stored_as_id is not None:
        checkpoint = get(tx, checkpoint.stored_as_id)
    return checkpoint


def _create(tx: Tx, run: Run, name: str, state: State, **facts: Any) -> Checkpoint:
    checkpoint = row_type(Checkpoint)(
        id=new_id("ckpt"),
        experiment_id=run.experiment_id,
        run_id=run.id,
        ckpt_path=str(paths.CheckpointPath(run.experiment_id, run.id, name)),
        state=state.value,
        created_at=tx.now,
        **{
            "reason": None, "step": None, "size_bytes": None, "sha256": None,
            "stored_as_id": None, "tag_type": None, "release_tag": None,
            "metrics": "{}", "marked_at": None,
        } | facts,
    )  # fmt: skip
    tx.run(_INSERT, **as_dict(checkpoint))
    _announce(tx, checkpoint)
    return checkpoint


def _change(tx: Tx, checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    changed = evolve(checkpoint, **changes)
    values = as_dict(changed)
    for fixed in ("experiment_id", "run_id", "ckpt_path", "created_at"):
        del values[fixed]
    tx.run(_UPDATE, key=values.pop("id"), **values)
    return changed


def _announce(tx: Tx, checkpoint: Checkpoint) -> None:
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
    tx.touch(SUPERVISOR)


def _become(tx: Tx, checkpoint: Checkpoint, state: State, **facts: Any) -> Checkpoint:
    """Gives a checkpoint a new state, and the same to every path that stands for it."""
    changed = _change(tx, checkpoint, state=state.value, **facts)
    _announce(tx, changed)
    for other in tx.all(_STORED_AS, id=checkpoint.id):
        if other.state in (State.PENDING, State.READY):
            _become(
                tx, other, state, step=changed.step, size_bytes=changed.size_bytes,
                sha256=changed.sha256, reason=changed.reason or other.reason,
            )  # fmt: skip
    return changed


def announced(
    tx: Tx, run: Run, name: str, *, step: int, size_bytes: int | None, sha256: str | None
) -> Checkpoint:
    """A trainer says that it saved a checkpoint.

    One that the service can look at is pending until it is verified; that of an external
    run, kept elsewhere, is declared.
    """
    facts = {"step": step, "size_bytes": size_bytes, "sha256": sha256}
    found = find(tx, str(paths.CheckpointPath(run.experiment_id, run.id, name)))
    state = State.DECLARED if run.recipe is None else State.PENDING
    if found is None:
        return _create(tx, run, name, state, **facts)
    if found.state in (State.READY, State.LOST):
        return found
    if found.state == state:
        if state is State.PENDING:
            tx.touch(SUPERVISOR)
        return _change(tx, found, **facts)
    return _become(tx, found, state, **facts)


def verified(
    tx: Tx, run_id: str, name: str, *, step: int, size_bytes: int, sha256: str
) -> Checkpoint:
    """The files of a checkpoint were found committed and matching their manifest."""
    run = _run_of(tx, run_id)
    facts = {"step": step, "size_bytes": size_bytes, "sha256": sha256}
    found = find(tx, str(paths.CheckpointPath(run.experiment_id, run.id, name)))
    if found is None:
        return _create(tx, run, name, State.READY, **facts)
    if found.state == State.READY and found.sha256 == sha256:
        return found
    return _become(tx, found, State.READY, reason=None, stored_as_id=None, **facts)


def lost(tx: Tx, checkpoint_id: str, reason: str) -> Checkpoint:
    """A checkpoint is known to be missing or corrupt; `reason` in one sentence."""
    found = get(tx, checkpoint_id)
    if found.state in (State.LOST, State.EMPTY):
        return found
    return _become(tx, found, State.LOST, reason=reason)


def promise(tx: Tx, run: Run) -> Checkpoint:
    """The checkpoint that a run being cancelled will leave: pending until settled."""
    name = paths.stop_name(run.attempt)
    found = find(tx, str(paths.CheckpointPath(run.experiment_id, run.id, name)))
    return found or _create(tx, run, name, State.PENDING)


def settle(tx: Tx, run: Run) -> Checkpoint:
    """The stated outcome of a promise whose trainer is gone and saved nothing under it."""
    promised = promise(tx, run)
    if promised.state != State.PENDING:
        return promised
    fallback = next(iter(ready(tx, run.id)), None)
    origin = "the newest ready checkpoint of this run"
    if fallback is None and run.source_checkpoint_id is not None:
        source = get(tx, run.source_checkpoint_id)
        if source.state in (State.READY, State.PENDING, State.DECLARED):
            fallback, origin = source, "the checkpoint this run was resumed from"
    if fallback is not None:
        what = "never started" if run.attempt == 0 else "saved nothing when it was stopped"
        return _become(
            tx, promised, State(fallback.state), reason=f"The run {what}; this is {origin}.",
            step=fallback.step, size_bytes=fallback.size_bytes, sha256=fallback.sha256,
            stored_as_id=fallback.id,
        )  # fmt: skip
    if run.step == 0:
        return _become(tx, promised, State.EMPTY, reason="The run had taken no step.", step=0)
    return _become(
        tx, promised, State.LOST,
        reason=f"The trainer saved nothing when it was stopped at step {run.step}, "
        "and there is no earlier checkpoint.",
    )  # fmt: skip


def declare(tx: Tx, run: Run, ckpt_path: str) -> Checkpoint:
    """A path that a client named: the known checkpoint, or a new declared one."""
    return find(tx, ckpt_path) or _create(tx, run, paths.parse(ckpt_path).name, State.DECLARED)


def mark(tx: Tx, experiment_id: str, request: MarkRequest) -> Checkpoint:
    """Puts a tag, a release tag and metrics onto a checkpoint; the same again changes nothing.

    Raises NotFound, BadCheckpointPath, ReleaseTagTaken (it names the holder).
    """
    run = tx.first(_FIND_RUN, id=request.run_id)
    if run is None or run.experiment_id != experiment_id:
        raise NotFound(f"There is no run {request.run_id} in experiment {experiment_id}.")
    path = paths.parse(request.ckpt_path)
    if (path.experiment_id, path.run_id) != (experiment_id, run.id):
        raise BadCheckpointPath(
            f"A checkpoint of this run begins with /ckpts/{experiment_id}/{run.id}/.",
            errors=[{"pointer": "/ckpt_path", "detail": "belongs to another run"}],
        )
    if request.release_tag is not None:
        holder = tx.first(_BY_RELEASE, experiment=experiment_id, release=request.release_tag)
        if holder is not None and holder.ckpt_path != request.ckpt_path:
            raise ReleaseTagTaken(
                f"Release tag {request.release_tag!r} is held by {holder.ckpt_path}; "
                "choose another tag.",
                ckpt_path=holder.ckpt_path,
                checkpoint_id=holder.id,
            )
    found = declare(tx, run, request.ckpt_path)
    release_tag = request.release_tag or found.release_tag
    metrics = load(found.metrics) | request.metrics
    unchanged = (found.tag_type, found.release_tag, load(found.metrics)) == (
        request.tag_type, release_tag, metrics,
    )  # fmt: skip
    if unchanged and found.marked_at is not None:
        return found
    marked = _change(
        tx, found, tag_type=request.tag_type, release_tag=release_tag,
        metrics=dump(metrics), marked_at=tx.now,
    )  # fmt: skip
    events.append(
        tx, experiment_id, "checkpoint.marked", run_id=run.id, checkpoint_id=marked.id,
        ckpt_path=marked.ckpt_path, tag_type=marked.tag_type, release_tag=marked.release_tag,
        metrics=metrics,
    )  # fmt: skip
    return marked


def _run_of(tx: Tx, run_id: str) -> Run:
    run = tx.first(_FIND_RUN, id=run_id)
    if run is None:
        raise NotFound(f"There is no run {run_id}.")
    return run
