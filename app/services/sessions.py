"""Sessions: which process reports on an external run, and the attempt that its reports belong to.

attach        the attempt of a report: of the present session, or of one that may follow it
check_batch   refuses a batch number that would make the next ones look like old ones

The rules are told to trainers in `app.domain.reports.ReportRequest`.
"""

import math
import time

from app.db.sql import Tx, dump, load
from app.db.tables import Run
from app.domain.ids import seconds_between
from app.domain.lifecycle import TERMINAL, RunStatus, is_external
from app.domain.reports import ReportRequest
from app.errors import InvalidInput, RunFinished, SessionActive, StaleAttempt
from app.services import checkpoints, limits, runs

MAX_SESSIONS = 50
MAX_BATCHES_AHEAD = 1_000_000
QUIET_SECONDS = 15.0
"""Without a report for so long, an external run's trainer is replaced by the next that attaches."""
_STARTED = time.monotonic()


def make_stale_error(run: Run) -> StaleAttempt:
    return StaleAttempt(
        f"This report is not of the run's current attempt, {run.attempt}.", attempt=run.attempt
    )


def require_current(run: Run, attempt: int | None, session: str | None) -> None:
    """Raise unless the trainer that sends this is the one that reports on the run.

    StaleAttempt: it was replaced. SessionActive: it is not known yet, or another one reports.
    """
    if RunStatus(run.status) in TERMINAL:
        raise RunFinished(f"The run is {run.status}; nothing more is recorded.")
    if not is_external(run):
        if attempt != run.attempt or run.status == RunStatus.QUEUED:
            raise make_stale_error(run)
        return
    sessions: list[str] = load(run.sessions)
    if session is None or session not in sessions:
        raise SessionActive("Report with this session first.", retry_after=1)
    if session != sessions[-1]:
        raise make_stale_error(run)


def check_batch(run: Run, report: ReportRequest) -> None:
    """Refuse a batch number that would make the next ones look like old ones."""
    if report.batch is not None and report.batch - run.last_batch > MAX_BATCHES_AHEAD:
        raise InvalidInput(
            f"Batches are counted one by one; the last one was {run.last_batch}.",
            errors=[{"pointer": "/batch", "detail": "is too far ahead of the last batch"}],
        )


def attach(tx: Tx, run: Run, report: ReportRequest) -> tuple[Run, bool]:
    """Return the run with the attempt that a report of an external run belongs to.

    False: the report is only answered. It is of another session than the one that saves what a
    cancel promised. Raises StaleAttempt, SessionActive, RunFinished, InvalidInput.
    """
    queued = run.status == RunStatus.QUEUED
    sessions: list[str] = load(run.sessions)
    current = sessions[-1] if sessions else None
    if report.attempt not in (None, run.attempt + queued):
        raise make_stale_error(run)
    if queued:
        start, source_attempt = _start(tx, run)
        run = runs.change(tx, run, source_attempt=source_attempt)
        return _begin(tx, run, report.session, start, "A trainer attached."), True
    if report.session == current:
        return run, True
    if report.session is None:
        _refuse_batch(report)
        return run, True
    if report.session in sessions:
        raise make_stale_error(run)
    # A trainer without a session may begin to send one, unless it has counted its batches.
    if current is None and run.last_batch == 0:
        return runs.change(tx, run, sessions=dump([report.session])), True
    return _replace_session(tx, run, report)


def _refuse_batch(report: ReportRequest) -> None:
    if report.batch is not None:
        raise InvalidInput(
            "A batch is counted by the session that sends it; send the session, or no batch.",
            errors=[{"pointer": "/session", "detail": "is required with a batch"}],
        )


def _replace_session(tx: Tx, run: Run, report: ReportRequest) -> tuple[Run, bool]:
    """Let a new session follow the current one, if that has closed or reports no more."""
    if run.finished:
        raise RunFinished("The trainer of this run has finished; nothing more is recorded.")
    wait = 0 if report.take_over or run.session_closed else QUIET_SECONDS - _heartbeat_age(tx, run)
    cancelling = run.status == RunStatus.CANCELLING
    if wait > 0 and not cancelling:
        raise SessionActive(
            "Another trainer reports on this run. Try again when it has been silent for "
            f"{QUIET_SECONDS:g} seconds, or send take_over to replace it.",
            retry_after=max(1, math.ceil(min(wait, QUIET_SECONDS))),
        )
    if cancelling:  # told to stop, too; a cancelling run begins no attempt
        return run if wait > 0 else _switch_session(tx, run, report.session), wait <= 0
    run = runs.move(tx, run, RunStatus.QUEUED, detail="The trainer was started again.")
    return _begin(tx, run, report.session, run.step, "Another trainer attached."), True


def _begin(tx: Tx, run: Run, session: str | None, start: int, detail: str) -> Run:
    """Start the next attempt of an external run."""
    run = limits.charge(tx, _switch_session(tx, run, session), 4 * limits.ENTRY_BYTES, "/session")
    return runs.move(
        tx, run, RunStatus.STARTING, detail=detail, attempt=run.attempt + 1,
        start_step=start, step=start, finished=False, launched_at=tx.now,
    )  # fmt: skip


def _switch_session(tx: Tx, run: Run, session: str | None) -> Run:
    """Make a session the one that reports on the run. Its batches begin at 1."""
    sessions = [*load(run.sessions), *([session] if session else [])][-MAX_SESSIONS:]
    return runs.change(tx, run, sessions=dump(sessions), session_closed=False, last_batch=0)


def _heartbeat_age(tx: Tx, run: Run) -> float:
    """Return for how many seconds a run's trainer could report and did not.

    A trainer may need some seconds to find a server that was started again.
    """
    last = run.heartbeat_at or run.launched_at or run.created_at
    return min(seconds_between(last, tx.now), time.monotonic() - _STARTED)


def _start(tx: Tx, run: Run) -> tuple[int, int | None]:
    """Return the highest step that an external run's first attempt can start from.

    The second item is the attempt which that step belongs to, or None.
    """
    if run.source_checkpoint_id is None:
        return 0, None
    held = checkpoints.get_stored(tx, checkpoints.get(tx, run.source_checkpoint_id))
    step = runs.get(tx, held.run_id).step if held.step is None else held.step
    return step, held.attempt or run.source_attempt
