"""Engines: what is asked of launchers whose agents are elsewhere, so that none holds up a tick.

    look, offer → the last answer, and a job that asks anew when that is old
    request_end → end_jobs, once a tick: one call for all jobs to end

A controller that hangs costs one thread; what it does not answer is no news.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from app.domain.ids import timestamp, timestamp_after
from app.launchers.base import AvoidsNodes, JobStatus, Key, Launcher, Unreachable
from app.services import attempts, live_runs
from app.services.live_runs import AnyRun
from app.supervisor.memory import EngineState
from app.supervisor.state import SupervisorState, key_of, uses_files

ANSWER_SECONDS = 0.2
"""The longest time that a tick waits for an engine, which mostly answers at once."""
OFFER_SECONDS, RETRY_SECONDS = 15.0, 2.0
STRAYS_SECONDS = 60.0
SUSPECTS_SECONDS, SUSPECT_SECONDS = 15.0, 86_400.0
"""The interval at which nodes with failures are read, and the time for which a failure counts."""
REPEAT_SECONDS = 5.0
"""The interval at which an engine is asked again to end what it still runs."""


async def look(
    state: SupervisorState, launcher: Launcher, keys: Sequence[Key]
) -> Mapping[Key, JobStatus]:
    """Return what the engine last said of these attempts; one that is missing is no news."""
    engine = state.engine(launcher.name)
    is_old = state.clock() - engine.looked_at >= launcher.look_seconds
    if is_old or not engine.looked_for.issuperset(keys):
        await _ask(state, f"look at {launcher.name}", lambda: _look(state, launcher, keys))
    return {key: engine.statuses[key] for key in keys if key in engine.statuses}


async def _look(state: SupervisorState, launcher: Launcher, keys: Sequence[Key]) -> None:
    engine = state.engine(launcher.name)
    engine.looked_for, engine.looked_at = frozenset(keys), state.clock()
    try:
        engine.statuses = await engine.thread.run(launcher.look, keys)
    except Unreachable as error:
        engine.statuses = {}
        _log(state, launcher, error)


async def offer(state: SupervisorState, launcher: Launcher) -> EngineState:
    """Return what the engine last offered, or why nothing can be submitted to it now."""
    engine = state.engine(launcher.name)
    seconds = OFFER_SECONDS if engine.trouble is None else RETRY_SECONDS
    if state.clock() - engine.offered_at >= seconds:
        await _ask(state, f"offer of {launcher.name}", lambda: _offer(state, launcher))
    return engine


async def _offer(state: SupervisorState, launcher: Launcher) -> None:
    engine = state.engine(launcher.name)
    engine.offered_at = state.clock()
    try:
        engine.capacity = await engine.thread.run(launcher.offer)
        engine.trouble = None
    except Unreachable as error:
        engine.trouble = str(error) or "The cluster cannot be reached."
    engine.has_answered = True


async def _ask(
    state: SupervisorState, about: str, work: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Begin to ask, unless that is under way, and wait a moment for the answer."""
    if about not in state.jobs:
        state.start_job(about, work())
    await asyncio.wait({state.jobs[about][0]}, timeout=ANSWER_SECONDS)


async def choose_avoided(state: SupervisorState, run: AnyRun) -> tuple[str, ...]:
    """Return the nodes that a run's next attempt must avoid, as its launcher can do."""
    launcher = state.launcher(run)
    if not isinstance(launcher, AvoidsNodes):
        return ()
    engine = state.engine(launcher.name)
    if state.clock() - engine.suspects_at >= SUSPECTS_SECONDS:
        since = timestamp_after(timestamp(), -SUSPECT_SECONDS)
        engine.suspects_at = state.clock()
        suspects = await state.db.read(attempts.list_suspect_nodes, launcher.name, since)
        engine.suspects = tuple(suspects)
    return tuple(launcher.choose_avoided(engine.suspects, state.resources(run)))


def request_end(state: SupervisorState, launcher: Launcher, key: Key, *, forced: bool) -> None:
    """Have the engine stop or kill an attempt at the end of this tick; now and then, again."""
    engine = state.engine(launcher.name)
    now, asked_at = state.clock(), engine.ends_asked.get((key, forced), float("-inf"))
    if now - asked_at >= REPEAT_SECONDS:
        engine.ends_asked[key, forced] = now
        (engine.to_kill if forced else engine.to_stop).add(key)


async def end_jobs(state: SupervisorState) -> None:
    """Tell each engine what to end, and end the jobs that no run wants any more."""
    submitted = await state.db.read(live_runs.list_submitted)
    for name, launcher in state.launchers.items():
        if uses_files(launcher):
            continue
        engine, about = state.engine(name), f"ends of {name}"
        waits = frozenset(key_of(run) for run in submitted if run.launcher == name)
        if not waits >= engine.submitted:  # claimed; or cancelled, and its job still waits
            engine.strays_at = float("-inf")
        engine.submitted = waits
        is_due = state.clock() - engine.strays_at >= STRAYS_SECONDS
        if (is_due or engine.to_stop or engine.to_kill) and about not in state.jobs:
            state.start_job(about, _end_jobs(state, launcher, is_due))


async def _end_jobs(state: SupervisorState, launcher: Launcher, strays: bool) -> None:
    engine = state.engine(launcher.name)
    to_stop, to_kill = engine.to_stop, engine.to_kill
    engine.to_stop, engine.to_kill = set(), set()
    now = state.clock()
    engine.ends_asked = {
        key: at for key, at in engine.ends_asked.items() if now - at < REPEAT_SECONDS
    }
    try:
        if to_stop:
            await engine.thread.run(launcher.stop, sorted(to_stop))
        if to_kill:
            await engine.thread.run(launcher.kill, sorted(to_kill))
        if strays:
            engine.strays_at = now
            known = await engine.thread.run(launcher.strays)
            unwanted = await state.db.read(live_runs.list_unwanted, known) if known else []
            if unwanted:
                await engine.thread.run(launcher.kill, unwanted)
    except Unreachable as error:
        if strays:
            engine.strays_at = now - STRAYS_SECONDS + REPEAT_SECONDS
        _log(state, launcher, error)


def _log(state: SupervisorState, launcher: Launcher, error: Unreachable) -> None:
    state.log_throttled(launcher.name, "%s cannot be reached: %s", launcher.name, error)
