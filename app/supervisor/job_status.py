"""The current state of each attempt, from its agent if that has reported, else from the engine.

A launcher is asked once for all of its attempts. Reports of agents that use HTTP are in the
database; mailboxes on disk are read by their launcher.
"""

import asyncio
from dataclasses import replace

from app.agent.mailbox import ExitRecord
from app.domain.evidence import Cause
from app.domain.lifecycle import RunStatus
from app.domain.recipes import LOCAL
from app.launchers.base import JobState, JobStatus, Key, Unreachable
from app.services import attempts
from app.services.attempts import LiveAttempt
from app.services.live_runs import LiveRun
from app.supervisor import engines
from app.supervisor.state import SupervisorState, key_of, uses_files

AGENT_SILENT_SECONDS = 35.0
"""After so long without a pulse an agent that is reached over HTTP counts as gone."""
MISSING_SECONDS = 15.0
"""For so long an engine must not know a job before that counts as its end."""
ENGINE_WORD_SECONDS = 15.0
"""For so long an end that nobody here asked for waits for the engine to say why."""


async def get_statuses(state: SupervisorState, live: list[LiveRun]) -> dict[Key, JobStatus]:
    """Return the status of the current attempt of each run.

    UNKNOWN stands for those whose launcher cannot be reached.
    """
    keys: dict[str, list[Key]] = {}
    for run in live:
        keys.setdefault(run.launcher or LOCAL, []).append(key_of(run))
    statuses: dict[Key, JobStatus] = {}
    for name, own_keys in keys.items():
        statuses |= dict.fromkeys(own_keys, JobStatus(JobState.UNKNOWN))
        try:
            if name not in state.launchers:
                raise Unreachable(f"The launcher {name!r} is not configured on this server.")
            launcher = state.launchers[name]
            if uses_files(launcher):
                statuses |= await asyncio.to_thread(launcher.look, own_keys)
            else:
                statuses |= await engines.look(state, launcher, own_keys)
        except Unreachable as error:
            state.log_throttled(name, "%s cannot be reached: %s", name, error)
    if any(not uses_files(launcher) for launcher in state.launchers.values()):
        by_id = {run.id: run for run in live}
        for row in await state.db.read(attempts.list_live):
            current = by_id.get(row.run_id)
            if current is not None and current.attempt == row.number:
                key = key_of(current)
                statuses[key] = _with_mailbox(state, current, statuses[key], row)
    return statuses


def _with_mailbox(
    state: SupervisorState, run: LiveRun, engine: JobStatus, row: LiveAttempt
) -> JobStatus:
    """Return what is known of an attempt: the agent's word comes before the engine's.

    An engine that says that a job has ended, or that it has none, may be wrong: that counts only
    when the agent has been silent for a while, and the latter when it says so for a while.
    """
    attempt = state.attempt(run)
    if engine.state is not JobState.ABSENT:
        attempt.missing_since = None
    elif attempt.missing_since is None:
        attempt.missing_since = state.listening_seconds
    if (record := attempts.get_exit(row)) is not None:
        if _waits_for_cause(state, run, engine, record):
            return replace(engine, state=JobState.UNKNOWN)
        if engine.cause is Cause.TIME_LIMIT and not (record.stop_sent or record.signal):
            engine = replace(engine, cause=None)  # it ended by itself, shortly before
        return replace(engine, state=JobState.ENDED, record=record)
    if row.agent is not None:
        sign = row.pulse_at or ""
        if attempt.last_pulse is None or attempt.last_pulse[0] != sign:
            attempt.last_pulse = sign, state.listening_seconds
        if engine.is_suspended:  # its agent is stopped as well, and may be for hours
            attempt.last_pulse = sign, state.listening_seconds
        if state.listening_seconds - attempt.last_pulse[1] < AGENT_SILENT_SECONDS:
            if engine.state is JobState.RUNNING and attempt.began_at is not None:
                return engine
            return replace(engine, state=JobState.RUNNING, ran_seconds=row.ran_seconds)
    if engine.state is JobState.ABSENT:
        if state.listening_seconds - (attempt.missing_since or 0.0) < MISSING_SECONDS:
            return replace(engine, state=JobState.UNKNOWN)
        if row.agent is not None:
            return replace(engine, state=JobState.ENDED)
    return engine


def _waits_for_cause(
    state: SupervisorState, run: LiveRun, engine: JobStatus, record: ExitRecord
) -> bool:
    """Return True if the engine, which has not ended the job yet, may still say why it did.

    An agent records its trainer's end before its engine does: a trainer that a preemption has
    stopped, and that saved and exited with 0, would otherwise count as one that gave up.
    """
    attempt = state.attempt(run)
    if engine.state not in (JobState.RUNNING, JobState.UNKNOWN) or record.never_ran:
        return False
    if record.engine_lost:  # who could say it is gone
        return False
    is_stopping = run.status == RunStatus.CANCELLING or run.termination_reason is not None
    if is_stopping or run.finished or not (record.stop_sent or record.signal or record.oom):
        return False
    if attempt.record_since is None:
        attempt.record_since = state.listening_seconds
    return state.listening_seconds - attempt.record_since < ENGINE_WORD_SECONDS
