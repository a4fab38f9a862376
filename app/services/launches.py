"""Starts, in transactions: where a run starts from, what its trainer is to do, the claim.

Launching is claim (here) → act (the launcher, no transaction) → reconcile. A claim gives the
attempt its number and its nonce; whatever happens later is recorded against that number.
"""

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from app.db.sql import Tx, dump, load
from app.db.tables import Checkpoint, Run
from app.domain import paths
from app.domain.lifecycle import CheckpointState, Reason, RunStatus
from app.domain.recipes import LOCAL
from app.domain.tokens import claim_code
from app.services import attempts, checkpoints, data_dirs, events, health, runs
from app.storage.base import CheckpointStorage


class Source(NamedTuple):
    """The start of an attempt: the checkpoint that the user named, and the one with files."""

    named: Checkpoint
    stored: Checkpoint


def list_sources(tx: Tx, run: Run) -> list[Source]:
    """Return the checkpoints that a launch may start from, best first.

    A retry starts from its own newest; a resumed run from the one it was asked to; when
    those turn out damaged, from the newest before them, up the lineage. Own ones with NaN in them
    come last: the training would only fail again.
    """
    own = checkpoints.list_ready(tx, run.id) if run.attempt > 0 else []
    findings = health.list_of_run(tx, run.id) if own else []
    untainted = [
        Source(candidate, candidate)
        for candidate in own
        if not health.is_tainted(findings, candidate)
    ]
    unhealthy = [source for source in untainted if not checkpoints.is_good(source.stored)]
    good = [source for source in untainted if checkpoints.is_good(source.stored)]
    seen = {source.stored.id for source in untainted}
    for checkpoint in checkpoints.lineage(tx, run):
        stored = checkpoints.get_stored(tx, checkpoint)
        if stored.id not in seen:
            seen.add(stored.id)
            good.append(Source(checkpoint, stored))
    return good + unhealthy


def make_spec(run: Run, source: Source | None, storage: CheckpointStorage) -> dict[str, Any]:
    """Return what every trainer of a run must do, wherever it runs: the core of spec.json."""
    return {
        "format": 1,
        "run_id": run.id,
        "experiment_id": run.experiment_id,
        "recipe": run.recipe,
        "model": run.model,
        "dataset": load(run.dataset),
        "hyperparams": load(run.hyperparams),
        "resources": load(run.resources),
        "notes": run.notes or "",
        "store": storage.has_urls,
        "checkpoint_dir": storage.location(run.experiment_id, run.id),
        "resume": None if source is None else {
            "ckpt_path": source.named.ckpt_path,
            "path": storage.location(*paths.parse(source.stored.ckpt_path)),
            "step": source.stored.step,
            "sha256": source.stored.sha256,
        },
    }  # fmt: skip


def get_spec(tx: Tx, run_id: str, storage: CheckpointStorage) -> dict[str, Any]:
    """Return what a trainer that attaches by itself must do. Raises NotFound.

    It starts from the checkpoint that the run was resumed from, whatever became of that: what
    cannot be read is its trainer's to say, who must not begin from nothing instead.
    """
    run = runs.get(tx, run_id)
    source = None
    if run.source_checkpoint_id is not None:
        named = checkpoints.get(tx, run.source_checkpoint_id)
        source = Source(named, checkpoints.get_stored(tx, named))
        if source.stored.state == CheckpointState.EMPTY:
            source = None
    return make_spec(run, source, storage)


class WaitingReason(NamedTuple):
    """The reason why a queued run waits. `detail` holds no number that changes while it lasts."""

    run_id: str
    reason: Reason
    detail: str
    is_new: bool = True
    """False: only its place in the queue has changed, which is no event."""


def set_waiting_reasons(tx: Tx, waiting: Sequence[WaitingReason]) -> None:
    """Record why queued runs wait, with an event for each where that is new."""
    for run_id, reason, detail, is_new in waiting:
        run = runs.lock(tx, run_id)
        known = (run.status_reason, run.status_detail)
        if run.status != RunStatus.QUEUED or known == (reason, detail):
            continue
        runs.change(tx, run, status_reason=reason.value, status_detail=detail, next_attempt_at=None)
        if is_new:
            events.append(
                tx, run.experiment_id, "run.waiting",
                run_id=run.id, reason=reason.value, detail=detail,
            )  # fmt: skip


class EngineWords(NamedTuple):
    """The engine's status of a job that waits in its queue."""

    run_id: str
    attempt: int
    words: str
    detail: str
    """The words, and the job's place in the queue."""
    engine_id: str | None
    is_new: bool
    """True: more has changed than the job's place in the queue."""


def record_engine_words(tx: Tx, words: Sequence[EngineWords]) -> None:
    """Record what engines say of submitted runs, with an event for each where that is new."""
    reason = Reason.WAITING_FOR_CLUSTER
    for run_id, attempt, _, detail, engine_id, is_new in words:
        run = runs.lock(tx, run_id)
        if run.status != RunStatus.QUEUED or run.attempt != attempt:
            continue
        if (run.status_reason, run.status_detail) != (reason, detail):
            run = runs.change(tx, run, status_reason=reason.value, status_detail=detail)
            if is_new:
                events.append(
                    tx, run.experiment_id, "run.waiting",
                    run_id=run.id, reason=reason.value, detail=detail,
                )  # fmt: skip
        if engine_id is not None and run.engine_id != engine_id:
            runs.change(tx, run, engine_id=engine_id)


