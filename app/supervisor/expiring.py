"""Expiring: removes logs and points past their retention, in the background, bit by bit.

Decided (`services.expiry`) → done here → recorded. After a crash in between, the next leader begins
with the remaining work.
"""

import asyncio
import time
from contextlib import suppress

from app.db import thinning
from app.db.tables import Expiration
from app.domain.failpoints import failpoint
from app.errors import NotFound
from app.services import expiry, removals
from app.services.expiry import Part, Position, Rule
from app.supervisor.logs import remove_logs
from app.supervisor.state import SupervisorState

EVERY_SECONDS = 600.0
AT_ONCE = 100
"""Runs, or chunks of points, that are read at a time."""
PAUSE_SECONDS = 0.05
"""Between two writes: trainers come first."""
_ABOUT = "what retention no longer keeps"


async def expire_runs(state: SupervisorState) -> None:
    """Begin to remove what is past its time, unless that is under way."""
    if _ABOUT in state.jobs or time.monotonic() - state.expired_at < EVERY_SECONDS:
        return
    state.expired_at = time.monotonic()
    state.start_job(_ABOUT, _expire(state))


async def _expire(state: SupervisorState) -> None:
    await _finish_pending(state)
    rules = await state.db.read(expiry.find_rules, Rule(*state.settings.kept_days))
    position = Position()
    while due := await state.db.scan(expiry.list_due, rules, position, AT_ONCE):
        for run in due:
            with suppress(NotFound):  # deleted since
                await state.db.write(expiry.expire, run.id, rules)
        await _finish_pending(state)
        position = Position(due[-1].finished_at, due[-1].id)


async def _finish_pending(state: SupervisorState) -> None:
    """Do what was decided. What cannot be done now is left for the next time."""
    last: Expiration | None = None
    while pending := await state.db.read(expiry.list_pending, last, AT_ONCE):
        for expiration in pending:
            last = expiration
            if expiration.part == Part.POINTS:
                await _thin_points(state, expiration)
            elif expiration.part == Part.CURVES:
                await _remove_points(state, expiration)
            elif not await _remove_log(state, expiration.run_id):
                continue
            await state.db.write(expiry.finish, expiration)
            failpoint("expire.finished")
            await asyncio.sleep(PAUSE_SECONDS)


async def _remove_log(state: SupervisorState, run_id: str) -> bool:
    """Remove the log of a run; return False if that is not possible now."""
    if not await state.has_data_dir():
        return False  # a data directory that is away still has its files
    try:
        await state.run_reader(remove_logs, state.run_dir(run_id))
    except OSError as error:  # one that cannot be removed must not keep all others on the disk
        words = "the log of %s cannot be removed (%s); it is tried again"
        state.log_throttled((_ABOUT, run_id), words, run_id, error)
        return False
    failpoint("expire.log")
    return True


async def _remove_points(state: SupervisorState, expiration: Expiration) -> None:
    while await state.db.write(removals.remove_points, expiration.run_id):
        failpoint("expire.curves")
        await asyncio.sleep(PAUSE_SECONDS)


async def _thin_points(state: SupervisorState, expiration: Expiration) -> None:
    after = (-1, -1)
    while chunks := await state.db.scan(thinning.list_whole, expiration.run_id, after, AT_ONCE):
        await state.db.write(thinning.thin, chunks)
        failpoint("expire.points")
        after = (chunks[-1].series_id, chunks[-1].first_step)
        await asyncio.sleep(PAUSE_SECONDS)
