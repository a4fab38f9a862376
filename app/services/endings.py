"""Ends, in transactions: why the service stops a trainer, what became of an attempt, a retry.

request_termination(tx, …)  before the service ends a trainer, so that the reason is on record
set_notice(tx, …)           what is wrong with a run that goes on
finish_attempt(tx, …)       a trainer is gone: a terminal status from the evidence, or a retry
end_submission(tx, …)       the same for a job that ended in the queue of its engine
"""

from collections.abc import Set

from app.db.rows import RunChanges
from app.db.sql import Tx
from app.db.tables import Run
from app.domain import evidence
from app.domain.evidence import Evidence
from app.domain.ids import timestamp_after
from app.domain.lifecycle import LAUNCHED, Reason, RunStatus
from app.domain.recipes import Recipe
from app.domain.retries import Retry, find_retry
from app.services import attempts, checkpoints, events, health, promises, runs
from app.services.live_runs import AnyRun


def request_termination(tx: Tx, seen: AnyRun, reason: Reason, detail: str) -> bool:
    """Record why the service is about to end a trainer, before it does; return True if it may.

    `seen`: the run as it was when that was decided. One that has reported since is not ended.
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


_RELEASED: RunChanges = {"gpus": "[]", "nonce": None, "host": None}

NOTICES = (Reason.STALLED, Reason.SERVICE_ERROR, Reason.SUSPENDED)
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
    word = reason.value if reason else None
    if (run.status_reason, run.status_detail) == (word, detail):
        return
    runs.change(tx, run, status_reason=word, status_detail=detail)
    events.append(
        tx, run.experiment_id, f"run.{reason.value}" if reason else "run.recovered",
        run_id=run.id, reason=reason.value if reason else before, detail=detail,
        attempt=run.attempt, step=run.step,
    )  # fmt: skip


def end_submission(
    tx: Tx, run_id: str, attempt: int, facts: Evidence, recipe: Recipe | None
) -> None:
    """Record that the engine has ended a job that no agent had claimed: a failure, or a retry."""
    run = runs.lock(tx, run_id)
    if run.status != RunStatus.QUEUED or run.attempt != attempt or run.submitted_at is None:
        return
    outcome = evidence.derive_outcome(facts)
    attempts.record_failure(tx, run_id, attempt, outcome.reason)
    retry = find_retry(recipe, outcome, attempt, run.preemptions)
    if retry is None:
        runs.move(tx, run, RunStatus.FAILED, reason=outcome.reason, detail=outcome.detail)
        return
    reason = Reason.RETRYING.value
    next_attempt_at = timestamp_after(tx.now, retry.pause) if retry.pause else None
    changes: RunChanges = {
        "status_reason": reason, "status_detail": retry.detail,
        "next_attempt_at": next_attempt_at, "preemptions": retry.preemptions,
    }  # fmt: skip
    runs.change(tx, run, **runs.NOT_SUBMITTED | changes)
    events.append(
        tx, run.experiment_id, "run.waiting", run_id=run.id, reason=reason, detail=retry.detail
    )


def finish_attempt(
    tx: Tx, run_id: str, attempt: int, facts: Evidence, recipe: Recipe | None, absent: Set[str]
) -> bool:
    """Record the end of an attempt: a terminal status from the evidence, or a retry.

    Args:
        facts: what the launcher and the agent know; what the run's row knows is added here.
        absent: ids of the promised checkpoints that have no files.

    Returns False if the trainer has announced another checkpoint since, which must be verified
    first. Called again for the same attempt, it changes nothing.
    """
    run = runs.lock(tx, run_id)
    if run.attempt != attempt or RunStatus(run.status) not in LAUNCHED:
        return True
    if not _lose_absent(tx, run, absent):
        return False
    facts = _add_recorded(facts, run)
    outcome = evidence.derive_outcome(facts)
    attempts.record_failure(tx, run_id, attempt, outcome.reason)
    is_wanted = outcome.reason is Reason.UNHEALTHY and health.wants_retry(tx, run)
    retry = find_retry(recipe, outcome, attempt, run.preemptions, is_wanted=is_wanted)
    if outcome.reason is Reason.PREEMPTED and facts.ended_by_service is Reason.PREEMPTED:
        # It made room for another run, whatever its recipe says of failures.
        retry = Retry(0.0, f"{facts.why} Goes on when there is room.", run.preemptions + 1)
        outcome = evidence.Outcome(RunStatus.QUEUED, Reason.PREEMPTED, retry.detail)
    elif retry is not None:
        outcome = evidence.Outcome(RunStatus.QUEUED, Reason.RETRYING, retry.detail)
    ended = _move(tx, run, outcome, facts, retry)
    if facts.cancel_asked:
        reports = facts.requires_report and (recipe is None or recipe.heartbeat_seconds > 0)
        unknown = not reports and run.heartbeat_at is None and facts.launch_error is None
        promises.resolve(tx, ended, evidence.explain_nothing_saved(facts), unknown=unknown)
    return True


def _move(tx: Tx, run: Run, outcome: evidence.Outcome, facts: Evidence, retry: Retry | None) -> Run:
    """Move the run to its outcome: what it held is free, and a retry has its time."""
    next_attempt_at = timestamp_after(tx.now, retry.pause) if retry and retry.pause else None
    data = {
        "next_attempt_at": next_attempt_at, "exit_code": facts.exit_code,
        "signal": facts.signal, "finished": facts.finished or None,
    }  # fmt: skip
    changes: RunChanges = {
        "next_attempt_at": next_attempt_at,
        "preemptions": retry.preemptions if retry else run.preemptions,
    }
    return runs.move(
        tx, run, outcome.status, reason=outcome.reason, detail=outcome.detail, data=data,
        **_RELEASED | changes,
    )  # fmt: skip


def _lose_absent(tx: Tx, run: Run, absent: Set[str]) -> bool:
    """Mark the announced checkpoints that have no files as lost; False if others are pending.

    The promised one is left to `promises.resolve`.
    """
    pending = checkpoints.lock_pending(tx, run.id)
    if not {checkpoint.id for checkpoint in pending} <= absent:
        return False
    for checkpoint in pending:
        if checkpoint.id != run.promised_checkpoint_id:
            checkpoints.mark_lost(
                tx, checkpoint, "The trainer is gone, and no committed files are there."
            )
    return True


def _add_recorded(facts: Evidence, run: Run) -> Evidence:
    """Return the evidence with what the run's row knows."""
    return facts._replace(
        cancel_asked=run.status == RunStatus.CANCELLING,
        ended_by_service=Reason(run.termination_reason) if run.termination_reason else None,
        why=run.termination_detail,
        finished=bool(run.finished),
        step=run.step,
        total_steps=run.total_steps,
    )
