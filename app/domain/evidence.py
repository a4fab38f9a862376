"""The outcome of a run, derived from all evidence and not from the exit code alone.

A trainer that catches SIGTERM and exits 0 half-way has not succeeded; one that was killed
has not failed "by exit code". `derive_outcome` is the whole rule.
"""

import signal
from enum import StrEnum
from typing import NamedTuple

from app.domain.lifecycle import Reason, RunStatus

_FATAL = frozenset(
    int(number)
    for number in (
        signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGILL, signal.SIGABRT, signal.SIGBUS,
        signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGTERM,
    )
)  # fmt: skip


class Cause(StrEnum):
    """The engine's reason for ending a job."""

    PREEMPTED = "preempted"
    TIME_LIMIT = "time_limit"
    NODE_FAILED = "node_failed"
    OUT_OF_MEMORY = "out_of_memory"
    STOPPED_ELSEWHERE = "stopped_elsewhere"
    NEVER_STARTED = "never_started"


_REASON_OF_CAUSE = {
    Cause.PREEMPTED: Reason.PREEMPTED,
    Cause.TIME_LIMIT: Reason.TIME_LIMIT,
    Cause.NODE_FAILED: Reason.NODE_FAILED,
    Cause.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
    Cause.STOPPED_ELSEWHERE: Reason.STOPPED_ELSEWHERE,
    Cause.NEVER_STARTED: Reason.LAUNCHER_ERROR,
}


class Clues(NamedTuple):
    """Clues to the cause of an end, from the last lines of a log.

    `error`: the last error that is not just a consequence of another process's end; `follow_up`:
    the last one that is. `last_line`: the last line that is not a launcher's footer or a bar.
    `child_signal`: the signal that ended a process of a launcher; `launcher_signal`: the one that
    stopped the launcher. `memory_error`: the error is that memory could not be allocated.
    `workers_killed`: a launcher ran out of patience with its workers and killed them.
    `signal_noted`: the trainer wrote that it was asked to stop by a signal.
    """

    error: str = ""
    follow_up: str = ""
    last_line: str = ""
    child_signal: int | None = None
    launcher_signal: int | None = None
    memory_error: bool = False
    workers_killed: bool = False
    signal_noted: bool = False


class Evidence(NamedTuple):
    """The facts known when a trainer is gone."""

    cancel_asked: bool
    is_lost: bool = False
    exit_code: int | None = None
    signal: int | None = None
    # The service ended it with SIGKILL.
    killed: bool = False
    # The kernel ended a process for lack of memory, of this tree or of one beside it.
    out_of_memory: bool = False
    launch_error: str | None = None
    # Why the engine ended the job, and its own words; the exit code comes first.
    cause: Cause | None = None
    cause_detail: str = ""
    # The reason for which the service ended it (heartbeat lost, time limit), and its sentence.
    ended_by_service: Reason | None = None
    why: str | None = None
    stop_sent: bool = False
    finished: bool = False
    step: int = 0
    total_steps: int | None = None
    requires_report: bool = True
    # Causes found in its log.
    clues: Clues = Clues()


class Outcome(NamedTuple):
    """The terminal status, its stable reason and one sentence."""

    status: RunStatus
    reason: Reason | None
    detail: str | None


