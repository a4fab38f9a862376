"""Tidying: what may be forgotten is, now and then; surplus checkpoints as they come."""

import logging
import time

from app.services import idempotency, retention
from app.supervisor.desk import Desk

EVERY_SECONDS = 600.0
_ABOUT = "retention"

log = logging.getLogger(__name__)


async def tidy(desk: Desk) -> None:
    """Forgets idempotency keys past their time, and checkpoints that recipes do not keep."""
    keep = retention.kept(desk.recipes)
    if time.monotonic() - desk.tidied_at >= EVERY_SECONDS:
        desk.tidied_at = time.monotonic()
        await desk.db.write(idempotency.expire)
        desk.crowded |= await desk.db.scan(retention.crowded, keep)
        desk.doomed = True
    while desk.crowded:
        run_id, number = desk.crowded.popitem()
        desk.doomed |= bool(await desk.db.write(retention.delete, run_id, number))
    if desk.doomed and _ABOUT not in desk.jobs:
        desk.doomed = False
        desk.begin(_ABOUT, _remove(desk))


async def _remove(desk: Desk) -> None:
    for each in await desk.db.read(retention.doomed):
        if not await desk.in_place():
            return  # what is elsewhere is not gone
        try:
            await desk.reading(retention.remove, desk.settings.data_dir, each)
        except OSError as error:  # one that cannot go must not keep all others on the disk
            log.error("%s could not be deleted: %s; it is tried again", each.ckpt_path, error)
            continue
        await desk.db.write(retention.gone, [each])
