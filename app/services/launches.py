"""What the supervisor decides in transactions: claim a launch, record an end.

Launching is claim (here) → act (the launcher, no transaction) → observe. A claim gives the
attempt its number and its nonce; whatever happens later is recorded against that number.
"""

import secrets
from collections.abc import Sequence, Set
from typing import Any, NamedTuple

from sqlalchemy import bindparam, func, literal_column, select

from app.db import tables
from app.db.sql import Statement, Tx, columns, dump, load, select_all
from app.db.tables import Checkpoint, Run
from app.domain import evidence, paths
from app.domain.evidence import Evidence
from app.domain.ids import timestamp_after
from app.domain.lifecycle import LAUNCHED, TERMINAL, CheckpointState, Reason, RunStatus
from app.domain.recipes import LOCAL, Recipe, StallAction
from app.domain.tokens import claim_code
from app.errors import NotFound
from app.services import attempts, checkpoints, data_dirs, events, promises, runs
from app.storage.base import CheckpointStorage

_run = columns(Run)

_QUEUED = Statement(
    select_all(Run)
    .where(
        # In the words of the index ix_run_queue; by id, which is by time, as that one is.
        _run.status == literal_column("'queued'"),
        _run.recipe.is_not(None),
        _run.submitted_at.is_(None),
        _run.id > bindparam("id"),
    )
    .order_by(_run.id)
    .limit(bindparam("most")),
    Run,
)
_WAITING = Statement[tuple[int]](
    select(func.count())
    .select_from(Run)
    .where(
        _run.status == literal_column("'queued'"),
        _run.recipe.is_not(None),
        _run.submitted_at.is_(None),
        _run.id <= bindparam("id"),
    )
)


class LiveRun(NamedTuple):
    """What the supervisor has to know of a run that may have a trainer, twice a second."""

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
    last_progress_at: str | None
    promised_checkpoint_id: str | None


AnyRun = Run | LiveRun


def _live(where: Any) -> Statement[tuple[Any, ...]]:
    found = select(*[_run[name] for name in LiveRun._fields])
    return Statement(found.where(where).order_by(_run.id))


# In the words of the indexes.
_LAUNCHED = _live(tables.LAUNCHED)
_SUBMITTED = _live(tables.SUBMITTED)
_EXTERNAL = _live(tables.EXTERNAL)
_ENDING = _live(tables.ENDING)


class Source(NamedTuple):
    """Where an attempt starts: the checkpoint that the user named, and the one with files."""

    named: Checkpoint
    stored: Checkpoint


class QueueCursor(NamedTuple):
    """A place in the queue: behind the run of this id."""

    id: str = ""


def list_queued(tx: Tx, after: QueueCursor, most: int) -> list[Run]:
    """Runs with a recipe that wait to be launched, oldest first."""
    return tx.all(_QUEUED, **after._asdict(), most=most)


def count_waiting(tx: Tx, up_to: QueueCursor) -> int:
    """How many runs with a recipe wait to be launched up to a place in the queue."""
    found = tx.first(_WAITING, **up_to._asdict())
    return found[0] if found else 0


def list_launched(tx: Tx) -> list[LiveRun]:
    """Return the runs of recipes that may have a trainer, oldest first."""
    return [LiveRun(*row) for row in tx.all(_LAUNCHED)]


def list_submitted(tx: Tx) -> list[LiveRun]:
    """Return the runs that wait in the queue of an engine, oldest first."""
    return [LiveRun(*row) for row in tx.all(_SUBMITTED)]


def list_unwanted(tx: Tx, keys: Sequence[tuple[str, int]]) -> list[Any]:
    """Return the attempts among `keys` that are no run's current one, or whose run has ended."""
    found = []
    for key in keys:
        try:
            run = runs.get(tx, key[0])
        except NotFound:  # of another service
            continue
        if run.attempt != key[1] or RunStatus(run.status) in TERMINAL:
            found.append(key)
    return found


