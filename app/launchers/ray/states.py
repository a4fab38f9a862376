"""Ray's job states and kinds of failure (`JobStatus`, `JobErrorType`), as of Ray 2.60."""

from app.domain.evidence import Cause
from app.launchers.base import JobState

STATES: dict[str, JobState] = {
    "PENDING": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "STOPPED": JobState.ENDED,
    "SUCCEEDED": JobState.ENDED,
    "FAILED": JobState.ENDED,
}

CAUSES: dict[str, tuple[Cause, str]] = {
    "RUNTIME_ENV_SETUP_FAILURE": (Cause.NEVER_STARTED, "Ray could not prepare job {id}."),
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT": (
        Cause.NEVER_STARTED, "Ray found no room for job {id} in time.",
    ),
    "JOB_SUPERVISOR_ACTOR_START_FAILURE": (Cause.NODE_FAILED, "Ray lost job {id}."),
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE": (Cause.NEVER_STARTED, "Ray cannot place job {id}."),
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE": (Cause.NODE_FAILED, "Ray lost job {id}{on}."),
    "JOB_SUPERVISOR_ACTOR_DIED": (Cause.NODE_FAILED, "The node of Ray job {id} failed{on}."),
    "JOB_ENTRYPOINT_COMMAND_START_ERROR": (Cause.NEVER_STARTED, "Ray could not start job {id}."),
}  # fmt: skip
"""Why Ray itself ended a job, and that for people; other ends are told by their exit code."""