def fail_queued(tx: Tx, run_id: str, reason: Reason, detail: str) -> None:
    """Fail a queued run that can never start."""
    run = runs.lock(tx, run_id)
    if run.status == RunStatus.QUEUED:
        runs.move(tx, run, RunStatus.FAILED, reason=reason, detail=detail)


def claim(
    tx: Tx,
    run: Run,
    gpus: Sequence[str],
    source: Source | None,
    detail: str | None,
    data_dir: str | None,
    host: str | None = None,
) -> Run | None:
    """Give a queued run its next attempt on this machine, with GPUs of the machine `host`.

    Returns None if the run or its checkpoint has changed, or the directory is not the database's.
    """
    now = _lock_queued(tx, run, source, data_dir)
    if now is None:
        return None
    named = source.named if source else None
    return runs.move(
        tx, now, RunStatus.STARTING, detail=detail,
        data={"ckpt_path": named.ckpt_path if named else None, "gpus": list(gpus) or None},
        launched_at=tx.now, launcher=LOCAL, host=host, gpus=dump(list(gpus)), gpus_held=len(gpus),
        submitted_at=tx.now, claimed_at=tx.now, **_build_next_attempt(tx, now, named),
    )  # fmt: skip


def submit(
    tx: Tx, run: Run, launcher: str, source: Source | None, data_dir: str | None, secret: str,
    spec: dict[str, Any], detail: str, gpus: Sequence[str] = (), gpus_held: int | None = None,
) -> Run | None:  # fmt: skip
    """Give a queued run its next attempt, which an agent claims over HTTP.

    The run stays queued until then. `gpus`: those that the service itself gives it; `gpus_held`:
    how many it holds, wherever they are. Returns None if the run or its checkpoint has changed, or
    the directory is not the database's.
    """
    now = _lock_queued(tx, run, source, data_dir)
    if now is None:
        return None
    named = source.named if source else None
    reason = Reason.WAITING_FOR_CLUSTER.value
    changed = runs.change(
        tx, now, launcher=launcher, submitted_at=tx.now, status_reason=reason,
        status_detail=detail, gpus=dump(list(gpus)), gpus_held=gpus_held,
        **_build_next_attempt(tx, now, named),
    )  # fmt: skip
    events.append(
        tx, run.experiment_id, "run.submitted", run_id=run.id, reason=reason, detail=detail,
        attempt=changed.attempt, ckpt_path=named.ckpt_path if named else None,
    )  # fmt: skip
    code = claim_code(secret, run.id, changed.attempt)
    path = None if source is None else source.stored.ckpt_path
    attempts.create(tx, changed, code, spec, path)
    return changed


def _lock_queued(tx: Tx, run: Run, source: Source | None, data_dir: str | None) -> Run | None:
    """Return the run, if it may get the attempt after `run.attempt` from this source."""
    now = runs.lock(tx, run.id)
    if not data_dirs.holds(tx, data_dir) or now.submitted_at is not None:
        return None
    if now.status != RunStatus.QUEUED or now.attempt != run.attempt:
        return None
    if source is not None and checkpoints.get(tx, source.stored.id).state != source.stored.state:
        return None
    return now


def _build_next_attempt(tx: Tx, run: Run, named: Checkpoint | None) -> dict[str, Any]:
    start = 0 if named is None else named.step or 0
    return {
        "attempt": run.attempt + 1, "nonce": secrets.token_urlsafe(18), "engine_id": None,
        "next_attempt_at": None, "heartbeat_at": None, "heartbeat_seconds": None, "last_batch": 0,
        "finished": False,
        "start_step": start, "step": start, **_build_source_columns(tx, run, named),
    }  # fmt: skip


def record_engine_id(tx: Tx, run_id: str, attempt: int, engine_id: str) -> None:
    """Record the engine's id of the job of a run's current attempt."""
    run = runs.lock(tx, run_id)
    if run.attempt == attempt and run.engine_id != engine_id:
        runs.change(tx, run, engine_id=engine_id)


def requeue(tx: Tx, run_id: str, attempt: int, detail: str) -> None:
    """Put a run back whose claimed attempt can never begin, so that it is claimed anew."""
    run = runs.lock(tx, run_id)
    if run.status == RunStatus.STARTING and run.attempt == attempt:
        runs.move(tx, run, RunStatus.QUEUED, detail=detail)


def _build_source_columns(tx: Tx, run: Run, source: Checkpoint | None) -> dict[str, Any]:
    """Return the columns that record what a resumed run really started from."""
    if source is None or source.run_id == run.id:
        return {}
    return {
        "source_checkpoint_id": source.id,
        "source_ckpt_path": source.ckpt_path,
        "source_attempt": checkpoints.find_origin(tx, source)[1],
    }


def mark_running(tx: Tx, run_id: str, attempt: int) -> None:
    """Record that the trainer of a recipe that does not report is alive."""
    run = runs.lock(tx, run_id)
    if run.status == RunStatus.STARTING and run.attempt == attempt:
        runs.move(tx, run, RunStatus.RUNNING)