def list_external(tx: Tx) -> list[LiveRun]:
    """Return the external runs that have a trainer. They may be thousands."""
    return [LiveRun(*row) for row in tx.all(_EXTERNAL)]


def list_ending_external(tx: Tx) -> list[LiveRun]:
    """Return the external runs that have finished, or are to end."""
    return [LiveRun(*row) for row in tx.all(_ENDING)]


def list_sources(tx: Tx, run: Run) -> list[Source]:
    """Checkpoints that a launch may start from, best first.

    A retry starts from its own newest; a resumed run from the one it was asked to; when
    those turn out damaged, from the newest before them, up the lineage.
    """
    found = [Source(each, each) for each in checkpoints.list_ready(tx, run.id) if run.attempt > 0]
    seen = {each.stored.id for each in found}
    for each in checkpoints.lineage(tx, run):
        stored = checkpoints.get_stored(tx, each)
        if stored.id not in seen:
            seen.add(stored.id)
            found.append(Source(each, stored))
    return found


def make_spec(run: Run, source: Source | None, storage: CheckpointStorage) -> dict[str, Any]:
    """What every trainer of a run shall do, wherever it runs: the heart of spec.json."""
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
        "checkpoint_dir": storage.location(run.experiment_id, run.id),
        "resume": None if source is None else {
            "ckpt_path": source.named.ckpt_path,
            "path": storage.location(*paths.parse(source.stored.ckpt_path)),
            "step": source.stored.step,
        },
    }  # fmt: skip


