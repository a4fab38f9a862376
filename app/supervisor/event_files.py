"""TensorBoard's event files of runs whose recipe names them, as reports of their trainers."""

import asyncio
import math
from datetime import datetime

from app.domain.event_files import Scalar
from app.domain.recipes import Recipe
from app.errors import Busy, Conflict, InvalidInput, Unavailable
from app.services import live_runs, tracking
from app.services.live_runs import LiveRun
from app.services.tracking import Point, Writer
from app.storage.event_files import EventFiles
from app.supervisor.state import SupervisorState

FOLLOW_SECONDS = 2.0
MAX_POINTS = 20_000
_LONGEST_KEY = 200


async def follow_event_files(state: SupervisorState) -> None:
    """Start reading what is new, every two seconds, as a job for each run."""
    if state.clock() - state.event_files_read_at < FOLLOW_SECONDS:
        return
    state.event_files_read_at = state.clock()
    if not any(recipe.tensorboard for recipe in state.recipes.values()):
        return
    for run in await state.db.read(live_runs.list_launched):
        recipe, about = state.recipe(run), f"the event files of {run.id}"
        if recipe is not None and recipe.tensorboard and about not in state.jobs:
            state.start_job(about, deliver(state, run, recipe))


async def deliver(state: SupervisorState, run: LiveRun, recipe: Recipe) -> None:
    """Report what the event files of a run hold that was not reported before."""
    attempt = state.attempt(run)
    if attempt.event_files is None:
        attempt.event_files = EventFiles(state.run_dir(run.id), recipe.tensorboard)
    # What an earlier attempt wrote is not this one's.
    since = datetime.fromisoformat(run.launched_at).timestamp() if run.launched_at else 0.0
    while scalars := await asyncio.to_thread(attempt.event_files.read, since):
        for start in range(0, len(scalars), MAX_POINTS):
            points = list(filter(None, map(_point, scalars[start : start + MAX_POINTS])))
            try:
                writer = Writer(run.id, run.attempt)
                await state.db.write(tracking.log, writer, points, {})
            except (Busy, Unavailable):
                attempt.event_files = None  # all is read again, which changes nothing
                raise
            except (Conflict, InvalidInput) as error:  # it has ended, or there are too many keys
                state.log_throttled(
                    run.id, "run %s: its event files are not all used: %s", run.id, error
                )


async def deliver_rest(state: SupervisorState, run: LiveRun, recipe: Recipe) -> None:
    """Report the rest when the trainer is gone. Unreadable files do not hold up the run's end."""
    job = state.jobs.get(f"the event files of {run.id}")
    if job is not None:
        await asyncio.wait({job[0]})
    try:
        await deliver(state, run, recipe)
    except OSError as error:
        state.log_throttled(run.id, "run %s: its event files cannot be read: %s", run.id, error)


def _point(scalar: Scalar) -> Point | None:
    key = scalar.tag[:_LONGEST_KEY]
    if not key.isprintable():
        return None
    known = math.isfinite(scalar.wall_time) and 0 <= scalar.wall_time < 253_402_300_800
    return Point(key, max(0, scalar.step), scalar.value, scalar.wall_time if known else None)
