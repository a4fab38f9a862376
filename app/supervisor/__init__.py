"""The background loop: launch, observe, cancel, expire."""

import asyncio
from collections.abc import Mapping

from app.domain.recipes import Recipe
from app.settings import Settings
from app.store.database import Database


class Supervisor:
    """Turns until it is stopped."""

    def __init__(
        self, db: Database, settings: Settings, recipes: Mapping[str, Recipe], secret: str
    ) -> None:
        self._stopping = asyncio.Event()
        self.healthy = True

    async def run(self) -> None:
        """Until `stop`."""
        await self._stopping.wait()

    async def stop(self) -> None:
        """Ends the loop."""
        self._stopping.set()
