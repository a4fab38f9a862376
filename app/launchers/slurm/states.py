"""Slurm's job states (`squeue`, field State), as of version 25."""

from app.domain.evidence import Cause
from app.launchers.base import JobState

_QUEUED, _RUNNING, _ENDED = JobState.QUEUED, JobState.RUNNING, JobState.ENDED

STATES: dict[str, tuple[JobState, Cause | None]] = {
    "PENDING": (_QUEUED, None),
    "CONFIGURING": (_QUEUED, None),
    "REQUEUED": (_QUEUED, None),
    "REQUEUE_FED": (_QUEUED, None),
    "REQUEUE_HOLD": (_QUEUED, None),
    "SPECIAL_EXIT": (_QUEUED, None),
    "RESV_DEL_HOLD": (_QUEUED, None),
    "POWER_UP_NODE": (_QUEUED, None),
    "RUNNING": (_RUNNING, None),
    "COMPLETING": (_RUNNING, None),
    "EXPEDITING": (_RUNNING, None),
    "RESIZING": (_RUNNING, None),
    "SIGNALING": (_RUNNING, None),
    "STAGE_OUT": (_RUNNING, None),
    "STOPPED": (_RUNNING, None),
    "SUSPENDED": (_RUNNING, None),
    "UPDATE_DB": (_RUNNING, None),
    "COMPLETED": (_ENDED, None),
    "FAILED": (_ENDED, None),
    "BOOT_FAIL": (_ENDED, Cause.NODE_FAILED),
    "CANCELLED": (_ENDED, Cause.STOPPED_ELSEWHERE),
    "DEADLINE": (_ENDED, Cause.TIME_LIMIT),
    "LAUNCH_FAILED": (_ENDED, Cause.NEVER_STARTED),
    "NODE_FAIL": (_ENDED, Cause.NODE_FAILED),
    "OUT_OF_MEMORY": (_ENDED, Cause.OUT_OF_MEMORY),
    "PREEMPTED": (_ENDED, Cause.PREEMPTED),
    "RECONFIG_FAIL": (_ENDED, Cause.NODE_FAILED),
    "REVOKED": (_ENDED, Cause.STOPPED_ELSEWHERE),
    "TIMEOUT": (_ENDED, Cause.TIME_LIMIT),
}

STOPPED = frozenset({"SUSPENDED", "STOPPED"})
"""States in which the job's processes are stopped by a signal, and say nothing."""

SENTENCES: dict[str, str] = {
    "BOOT_FAIL": "A node of Slurm job {id} failed to boot.",
    "CANCELLED": "Slurm job {id} was cancelled, and not by this service.",
    "LAUNCH_FAILED": "Slurm could not launch job {id}.",
    "NODE_FAIL": "A node of Slurm job {id} failed{on}.",
    "OUT_OF_MEMORY": "Slurm job {id} used more memory than it had asked for.",
    "PREEMPTED": "Slurm preempted job {id} for one of a higher priority.",
    "REVOKED": "Slurm job {id} was revoked by its federation.",
    "TIMEOUT": "Slurm job {id} was at its time limit of {limit}.",
}
"""What an end means, for people; other ends are told by their state and exit code."""