def derive_outcome(evidence: Evidence) -> Outcome:
    """Return the terminal status of a run whose trainer is gone, with its reason."""
    if (e := evidence).cancel_asked:
        told = e.why if e.ended_by_service is Reason.REPORTED_FAILURE else None
        return Outcome(RunStatus.CANCELLED, Reason.CANCEL_REQUESTED, told or _end(e) or None)
    done = has_reached_end(e)
    halfway = bool(e.total_steps) and e.step < (e.total_steps or 0)
    clean = e.signal is None and not e.exit_code and not e.is_lost
    if e.ended_by_service is not None and not (done and clean):
        return _fail(e.ended_by_service, " ".join(filter(None, (e.why, _end(e)))))
    if e.launch_error is not None and not e.finished:
        return _fail(Reason.LAUNCHER_ERROR, e.launch_error)
    if e.cause is not None and not e.finished and (not e.exit_code or e.stop_sent):
        return _fail(_REASON_OF_CAUSE[e.cause], " ".join(filter(None, (e.cause_detail, _end(e)))))
    if _has_run_out_of_memory(e):
        return _fail(Reason.OUT_OF_MEMORY, _end(e) + " The kernel was out of memory.")
    if e.is_lost and not e.finished:
        return _fail(Reason.LOST, "The process is gone and left no exit code.")
    if e.signal is not None or _find_child_signal(e) is not None:
        return _fail(Reason.SIGNAL, _end(e))
    if e.exit_code and e.clues.launcher_signal is not None:
        by = _name_signal(e.clues.launcher_signal)
        detail = f"{by} from outside stopped its launcher, which exited with code {e.exit_code}."
        return _fail(Reason.SIGNAL, detail)
    if e.exit_code:
        reason = Reason.OUT_OF_MEMORY if e.clues.memory_error else Reason.EXIT_CODE
        return _fail(reason, _end(e))
    if done:
        return Outcome(RunStatus.SUCCEEDED, None, None)
    if e.requires_report or halfway:
        of = f" of {e.total_steps}" if e.total_steps is not None else ""
        detail = f"Exited with code 0 at step {e.step}{of}, without its last step."
        return _fail(Reason.UNFINISHED, detail)
    # Of a trainer that does not report, it is known only whether it was asked to stop. Who signals
    # the trainer alone leaves no trace in the kernel, but mostly one in its log.
    if e.stop_sent:
        return _fail(Reason.UNFINISHED, _end(e))
    if e.clues.signal_noted:
        detail = "Exited with code 0 after a stop signal from outside, which its log tells of."
        return _fail(Reason.UNFINISHED, detail)
    return Outcome(RunStatus.SUCCEEDED, None, None)


def _has_run_out_of_memory(e: Evidence) -> bool:
    """Return True if the kernel's count of kills explains how the trainer ended.

    The count is shared with other runs: it must not blame memory for an error that was logged.
    """
    if not e.out_of_memory:
        return False
    by = e.signal or _find_child_signal(e)
    return by == signal.SIGKILL or (by is None and bool(e.exit_code) and not e.clues.error)


def _find_child_signal(e: Evidence) -> int | None:
    """Return the signal that ended a process of the trainer, by its log or by its exit code."""
    if not e.exit_code:
        return None
    if e.clues.child_signal is not None:
        return e.clues.child_signal
    # A shell, and what is like one, exits with 128 + the signal that ended its command.
    return e.exit_code - 128 if e.exit_code - 128 in _FATAL else None


def has_reached_end(e: Evidence) -> bool:
    """Return True if the training loop came to its own end: it said so, or made its last step.

    A step beyond the last one is on another axis (tokens, say), and a total of 0 is none.
    """
    return e.finished or (bool(e.total_steps) and e.step == e.total_steps)


def explain_nothing_saved(e: Evidence) -> str:
    """Return why a cancelled trainer left no checkpoint, in one sentence."""
    if e.launch_error is not None:
        return "The trainer never began."
    if e.clues.workers_killed:
        return "The trainer's launcher killed its workers before they had saved."
    if e.killed:
        return "The trainer was killed before it had saved."
    if e.is_lost or e.signal is not None:
        return "The trainer was gone before it had saved."
    return "The trainer saved nothing when it was stopped."


def _fail(reason: Reason, detail: str) -> Outcome:
    return Outcome(RunStatus.FAILED, reason, detail)


def _end(e: Evidence) -> str:
    if e.signal is not None:
        return f"Ended by {_name_signal(e.signal)}.{_describe_cause(e)}"
    if e.exit_code is not None:
        when = " after the stop signal" if e.stop_sent else ""
        by = _find_child_signal(e)
        child = f" {_name_signal(by)} ended one of its processes." if by is not None else ""
        cause = _describe_cause(e) if e.exit_code else ""
        return f"Exited with code {e.exit_code}{when}.{child}{cause}"
    return "The process is gone." if e.is_lost else ""


def _name_signal(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({number})"
    except ValueError:
        return f"signal ({number})"


def _describe_cause(e: Evidence) -> str:
    """Return the cause that its log gives; nothing where this service, or SIGKILL, is the cause."""
    if e.killed or signal.SIGKILL in (e.signal, _find_child_signal(e)):
        return ""
    if error := e.clues.error or e.clues.follow_up:
        return f" The last error in its log: {error}"
    if e.exit_code and e.clues.last_line:
        return f" Its last log line: {e.clues.last_line}"
    return ""
