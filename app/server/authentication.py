"""Tokens of users to principals: found once, remembered until one is revoked.

What is remembered is only whose a token is. Whether it is still good is asked by each of its
transactions (`app.db.restricted`), so this may be wrong for a moment and lets nobody in.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from app.db.current_principal import acting_as
from app.db.database import Database
from app.db.sql import Tx
from app.domain.principals import SUPERVISOR, Principal
from app.errors import ServiceError, TooManyWrongTokens, Unauthorized
from app.server.failed_sign_ins import FailedSignIns
from app.services import api_tokens, audit
from app.services.api_tokens import Known

REMEMBERED = 10_000
WATCHED_SECONDS = 30.0
"""The interval at which an idle websocket's token is checked: a notification may be lost."""
NOTED_SECONDS = 300.0
"""The use of a token is written at most so often."""


class Authenticator:
    """The tokens that this server has seen. Used on the event loop only."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._known: dict[str, Known] = {}
        self._noted: dict[str | None, float] = {}
        self._writes: set[asyncio.Task[Any]] = set()
        self._changes = db.changes.collect("tok_")
        self._revoked = self._changes.__enter__()
        self._ended: dict[str, None] = {}
        self._failed = FailedSignIns()

    def recall(self, token: str) -> Principal | None:
        """Return the user of a token that is remembered; None: ask `find`."""
        if self._revoked.event.is_set():
            self._take_revoked()
        known = self._known.get(token)
        if known is None or (known.expires_at is not None and known.has_expired()):
            return None
        principal = known.principal
        if time.monotonic() - self._noted.get(principal.token_id, -NOTED_SECONDS) >= NOTED_SECONDS:
            self._note_use(str(principal.token_id))
        return principal

    async def find(self, token: str) -> Principal | None:
        """Return the user of a token; None for one that is not good."""
        return await self._find(token, api_tokens.find)

    async def find_by_id(self, token_id: str) -> Principal | None:
        """Return the user of a token by its id, which a session holds."""
        return await self._find(token_id, api_tokens.find_by_id)

    def refuse(self, address: str, why: str) -> ServiceError:
        """Return the error for a token that is not right, which is counted and recorded."""
        if self._failed.count(address):
            return TooManyWrongTokens(
                "Too many wrong tokens; try again in a minute.", retry_after=60
            )
        if self._failed.may_record():
            self._write(audit.record_failed_sign_in, address)
        return Unauthorized(why)

    def forget(self) -> None:
        """Ask again whose each token is: one was revoked here, of which this server hears late."""
        self._known.clear()

    def has_ended(self, token_id: str) -> bool:
        """Return True if this server was told that a token was revoked."""
        self._take_revoked()
        return token_id in self._ended

    async def wait_ended(self, token_id: str) -> None:
        """Return once a token is not good any more: revoked, expired, or its user disabled."""
        with self._db.changes.subscribe(token_id) as changed:
            while True:
                changed.clear()
                with suppress(ServiceError):  # a busy database: it is asked again
                    if await self._look_up(token_id, api_tokens.find_by_id) is None:
                        return
                with suppress(TimeoutError):
                    async with asyncio.timeout(WATCHED_SECONDS):
                        await changed.wait()

    async def stop(self) -> None:
        """Finish what is being written."""
        self._changes.__exit__(None, None, None)
        await asyncio.gather(*self._writes, return_exceptions=True)

    async def _find(self, name: str, find: Callable[..., Known | None]) -> Principal | None:
        known = await self._look_up(name, find)
        if known is None:
            return None
        self._note_use(str(known.principal.token_id))
        return known.principal

    async def _look_up(self, name: str, find: Callable[..., Known | None]) -> Known | None:
        self._take_revoked()
        known = self._known.get(name)
        if known is None:
            with acting_as(SUPERVISOR):
                known = await self._db.read(find, name)
            if known is None:
                return None
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[name] = known
        return None if known.has_expired() else known

    def _take_revoked(self) -> None:
        """Forget what was remembered if a token was revoked, or none can be known to be."""
        if not self._revoked.event.is_set():
            return
        self._known.clear()
        self._revoked.take_lost()
        if len(self._ended) >= REMEMBERED:
            self._ended.clear()
        self._ended.update(dict.fromkeys(self._revoked.take(REMEMBERED)))

    def _note_use(self, token_id: str) -> None:
        now = time.monotonic()
        if now - self._noted.get(token_id, -NOTED_SECONDS) < NOTED_SECONDS:
            return
        if len(self._noted) >= REMEMBERED:
            self._noted.clear()
        self._noted[token_id] = now
        self._write(api_tokens.note_use, token_id)

    def _write(self, use_case: Callable[[Tx, str], None], about: str) -> None:
        """Write something that no request waits for."""
        with acting_as(SUPERVISOR):
            task = asyncio.create_task(self._db.write(use_case, about))
        self._writes.add(task)
        task.add_done_callback(self._finish_write)

    def _finish_write(self, task: asyncio.Task[Any]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # a busy database: the next one is written
