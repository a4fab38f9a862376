"""The promised checkpoint: a cancel names one path, and that path always gets a final state.

cancel → `ensure` (pending) → the trainer saves under that name → `resolve` when it is gone

If the trainer saved nothing, `resolve` makes the path an alias of the newest good checkpoint of
the run, or of the one it was resumed from; with none, it is empty or lost, with the reason.

`cancel-N` is the name for attempt N. A trainer may have taken it for a checkpoint of its own;
then the promise is `cancel-N.2`, which is also where the trainer's next commit to the taken name
goes (see `llm_train.checkpoint.commit`).
"""

from itertools import count

from app.db.sql import Tx, changing
from app.db.tables import Checkpoint, Run
from app.domain import paths
from app.domain.lifecycle import GONE
from app.domain.lifecycle import CheckpointState as State
from app.services import checkpoints

_NAME_PROMISED = changing(Run, frozenset({"promised_checkpoint_id"}))

UNREPORTED = "The trainer does not report; what it saved is not known."


def ensure(tx: Tx, run: Run) -> Checkpoint:
    """Return the checkpoint that a cancelled run leaves: pending until it is resolved.

    The first call creates it and records its id in the run; later calls return the same.
    """
    promised = get(tx, run)
    if promised is None:
        promised = _create(tx, run)
        tx.send(_NAME_PROMISED, key=run.id, promised_checkpoint_id=promised.id)
    return promised


def _create(tx: Tx, run: Run) -> Checkpoint:
    stop_name = paths.stop_name(run.attempt)
    for number in count(1):
        name = stop_name if number == 1 else f"{stop_name}.{number}"
        path = str(paths.CheckpointPath(run.experiment_id, run.id, name))
        checkpoint = checkpoints.lock_by_path(tx, path)
        if checkpoint is None:
            return checkpoints.create(tx, run, name, State.PENDING, attempt=run.attempt)
        if _is_placeholder(checkpoint):
            return checkpoints.set_state(
                tx, checkpoint, State.PENDING, reason=None, attempt=run.attempt
            )
    raise AssertionError("unreachable")


def _is_placeholder(checkpoint: Checkpoint) -> bool:
    """Return True if clients have named this path, and nothing was ever saved under it."""
    return checkpoint.state in (State.DECLARED, State.LOST) and (
        checkpoint.step, checkpoint.sha256, checkpoint.stored_as_id, checkpoint.saved_at,
    ) == (None,) * 4  # fmt: skip


def get(tx: Tx, run: Run) -> Checkpoint | None:
    """Return the promised checkpoint of a run, or None if it was never cancelled."""
    if run.promised_checkpoint_id is None:
        return None
    return checkpoints.get(tx, run.promised_checkpoint_id)


def resolve(tx: Tx, run: Run, cause: str, *, unknown: bool) -> Checkpoint:
    """Give the promise of a cancelled run, whose trainer is gone, its final state.

    `cause`: why nothing was saved under the name, in one sentence for people. `unknown`: the
    last attempt's trainer never reported and need not, so that nobody knows what it did.
    """
    promised = ensure(tx, run)
    if promised.state not in (State.PENDING, State.LOST):
        return promised
    reason = promised.reason or (UNREPORTED if unknown else cause)
    fallback, origin = _find_fallback(tx, run)
    if fallback is not None:
        return checkpoints.set_state(
            tx, promised, State(fallback.state), reason=f"{reason} This is {origin}.",
            step=fallback.step, size_bytes=fallback.size_bytes, sha256=fallback.sha256,
            saved_at=fallback.saved_at, stored_as_id=fallback.id,
            metrics=fallback.metrics, healthy=fallback.healthy,
        )  # fmt: skip
    if promised.state == State.LOST:
        return promised
    if unknown:
        return checkpoints.mark_lost(tx, promised, reason)
    if run.step == 0:
        return checkpoints.set_state(
            tx, promised, State.EMPTY, reason="The run had taken no step.", step=0
        )
    return checkpoints.mark_lost(
        tx, promised, f"{reason} It was at step {run.step}, and there is no earlier checkpoint."
    )


def _find_fallback(tx: Tx, run: Run) -> tuple[Checkpoint | None, str]:
    """Return the newest good checkpoint that leads to a run's end, and what it is."""
    newest = _lock_newest(tx, run)
    if newest is not None:
        return newest, "the newest checkpoint of this run"
    source = checkpoints.lock_inherited(tx, run)
    if source is None or source.state in GONE:
        return None, ""
    if source.id == run.source_checkpoint_id:
        return source, "the checkpoint this run was resumed from"
    return source, "the newest one before the lost one this run was resumed from"


def _lock_newest(tx: Tx, run: Run) -> Checkpoint | None:
    """Return the newest good checkpoint of a run, locked: it may be found to be lost just now."""
    while (newest := checkpoints.get_newest(tx, run)) is not None:
        locked = checkpoints.lock_by_path(tx, newest.ckpt_path)
        if locked is not None and locked.state == newest.state:
            return locked
    return None
