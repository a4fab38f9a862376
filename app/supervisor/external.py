"""External runs, whose trainer somebody else started: they end by its reports, or its silence."""

import asyncio
import math

from app.domain.evidence import Evidence
from app.domain.lifecycle import CheckpointState as State
from app.domain.lifecycle import Reason, RunStatus
from app.services import checkpoints, endings, live_runs
from app.services.live_runs import LiveRun
from app.supervisor import verifying
from app.supervisor.state import SupervisorState
from app.supervisor.terminate import request_termination

EXTERNAL_SECONDS = 5.0


async def list_due(state: SupervisorState) -> list[LiveRun]:
    """Return the external runs that are due for a check.

    Those that train are read off the event loop, and as often as a lost heartbeat has to be
    noticed; those that are about to end, in every tick.
    """
    seconds = min(EXTERNAL_SECONDS, state.settings.external_heartbeat_seconds / 4)
    if state.clock() - state.externals_seen_at < seconds:
        return await state.db.read(live_runs.list_ending_external)
    state.externals_seen_at = state.clock()
    return await state.db.scan(live_runs.list_external)


async def check_external(state: SupervisorState, run: LiveRun) -> None:
    """Record the end of an external run, once its checkpoints are read."""
    if not await _has_ended(state, run):
        return
    known = await state.db.read(checkpoints.list_of_run, run.id)
    if await asyncio.to_thread(verifying.has_unread, state, known):
        return
    absent = frozenset(checkpoint.id for checkpoint in known)
    evidence = Evidence(cancel_asked=False)
    if await state.db.write(endings.finish_attempt, run.id, run.attempt, evidence, None, absent):
        state.forget(run)


async def _has_ended(state: SupervisorState, run: LiveRun) -> bool:
    settings = state.settings
    if run.finished or run.termination_reason == Reason.REPORTED_FAILURE:
        return True  # by its own word; one that was cancelled saves nothing more
    if run.status == RunStatus.CANCELLING:
        attempt = state.attempt(run)
        if attempt.stop_sent_at is None:  # it is told with the answer to its next report
            attempt.stop_sent_at = state.listening_seconds
        if state.listening_seconds - attempt.stop_sent_at > settings.external_grace_seconds:
            return True
        if run.promised_checkpoint_id is not None:
            promised = await state.db.read(checkpoints.get, run.promised_checkpoint_id)
            return promised.state != State.PENDING
        return False
    allowed = settings.external_heartbeat_seconds
    if run.heartbeat_seconds is not None:
        allowed = run.heartbeat_seconds or math.inf
    if state.heartbeat_age(run) <= allowed:
        return False
    detail = f"No report for {allowed:g} seconds."
    return await request_termination(state, run, Reason.HEARTBEAT_LOST, detail)
