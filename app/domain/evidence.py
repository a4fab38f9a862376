"""How a run ended, from what is known and not from the exit code alone.

A trainer that catches SIGTERM and exits 0 half-way has not succeeded; one that was killed
has not failed "by exit code". `judge` is the whole rule.
"""

import signal
from typing import NamedTuple

from app.domain.lifecycle import Reason, RunStatus


class Evidence(NamedTuple):
    """What is known when a trainer is gone."""

    cancel_asked: bool
    vanished: bool = False
    exit_code: int | None = None
    signal: int | None = None
    # The service ended it with SIGKILL.
    killed: bool = False
    out_of_memory: bool = False
    launch_error: str | None = None
    # Why the service itself ended it (heartbeat lost, time limit), if it did, in one sentence.
    ended_by_service: Reason | None = None
    why: str | None = None
    stop_sent: bool = False
    finished: bool = False
    step: int = 0
    total_steps: int | None = None
    requires_report: bool = True
    # The last line of its log.
    last_words: str = ""


class Verdict(NamedTuple):
    """The terminal status, its stable reason and one sentence."""

    status: RunStatus
    reason: Reason | None
    detail: str | None


def judge(evidence: Evidence) -> Verdict:
    """The terminal status of a run whose trainer is gone."""
    e = evidence
    if e.cancel_asked:
        return Verdict(RunStatus.CANCELLED, Reason.CANCEL_REQUESTED, _end(e) or None)
    done = reached_end(e)
    clean = e.signal is None and not e.exit_code and not e.vanished
    if e.ended_by_service is not None and not (done and clean):
        return _failed(e.ended_by_service, " ".join(filter(None, (e.why, _end(e)))))
    if e.launch_error is not None and not e.finished:
        return _failed(Reason.LAUNCHER_ERROR, e.launch_error)
    if e.out_of_memory:
        return _failed(Reason.OUT_OF_MEMORY, "Killed by the kernel: out of memory.")
    if e.vanished and not e.finished:
        return _failed(Reason.LAUNCHER_ERROR, "The process is gone and left no exit code.")
    if e.signal is not None:
        return _failed(Reason.SIGNAL, _end(e))
    if e.exit_code:
        return _failed(Reason.EXIT_CODE, _end(e))
    if done or (not e.requires_report and not e.stop_sent):
        return Verdict(RunStatus.SUCCEEDED, None, None)
    of = f" of {e.total_steps}" if e.total_steps is not None else ""
    return _failed(
        Reason.UNFINISHED, f"Exited with code 0 at step {e.step}{of}, without its last step."
    )


def reached_end(e: Evidence) -> bool:
    """Return True if the training loop came to its own end: it said so, or made its last step.

    A step beyond the last one is on another axis (tokens, say), and a total of 0 is none.
    """
    return e.finished or (bool(e.total_steps) and e.step == e.total_steps)


def nothing_saved(e: Evidence) -> str:
    """Return why a cancelled trainer left no checkpoint, in one sentence."""
    if e.launch_error is not None:
        return "The trainer never began."
    if e.killed:
        return "The trainer was killed before it had saved."
    if e.vanished or e.signal is not None:
        return "The trainer was gone before it had saved."
    return "The trainer saved nothing when it was stopped."


def _failed(reason: Reason, detail: str) -> Verdict:
    return Verdict(RunStatus.FAILED, reason, detail)


def _end(e: Evidence) -> str:
    if e.signal is not None:
        try:
            name = signal.Signals(e.signal).name
        except ValueError:
            name = "signal"
        return f"Ended by {name} ({e.signal})."
    if e.exit_code is not None:
        words = f" Its last words: {e.last_words}" if e.exit_code and e.last_words else ""
        when = " after the stop signal" if e.stop_sent else ""
        return f"Exited with code {e.exit_code}{when}.{words}"
    return "The process is gone." if e.vanished else ""
