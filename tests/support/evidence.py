"""What is known of a trainer that is gone, and how its run ended: each way once."""

from typing import Any

from app.domain.evidence import Cause, Clues
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
