"""A trainer that runs: is it to stop, over its time limit, without heartbeat, or stalled?"""

from app.domain.lifecycle import Reason, RunStatus
from app.domain.recipes import Recipe, StallAction
from app.services import launches
from app.services.live_runs import LiveRun
from app.supervisor import notices
from app.supervisor.health import check_health
from app.supervisor.state import SupervisorState
from app.supervisor.terminate import kill, request_termination, stop


async def check_running(state: SupervisorState, run: LiveRun) -> None:
    """Stop a trainer that is to stop, or has gone past a limit of its recipe or its run."""
    if run.status == RunStatus.CANCELLING:
        await stop(state, run)
        return
    if run.termination_reason == Reason.PREEMPTED:
        await stop(state, run)
        return
    recipe = state.recipe(run)
    if recipe is None:
        return
    await _check_time_limit(state, run)
    await _check_heartbeat(state, run, recipe)
    await _check_progress(state, run, recipe)
    await check_health(state, run, recipe)
    if run.status == RunStatus.STARTING and not recipe.heartbeat_seconds:
        await state.db.write(launches.mark_running, run.id, run.attempt)


async def _check_time_limit(state: SupervisorState, run: LiveRun) -> None:
    limit = state.resources(run).time_limit_minutes
    if limit is None:
        return
    attempt = state.attempt(run)
    if attempt.began_at is None:
        attempt.began_at = state.clock()
    detail = f"The time limit of {limit:g} minutes is over."
    is_over = state.clock() - attempt.began_at > limit * 60
    if is_over and await request_termination(state, run, Reason.TIME_LIMIT, detail):
        await stop(state, run)


async def _check_heartbeat(state: SupervisorState, run: LiveRun, recipe: Recipe) -> None:
    allowed = recipe.heartbeat_seconds if run.status == RunStatus.RUNNING else recipe.start_seconds
    expected = recipe.heartbeat_seconds and run.heartbeat_seconds != 0
    is_lost = state.heartbeat_age(run) > allowed and bool(expected)
    detail = f"No report for {allowed:g} seconds."
    if is_lost and await request_termination(state, run, Reason.HEARTBEAT_LOST, detail):
        await kill(state, run)


async def _check_progress(state: SupervisorState, run: LiveRun, recipe: Recipe) -> None:
    """Act on a trainer that lives and takes no further step, as its recipe says."""
    if run.termination_reason == Reason.STALLED:
        await stop(state, run)
        return
    never_reports = not recipe.heartbeat_seconds and run.last_progress_at is None
    if run.status != RunStatus.RUNNING or run.finished or never_reports:
        return
    if not recipe.stall_seconds or state.progress_age(run) <= recipe.stall_seconds:
        if notices.get(state, run) is Reason.STALLED:
            await notices.record(state, run, None)
        return
    detail = f"No further step than {run.step} for {recipe.stall_seconds:g} seconds."
    await notices.record(state, run, Reason.STALLED, detail)
    stops = recipe.on_stall is not StallAction.TELL
    if stops and await request_termination(state, run, Reason.STALLED, detail):
        await stop(state, run)
