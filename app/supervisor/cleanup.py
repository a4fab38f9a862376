"""Housekeeping: expired idempotency keys now and then, prunable checkpoints as they come."""

import asyncio
import logging
import time

from app.db import repacking, tally
from app.domain import paths
from app.errors import CheckpointUnreadable
from app.services import audit, deliveries, idempotency, retention
from app.supervisor.state import SupervisorState

EVERY_SECONDS = 600.0
_TALLY_SECONDS = 5.0
_ABOUT = "retention"
_STORAGE = "the storage's housekeeping"
_POINTS = "points of earlier versions"
_TALLY = "the tally"
_CHUNKS = 100
_PAUSE_SECONDS = 0.5
"""Between two writes of repacked points: trainers come first."""

log = logging.getLogger(__name__)


async def clean_up(state: SupervisorState) -> None:
    """Delete keys, messages and audit entries past their time, and what recipes do not keep."""
    limits = retention.get_limits(state.recipes)
    if time.monotonic() - state.cleaned_up_at >= EVERY_SECONDS:
        await state.db.write(idempotency.expire)
        await state.db.write(deliveries.expire)
        await state.db.write(audit.expire, state.settings.audit_days)
        state.over_limit |= await state.db.scan(retention.list_over_limit, limits)
        state.pending_deletion = True
        state.cleaned_up_at = time.monotonic()
        if _STORAGE not in state.jobs:
            state.start_job(_STORAGE, state.run_reader(state.storage.clean_up))
    if time.monotonic() - state.tallied_at >= _TALLY_SECONDS and _TALLY not in state.jobs:
        state.tallied_at = time.monotonic()
        state.start_job(_TALLY, _compact_tally(state))
    if state.plain_points is not None and _POINTS not in state.jobs:
        state.start_job(_POINTS, _pack_points(state))
    for run_id, limit in list(state.over_limit.items()):
        # Before the write: a checkpoint that is verified during it asks for the next one.
        del state.over_limit[run_id]
        try:
            state.pending_deletion |= bool(await state.db.write(retention.delete, run_id, limit))
        except BaseException:  # rejected (Busy, a full disk): it is tried again next time
            state.over_limit.setdefault(run_id, limit)
            raise
    if state.pending_deletion and _ABOUT not in state.jobs:
        state.pending_deletion = False
        state.start_job(_ABOUT, _remove_files(state))


async def _remove_files(state: SupervisorState) -> None:
    for checkpoint in await state.db.read(retention.list_pending_deletion):
        if not await state.has_data_dir():
            return  # a data directory that is away has not lost its files
        try:
            await state.run_reader(
                state.storage.delete, paths.parse(checkpoint.ckpt_path), checkpoint.sha256
            )
        except (
            CheckpointUnreadable
        ) as error:  # one that cannot be removed must not keep all others on the disk
            log.error("%s It is tried again.", error.detail)
            continue
        await state.db.write(retention.record_files_removed, [checkpoint])


async def _pack_points(state: SupervisorState) -> None:
    """Pack the points that earlier versions stored plainly, a few at a time."""
    while state.plain_points is not None:
        plain = await state.db.scan(repacking.list_plain, state.plain_points, _CHUNKS)
        if plain:
            await state.db.write(repacking.pack_again, plain)
        last = plain[-1] if len(plain) == _CHUNKS else None
        state.plain_points = (last.series_id, last.first_step) if last else None
        await asyncio.sleep(_PAUSE_SECONDS if last else 0)


async def _compact_tally(state: SupervisorState) -> None:
    """Add up what was counted since the last time, a few rows at a time."""
    while (done := await state.db.write(tally.compact, state.tallied)) != state.tallied:
        state.tallied = done
        await asyncio.sleep(_PAUSE_SECONDS)