def get_spec(tx: Tx, run_id: str, storage: CheckpointStorage) -> dict[str, Any]:
    """What a trainer that attaches by itself shall do. Raises NotFound.

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
    """Why a queued run waits. `detail` changes with the reason, and not with a number in it."""

    run_id: str
    reason: Reason
    detail: str


def set_waiting_reasons(tx: Tx, waiting: Sequence[WaitingReason]) -> None:
    """Record why queued runs wait, with an event for each where that is new."""
    for run_id, reason, detail in waiting:
        run = runs.lock(tx, run_id)
        known = (run.status_reason, run.status_detail)
        if run.status != RunStatus.QUEUED or known == (reason, detail):
            continue
        runs.change(tx, run, status_reason=reason.value, status_detail=detail, next_attempt_at=None)
        events.append(
            tx, run.experiment_id, "run.waiting", run_id=run.id, reason=reason.value, detail=detail
        )


def fail_queued(tx: Tx, run_id: str, reason: Reason, detail: str) -> None:
    """Fails a queued run that can never start."""
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
        launched_at=tx.now, launcher=LOCAL, host=host, gpus=dump(list(gpus)),
        submitted_at=tx.now, claimed_at=tx.now, **_next_attempt(tx, now, named),
    )  # fmt: skip


def submit(
    tx: Tx, run: Run, launcher: str, source: Source | None, data_dir: str | None, secret: str,
    spec: dict[str, Any], detail: str,
) -> Run | None:  # fmt: skip
    """Give a queued run its next attempt, which an agent claims over HTTP.

    The run stays queued until then. Returns None if the run or its checkpoint has changed, or the
    directory is not the database's.
    """
    now = _lock_queued(tx, run, source, data_dir)
    if now is None:
        return None
    named = source.named if source else None
    reason = Reason.WAITING_FOR_CLUSTER.value
    changed = runs.change(
        tx, now, launcher=launcher, submitted_at=tx.now, status_reason=reason,
        status_detail=detail, **_next_attempt(tx, now, named),
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


def _next_attempt(tx: Tx, run: Run, named: Checkpoint | None) -> dict[str, Any]:
    start = 0 if named is None else named.step or 0
    return {
        "attempt": run.attempt + 1, "nonce": secrets.token_urlsafe(18), "engine_id": None,
        "next_attempt_at": None, "heartbeat_at": None, "last_batch": 0, "finished": False,
        "start_step": start, "step": start, **_launched_from(tx, run, named),
    }  # fmt: skip


def record_engine_id(tx: Tx, run_id: str, attempt: int, engine_id: str) -> None:
    """Record the engine's id of the job of a run's current attempt."""
    run = runs.lock(tx, run_id)
    if run.attempt == attempt and run.engine_id != engine_id:
        runs.change(tx, run, engine_id=engine_id)


def end_submission(
    tx: Tx, run_id: str, attempt: int, found: Evidence, recipe: Recipe | None
) -> None:
    """Record that the engine has ended a job that no agent had claimed: a failure, or a retry."""
    run = runs.lock(tx, run_id)
    if run.status != RunStatus.QUEUED or run.attempt != attempt or run.submitted_at is None:
        return
    outcome = evidence.derive_outcome(found)
    if recipe is None or not is_retried(recipe, outcome.reason, attempt):
        runs.move(tx, run, RunStatus.FAILED, reason=outcome.reason, detail=outcome.detail)
        return
    pause = recipe.pause_after(attempt)
    detail = f"Attempt {attempt} of {recipe.max_attempts}: {outcome.detail} Trying again."
    runs.change(
        tx, run, status_reason=Reason.RETRYING.value, status_detail=detail,
        next_attempt_at=timestamp_after(tx.now, pause) if pause else None, **runs.NOT_SUBMITTED,
    )  # fmt: skip
    events.append(
        tx, run.experiment_id, "run.waiting", run_id=run.id, reason=Reason.RETRYING.value,
        detail=detail,
    )  # fmt: skip


def requeue(tx: Tx, run_id: str, attempt: int, detail: str) -> None:
    """Put a run back whose claimed attempt can never begin, so that it is claimed anew."""
    run = runs.lock(tx, run_id)
    if run.status == RunStatus.STARTING and run.attempt == attempt:
        runs.move(tx, run, RunStatus.QUEUED, detail=detail)


def _launched_from(tx: Tx, run: Run, source: Checkpoint | None) -> dict[str, Any]:
    """A resumed run records what it really started from: what it named may be damaged by then."""
    if source is None or source.run_id == run.id:
        return {}
    return {
        "source_checkpoint_id": source.id,
        "source_ckpt_path": source.ckpt_path,
        "source_attempt": checkpoints.origin(tx, source)[1],
    }


def mark_running(tx: Tx, run_id: str, attempt: int) -> None:
    """The trainer of a recipe that does not report is alive."""
    run = runs.lock(tx, run_id)
    if run.status == RunStatus.STARTING and run.attempt == attempt:
        runs.move(tx, run, RunStatus.RUNNING)


def request_termination(tx: Tx, seen: AnyRun, reason: Reason, detail: str) -> bool:
    """Records why the service is about to end a trainer, before it does; whether it may.

    `seen`: the run as it was when that was decided. Who has reported since is not silent.
    """
    run = runs.lock(tx, seen.id)
    if run.attempt != seen.attempt or run.status not in (RunStatus.STARTING, RunStatus.RUNNING):
        return False
    if reason is Reason.HEARTBEAT_LOST and run.heartbeat_at != seen.heartbeat_at:
        return False
    if reason is Reason.STALLED and run.last_progress_at != seen.last_progress_at:
        return False
    if run.termination_reason is None:
        runs.change(
            tx, run, termination_reason=reason.value, termination_detail=detail,
            status_reason=reason.value, status_detail=detail,
        )  # fmt: skip
        events.append(
            tx, run.experiment_id, "run.stopping", run_id=run.id, reason=reason.value,
            detail=detail, attempt=run.attempt,
        )  # fmt: skip
    return True


_RELEASED = {"gpus": "[]", "nonce": None, "host": None}

NOTICES = (Reason.STALLED, Reason.SERVICE_ERROR)
"""Reasons of a launched run that goes on."""


def set_notice(
    tx: Tx, seen: AnyRun, reason: Reason | None, detail: str | None, before: str | None = None
) -> None:
    """Record what is wrong with a launched run that goes on; None: what was, `before`, is not.

    An event says so. A run that is about to be ended, or was, keeps the reason for that.
    """
    run = runs.lock(tx, seen.id)
    ending = run.termination_reason is not None
    if run.attempt != seen.attempt or ending or run.status not in (
        RunStatus.STARTING, RunStatus.RUNNING,
    ):  # fmt: skip
        return
    if reason is Reason.STALLED and run.last_progress_at != seen.last_progress_at:
        return
    changes = {"status_reason": reason.value if reason else None, "status_detail": detail}
    if (run.status_reason, run.status_detail) == (changes["status_reason"], detail):
        return
    runs.change(tx, run, **changes)
    events.append(
        tx, run.experiment_id, f"run.{reason.value}" if reason else "run.recovered",
        run_id=run.id, reason=reason.value if reason else before, detail=detail,
        attempt=run.attempt, step=run.step,
    )  # fmt: skip


def is_retried(recipe: Recipe, reason: Reason | None, attempt: int) -> bool:
    """Return True if a run that failed for this reason is tried again."""
    wanted = reason in recipe.retry_on or (
        reason is Reason.STALLED and recipe.on_stall is StallAction.RETRY
    )
    return wanted and attempt < recipe.max_attempts


def finish_attempt(
    tx: Tx, run_id: str, attempt: int, found: Evidence, recipe: Recipe | None, absent: Set[str]
) -> bool:
    """Records the end of an attempt: a terminal status from the evidence, or a retry.

    `absent`: the promised checkpoints of which there are no files. False: the trainer has
    announced another one since, which must be looked at first. Called again for the same
    attempt, it changes nothing.
    """
    run = runs.lock(tx, run_id)
    if run.attempt != attempt or RunStatus(run.status) not in LAUNCHED:
        return True
    unseen = checkpoints.lock_pending(tx, run.id)
    if not {each.id for each in unseen} <= absent:
        return False
    cancelled = run.status == RunStatus.CANCELLING
    for each in unseen:  # the promised one is resolved below
        if each.id != run.promised_checkpoint_id:
            checkpoints.mark_lost(
                tx, each, "The trainer is gone, and no committed files are there."
            )
    found = found._replace(
        cancel_asked=cancelled,
        ended_by_service=Reason(run.termination_reason) if run.termination_reason else None,
        why=run.termination_detail,
        finished=bool(run.finished),
        step=run.step,
        total_steps=run.total_steps,
    )
    outcome = evidence.derive_outcome(found)
    status, reason, detail = outcome
    next_attempt_at = None
    failed = status is RunStatus.FAILED
    if recipe is not None and failed and is_retried(recipe, reason, attempt):
        status, reason = RunStatus.QUEUED, Reason.RETRYING
        pause = recipe.pause_after(attempt)
        next_attempt_at = timestamp_after(tx.now, pause) if pause else None
        after = f" after a pause of {pause:g} seconds" if pause else ""
        detail = (
            f"Attempt {attempt} of {recipe.max_attempts}: {outcome.detail} Trying again{after}."
        )
    ended = runs.move(
        tx, run, status, reason=reason, detail=detail, next_attempt_at=next_attempt_at,
        **_RELEASED,
        data={
            "next_attempt_at": next_attempt_at,
            "exit_code": found.exit_code,
            "signal": found.signal,
            "finished": found.finished or None,
        },
    )  # fmt: skip
    if cancelled:
        reports = found.requires_report and (recipe is None or recipe.heartbeat_seconds > 0)
        unknown = not reports and run.heartbeat_at is None and found.launch_error is None
        promises.resolve(tx, ended, evidence.nothing_saved(found), unknown=unknown)
    return True
