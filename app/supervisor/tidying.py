"""Tidying: what may be forgotten is, now and then."""

import time

from app.services import idempotency
from app.supervisor.desk import Desk

EVERY_SECONDS = 600.0


async def tidy(desk: Desk) -> None:
    """Forgets idempotency keys past their time."""
    if time.monotonic() - desk.tidied_at >= EVERY_SECONDS:
        desk.tidied_at = time.monotonic()
        await desk.db.write(idempotency.expire)
