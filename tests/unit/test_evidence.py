"""How a run ended, for each way a trainer can be gone."""

from typing import Any

import pytest

from app.domain.clues import Clues
from app.domain.evidence import Cause, Evidence, derive_outcome
from app.domain.lifecycle import Reason

LOST = {"ended_by_service": Reason.HEARTBEAT_LOST, "why": "No report for 60 seconds."}
LIMIT = {"ended_by_service": Reason.TIME_LIMIT, "why": "The time limit is over."}
TRAINED = {"step": 10, "total_steps": 10}
KILLED = Clues(child_signal=9)
HALFWAY = {"step": 5, "total_steps": 10}

CASES: list[tuple[str, dict[str, Any], str, str | None]] = [
    ("finished, exit 0", {"finished": True, "exit_code": 0}, "succeeded", None),
    ("last step, exit 0", TRAINED | {"exit_code": 0}, "succeeded", None),
    ("exit 0 halfway", HALFWAY | {"exit_code": 0}, "failed", "unfinished"),
    ("exit 0 of a silent trainer", {"exit_code": 0}, "failed", "unfinished"),
    ("exit 0, no report due", {"exit_code": 0, "requires_report": False}, "succeeded", None),
    (
        "exit 0 after a stop signal, no report due",
        {"exit_code": 0, "requires_report": False, "stop_sent": True},
        "failed",
        "unfinished",
    ),
    ("exit 3", HALFWAY | {"exit_code": 3}, "failed", "exit_code"),
    ("exit 3 after the last step", TRAINED | {"exit_code": 3}, "failed", "exit_code"),
    (
        "exit 0 at a step before the last, no report due",
        HALFWAY | {"exit_code": 0, "requires_report": False},
        "failed",
        "unfinished",
    ),
    (
        "exit 0, no report due, and its log tells of a SIGTERM",
        {"exit_code": 0, "requires_report": False, "clues": Clues(signal_noted=True)},
        "failed",
        "unfinished",
    ),
    (
        "finished, though its log tells of a SIGTERM",
        {"exit_code": 0, "finished": True, "clues": Clues(signal_noted=True)},
        "succeeded",
        None,
    ),
    ("a shell whose command was killed", {"exit_code": 137}, "failed", "signal"),
    ("a shell whose command aborted", {"exit_code": 134}, "failed", "signal"),
    ("an exit code that is no signal", {"exit_code": 255}, "failed", "exit_code"),
    ("a launcher whose worker was killed", {"exit_code": 1, "clues": KILLED}, "failed", "signal"),
    (
        "a launcher whose worker the kernel killed for memory",
        {"exit_code": 1, "clues": KILLED, "out_of_memory": True},
        "failed",
        "out_of_memory",
    ),
    (
        "a shell whose command the kernel killed for memory",
        {"exit_code": 137, "out_of_memory": True},
        "failed",
        "out_of_memory",
    ),
    (
        "a rank killed for memory, of which there are only the others' complaints",
        {"exit_code": 1, "clues": Clues(follow_up="Connection reset"), "out_of_memory": True},
        "failed",
        "out_of_memory",
    ),
    (
        "an error of its own, while a neighbour was killed for memory",
        {"exit_code": 1, "clues": Clues(error="ValueError: x"), "out_of_memory": True},
        "failed",
        "exit_code",
    ),
    (
        "a launcher that somebody stopped",
        {"exit_code": 1, "clues": Clues(launcher_signal=15)},
        "failed",
        "signal",
    ),
    (
        "a launcher that the service stopped in time for its limit",
        LIMIT | {"exit_code": 1, "clues": Clues(launcher_signal=15)},
        "failed",
        "time_limit",
    ),
    (
        "an error for want of a GPU's memory",
        {"exit_code": 1, "clues": Clues(error="OutOfMemoryError", memory_error=True)},
        "failed",
        "out_of_memory",
    ),
    ("a crash beside that", {"signal": 11, "out_of_memory": True}, "failed", "signal"),
    ("success beside that", TRAINED | {"exit_code": 0, "out_of_memory": True}, "succeeded", None),
    ("killed from outside", {"signal": 9}, "failed", "signal"),
    ("out of memory", {"signal": 9, "out_of_memory": True}, "failed", "out_of_memory"),
    ("gone without a trace", {"is_lost": True}, "failed", "lost"),
    (
        "preempted after it saved",
        {"exit_code": 0, "stop_sent": True, "cause": Cause.PREEMPTED},
        "failed",
        "preempted",
    ),
    (
        "preempted at its own end",
        {"exit_code": 0, "finished": True, "cause": Cause.PREEMPTED},
        "succeeded",
        None,
    ),
    (
        "its own error before the node failed",
        {"exit_code": 3, "cause": Cause.NODE_FAILED},
        "failed",
        "exit_code",
    ),
    ("gone with its node", {"is_lost": True, "cause": Cause.NODE_FAILED}, "failed", "node_failed"),
    (
        "cancelled at the engine",
        {"signal": 15, "cause": Cause.STOPPED_ELSEWHERE},
        "failed",
        "stopped_elsewhere",
    ),
    ("gone once it had finished", {"is_lost": True, "finished": True}, "succeeded", None),
    ("never began", {"launch_error": "No such file."}, "failed", "launcher_error"),
    (
        "its files were removed once it had finished",
        {"launch_error": "Its files were removed.", "finished": True},
        "succeeded",
        None,
    ),
    ("silent, then killed", LOST | {"signal": 9}, "failed", "heartbeat_lost"),
    ("silent, external", LOST, "failed", "heartbeat_lost"),
    ("out of time, saved and left", LIMIT | HALFWAY | {"exit_code": 0}, "failed", "time_limit"),
    ("out of time at its end", LIMIT | {"finished": True, "exit_code": 0}, "succeeded", None),
]


