"""The background loop: launch, observe, expire, verify; one short duty each.

Every turn runs each duty once; a duty that fails is logged and tried again next turn. The
loop turns when something changes (a commit that touches `SUPERVISOR`, the end of a trainer)
and at least twice a second. Of several servers on one database, one leads.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from app.domain.recipes import Recipe
from app.launchers import get_launcher
from app.settings import Settings
from app.store.changes import SUPERVISOR
from app.store.database import Database
from app.supervisor.desk import Desk
from app.supervisor.launching import launch
from app.supervisor.observing import observe
from app.supervisor.tidying import tidy
from app.supervisor.verifying import verify

TURN_SECONDS = 0.5

log = logging.getLogger(__name__)

DUTIES: tuple[Callable[[Desk], Awaitable[None]], ...] = (
    observe,
    verify,
    launch,
    tidy,
)


class Supervisor:
    """Turns until it is stopped."""

    def __init__(
        self,
        db: Database,
        settings: Settings,
        recipes: Mapping[str, Recipe],
        secret: str,
        api_url: str,
    ) -> None:
        visible = settings.environment.get("CUDA_VISIBLE_DEVICES")
        launcher = get_launcher("local", gpus=settings.gpus, visible=visible)
        self.desk = Desk(db, settings, recipes, secret, launcher, api_url)
        self._stopping = False
        self._turning = False

    @property
    def healthy(self) -> bool:
        """Whether the loop turns."""
        return self._turning

    async def run(self) -> None:
        """Turns until `stop`. A dead server stops no training: nothing is ended on the way out."""
        self._turning = True
        try:
            with self.desk.db.changes.subscribe(SUPERVISOR) as woken:
                self.desk.woken = woken
                while not self._stopping:
                    woken.clear()
                    await self._turn()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(woken.wait(), TURN_SECONDS)
        finally:
            self._turning = False
            self.desk.close()

    async def _turn(self) -> None:
        try:
            leads = await self.desk.db.lead()
        except Exception:
            log.exception("cannot tell who leads")
            return
        self.desk.turn(leads)
        if not leads:
            return
        for duty in DUTIES:
            try:
                await duty(self.desk)
            except Exception:
                log.exception("duty %s failed; it is tried again", duty.__name__)

    async def stop(self) -> None:
        """Ends the loop after the present turn."""
        self._stopping = True
        self.desk.woken.set()
