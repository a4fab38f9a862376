"""Saves: what a trainer reports as saved, and what verification finds of it on disk."""

import math
from datetime import datetime, timedelta
from typing import Any

from llm_train.checkpoint import Manifest, Quality
from sqlalchemy import Executable, func, select

from app.db.changes import SUPERVISOR
from app.db.sql import Tx, columns, dump, load, query
from app.db.tables import Checkpoint, Run
from app.domain import paths
from app.domain.ids import timestamp
from app.domain.lifecycle import GONE
from app.domain.lifecycle import CheckpointState as State
from app.services import runs
from app.services.checkpoints import change, create, lock_by_path, set_state

_checkpoint = columns(Checkpoint)


@query(tuple[str | None])
def _last_saved(*, run: str) -> Executable:
    return select(func.max(_checkpoint.saved_at)).where(_checkpoint.run_id == run)


def record_saved(
    tx: Tx,
    run: Run,
    name: str,
    *,
    step: int,
    size_bytes: int | None,
    sha256: str | None,
    elsewhere: bool = False,
) -> Checkpoint:
    """Record that a trainer reported a saved checkpoint. May be repeated.

    It is pending until it is verified, or declared if an external trainer keeps the files
    `elsewhere`. A checkpoint that was marked stays what it is.
    """
    state = State.DECLARED if elsewhere else State.PENDING
    checkpoint = lock_by_path(tx, str(paths.CheckpointPath(run.experiment_id, run.id, name)))
    if checkpoint is not None:
        same = _is_same(checkpoint, step, size_bytes, sha256)
        if same and checkpoint.state in (State.READY, *GONE):
            if checkpoint.id == run.promised_checkpoint_id:
                # Its files may have been found before the saves that precede it were reported.
                return change(tx, checkpoint, saved_at=_next_saved_at(tx, run))
            return checkpoint
        if same and checkpoint.state == state and checkpoint.attempt == run.attempt:
            tx.notify(SUPERVISOR)
            return checkpoint
        if checkpoint.state == State.READY and checkpoint.marked_at is not None:
            return checkpoint
    facts: dict[str, Any] = {
        "step": step, "size_bytes": size_bytes, "sha256": sha256, "attempt": run.attempt,
        "saved_at": _next_saved_at(tx, run),
    }  # fmt: skip
    if checkpoint is None:
        return create(tx, run, name, state, **facts)
    if checkpoint.state == state:
        tx.notify(SUPERVISOR)
        return change(tx, checkpoint, **facts)
    facts |= {"reason": None, "stored_as_id": None, "files_removed_at": None}
    return set_state(tx, checkpoint, state, **facts)


def _is_same(checkpoint: Checkpoint, step: int, size: int | None, sha256: str | None) -> bool:
    """Return True if a report is of these files; False if the name was written again.

    Without a SHA-256 only another step or size shows that.
    """
    if sha256 is not None:
        return sha256 == checkpoint.sha256
    return step == checkpoint.step and size in (None, checkpoint.size_bytes)


def _next_saved_at(tx: Tx, run: Run) -> str:
    """Return this transaction's time, or later: no two checkpoints of a run have the same.

    Several arrive in one report, in the order in which they were saved, and the server's clock
    may be set back.
    """
    row = tx.first(_last_saved, run=run.id)
    last = row[0] if row else None
    if last is None or last < tx.now:
        return tx.now
    return timestamp(datetime.fromisoformat(last) + timedelta(microseconds=1))


def _committed_at(tx: Tx, run: Run, manifest: Manifest) -> str:
    """Return when files that no trainer reported were committed, by their manifest.

    Its time was written by the trainer: one that is no time, or lies before the stop request or
    the launch, or in the future, is brought between them.
    """
    earliest = run.cancel_requested_at or run.launched_at or run.created_at
    try:
        moment = datetime.fromisoformat(manifest.created_at)
        committed = timestamp(moment) if moment.tzinfo else tx.now
    except (ValueError, OverflowError):
        committed = tx.now
    return min(max(committed, earliest), tx.now)


def _quality(checkpoint: Checkpoint | None, quality: Quality) -> dict[str, Any]:
    """Return what the trainer said of the model; what a mark has said already stands."""
    metrics = {key: value for key, value in quality.metrics.items() if math.isfinite(value)}
    marked = load(checkpoint.metrics) if checkpoint else {}
    finite = len(metrics) == len(quality.metrics)
    return {
        "metrics": dump(metrics | marked),
        "healthy": quality.healthy if finite else False,
    }


def apply_verification(
    tx: Tx, path: paths.CheckpointPath, expected: str | None, manifest: Manifest | str
) -> Checkpoint | None:
    """Record what was found on disk: the manifest that all files match, or what is wrong.

    `expected`: the manifest's SHA-256 that was on record when the files were read. Returns None
    if the record has changed since then, or was deleted: then the result is not used.
    """
    run = runs.get(tx, path.run_id)
    checkpoint = lock_by_path(tx, str(path))
    if (checkpoint.sha256 if checkpoint else None) != expected:
        return None
    if checkpoint is not None and checkpoint.state == State.DELETED:
        return None
    if not isinstance(manifest, str) and expected not in (None, manifest.sha256):
        manifest = "Its manifest.json is not the one that was committed: the SHA-256 differs."
    if isinstance(manifest, str):
        if checkpoint is None:
            return create(tx, run, path.name, State.LOST, reason=manifest)
        if checkpoint.state in (State.LOST, State.EMPTY):
            return checkpoint
        return set_state(tx, checkpoint, State.LOST, reason=manifest)
    if checkpoint is not None and checkpoint.state == State.READY:
        return checkpoint
    facts: dict[str, Any] = {
        "step": manifest.step, "size_bytes": manifest.size_bytes, "sha256": manifest.sha256,
        "saved_at": (checkpoint and checkpoint.saved_at) or _committed_at(tx, run, manifest),
        **_quality(checkpoint, manifest.quality),
    }  # fmt: skip
    if checkpoint is None:
        return create(tx, run, path.name, State.READY, attempt=run.attempt, **facts)
    return set_state(tx, checkpoint, State.READY, reason=None, stored_as_id=None, **facts)
