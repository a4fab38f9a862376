"""Housekeeping: expired idempotency keys now and then, prunable checkpoints as they come."""

import logging
import time

from app.domain import paths
from app.errors import CheckpointUnreadable
from app.services import idempotency, retention
from app.supervisor.state import Desk

EVERY_SECONDS = 600.0
_ABOUT = "retention"

log = logging.getLogger(__name__)


async def tidy(desk: Desk) -> None:
    """Delete idempotency keys past their time, and checkpoints that recipes do not keep."""
    limits = retention.configured_limits(desk.recipes)
    if time.monotonic() - desk.tidied_at >= EVERY_SECONDS:
        await desk.db.write(idempotency.expire)
        desk.over_limit |= await desk.db.scan(retention.over_limit, limits)
        desk.pending_deletion = True
        desk.tidied_at = time.monotonic()
    for run_id, number in list(desk.over_limit.items()):
        desk.pending_deletion |= bool(await desk.db.write(retention.delete, run_id, number))
        # Only now: a write that was rejected (Busy, a full disk) is tried again next time.
        if desk.over_limit.get(run_id) == number:
            del desk.over_limit[run_id]
    if desk.pending_deletion and _ABOUT not in desk.jobs:
        desk.pending_deletion = False
        desk.begin(_ABOUT, _remove_files(desk))


async def _remove_files(desk: Desk) -> None:
    for checkpoint in await desk.db.read(retention.list_pending_deletion):
        if not await desk.in_place():
            return  # a data directory that is away has not lost its files
        try:
            await desk.reading(
                desk.storage.delete, paths.parse(checkpoint.ckpt_path), checkpoint.sha256
            )
        except (
            CheckpointUnreadable
        ) as error:  # one that cannot be removed must not keep all others on the disk
            log.error("%s It is tried again.", error.detail)
            continue
        await desk.db.write(retention.record_files_removed, [checkpoint])
