"""The lifecycle of a run and the states of a checkpoint, as data to read aloud."""

from enum import StrEnum
from typing import Protocol


class RunStatus(StrEnum):
    """The status of a run."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Reason(StrEnum):
    """The reason for a run's status, as a stable code."""

    WAITING_FOR_RESOURCES = "waiting_for_resources"
    WAITING_FOR_QUOTA = "waiting_for_quota"
    WAITING_FOR_CHECKPOINT = "waiting_for_checkpoint"
    WAITING_FOR_CLUSTER = "waiting_for_cluster"
    WAITING_FOR_TRAINER = "waiting_for_trainer"
    RETRYING = "retrying"
    SERVICE_ERROR = "service_error"
    SUSPENDED = "suspended"
    CANCEL_REQUESTED = "cancel_requested"
    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    OUT_OF_MEMORY = "out_of_memory"
    UNFINISHED = "unfinished"
    HEARTBEAT_LOST = "heartbeat_lost"
    STALLED = "stalled"
    UNHEALTHY = "unhealthy"
    TIME_LIMIT = "time_limit"
    PREEMPTED = "preempted"
    NODE_FAILED = "node_failed"
    STOPPED_ELSEWHERE = "stopped_elsewhere"
    LOST = "lost"
    REPORTED_FAILURE = "reported_failure"
    LAUNCHER_ERROR = "launcher_error"
    CHECKPOINT_MISSING = "checkpoint_missing"


class CheckpointState(StrEnum):
    """The state of a checkpoint, as far as the service knows."""

    PENDING = "pending"
    READY = "ready"
    EMPTY = "empty"
    DECLARED = "declared"
    LOST = "lost"
    DELETED = "deleted"


GONE = frozenset({CheckpointState.LOST, CheckpointState.DELETED})
"""States in which a checkpoint cannot be started from any more."""

_S = RunStatus

MOVES: dict[RunStatus, frozenset[RunStatus]] = {
    _S.QUEUED: frozenset({_S.STARTING, _S.CANCELLED, _S.FAILED}),
    _S.STARTING: frozenset({_S.RUNNING, _S.CANCELLING, _S.SUCCEEDED, _S.FAILED, _S.QUEUED}),
    _S.RUNNING: frozenset({_S.CANCELLING, _S.SUCCEEDED, _S.FAILED, _S.QUEUED}),
    _S.CANCELLING: frozenset({_S.CANCELLED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}
"""The legal moves. A move back to queued is a retry of the same run."""

TERMINAL = frozenset(status for status, onward in MOVES.items() if not onward)
LAUNCHED = frozenset({_S.STARTING, _S.RUNNING, _S.CANCELLING})
"""Statuses in which a trainer may exist."""


class Executed(Protocol):
    """A run, a row of one or a request for one."""

    @property
    def recipe(self) -> str | None: ...


def is_external(run: Executed) -> bool:
    """Return True if no recipe executes the run: a trainer that somebody else starts attaches."""
    return run.recipe is None
