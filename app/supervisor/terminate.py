"""Stopping a trainer: record the reason, ask the agent, and at last the launcher."""

import asyncio

from app.domain.lifecycle import Reason
from app.domain.recipes import Recipe
from app.errors import Busy, Unavailable
from app.launchers.base import EndsLeftovers
from app.services import attempts, endings
from app.services.live_runs import LiveRun
from app.supervisor import engines
from app.supervisor.state import SupervisorState, key_of, uses_files

# The agent kills at the grace's end and a second later at most; one on another machine may
# have been told of the stop two seconds late.
OVERDUE_SECONDS = 4.0
ENGINE_STOP_SECONDS = 5.0
"""After so long a stop that an agent has not carried out goes through its engine as well."""


async def request_termination(
    state: SupervisorState, run: LiveRun, reason: Reason, detail: str
) -> bool:
    """Record why the service is about to end a trainer; return True if it may.

    A time limit also holds while the database can record nothing: then the reason is kept for
    the end of the attempt.
    """
    if run.termination_reason == reason:
        return True
    try:
        return await state.db.write(endings.request_termination, run, reason, detail)
    except (Busy, Unavailable):
        if reason is not Reason.TIME_LIMIT:  # its reports may have been rejected
            raise
        state.attempt(run).unrecorded = (reason, detail)
        return True


async def stop(state: SupervisorState, run: LiveRun) -> None:
    """Ask the trainer to stop, once. Its agent kills it after the grace; if it cannot, we do."""
    attempt = state.attempt(run)
    if attempt.stop_sent_at is None:
        await _request_end(state, run, forced=False)
        attempt.stop_sent_at = state.listening_seconds
    recipe = state.recipe(run)
    grace = recipe.grace_seconds if recipe else Recipe("", ()).grace_seconds
    launcher, waited = state.launcher(run), state.listening_seconds - attempt.stop_sent_at
    if waited > ENGINE_STOP_SECONDS and not uses_files(launcher):
        engines.request_end(state, launcher, key_of(run), forced=False)
    if waited > grace + OVERDUE_SECONDS:
        await kill(state, run)


async def kill(state: SupervisorState, run: LiveRun) -> None:
    """Have the trainer killed, by its agent and through its engine."""
    await _request_end(state, run, forced=True)


async def _request_end(state: SupervisorState, run: LiveRun, *, forced: bool) -> None:
    launcher, key = state.launcher(run), key_of(run)
    if uses_files(launcher):
        await asyncio.to_thread(launcher.kill if forced else launcher.stop, [key])
        return
    await state.db.write(attempts.request_stop, run.id, run.attempt, kill=forced)
    if forced:
        engines.request_end(state, launcher, key, forced=True)


async def end_leftovers(state: SupervisorState, run: LiveRun) -> None:
    """End what may be left of an attempt, and make sure that it never begins."""
    launcher, key = state.launcher(run), key_of(run)
    if isinstance(launcher, EndsLeftovers) and run.nonce is not None:
        await asyncio.to_thread(launcher.end_leftovers, key, run.nonce)
    else:
        await kill(state, run)
