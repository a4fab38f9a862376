"""An app within the service that is loaded by the first request for it.

Nothing of it is imported before: most services never serve some of their APIs, and what they load
is paid for by every start and kept in memory for good.
"""

import asyncio
import gc
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send


class WhenAsked:
    """Stands for an app until the first request makes it, in a thread."""

    def __init__(self, make: Callable[[], ASGIApp]) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None:
            async with self._lock:
                if self._app is None:
                    self._app = await asyncio.to_thread(self._load)
        await self._app(scope, receive, send)

    def _load(self) -> ASGIApp:
        app = self._make()
        gc.freeze()  # it stays for good
        return app