@pytest.mark.parametrize(("evidence", "status", "reason"), [c[1:] for c in CASES],
                         ids=[c[0] for c in CASES])  # fmt: skip
def test_the_verdict_follows_the_evidence(
    evidence: dict[str, Any], status: str, reason: str | None
) -> None:
    outcome = derive_outcome(Evidence(cancel_asked=False, **evidence))
    assert (outcome.status, outcome.reason) == (status, reason)
    assert (outcome.detail is None) == (status == "succeeded")


@pytest.mark.parametrize("evidence", [c[1] for c in CASES], ids=[c[0] for c in CASES])
def test_after_a_cancel_every_end_is_cancelled(evidence: dict[str, Any]) -> None:
    outcome = derive_outcome(Evidence(cancel_asked=True, **evidence))
    assert (outcome.status, outcome.reason) == ("cancelled", "cancel_requested")


def test_the_detail_says_what_a_user_needs() -> None:
    def detail(**evidence: Any) -> str | None:
        return derive_outcome(Evidence(cancel_asked=False, **evidence)).detail

    assert detail(signal=9) == "Ended by SIGKILL (9)."
    assert detail(signal=9, **LOST) == "No report for 60 seconds. Ended by SIGKILL (9)."
    assert detail(exit_code=1, clues=Clues(last_line="CUDA out of memory")) == (
        "Exited with code 1. Its last log line: CUDA out of memory"
    )
    assert detail(exit_code=1, clues=Clues(error="ValueError: x", last_line="step 3")) == (
        "Exited with code 1. The last error in its log: ValueError: x"
    )
    assert detail(exit_code=1, clues=Clues(child_signal=9, follow_up="Connection closed")) == (
        "Exited with code 1. SIGKILL (9) ended one of its processes."
    )
    assert detail(exit_code=137, out_of_memory=True) == (
        "Exited with code 137. SIGKILL (9) ended one of its processes."
        " The kernel was out of memory."
    )
    assert detail(signal=6, clues=Clues(error="what(): CUDA error")) == (
        "Ended by SIGABRT (6). The last error in its log: what(): CUDA error"
    )
    assert detail(exit_code=1, stop_sent=True) == "Exited with code 1 after the stop signal."
    stopped = Evidence(cancel_asked=True, exit_code=0, stop_sent=True)
    assert derive_outcome(stopped).detail == "Exited with code 0 after the stop signal."
    assert detail(exit_code=0, **HALFWAY) == (
        "Exited with code 0 at step 5 of 10, without its last step."
    )
