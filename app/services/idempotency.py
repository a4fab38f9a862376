"""Idempotency-Key: the first response is stored in the transaction that does the work.

The same key with the same request replays that response byte for byte, across restarts;
with another request it is KeyReused. A key belongs to one caller, method and route. An
error changes nothing and so is not stored: the retry is decided afresh. Two requests with
one key at the same time: the second is KeyInFlight, whichever server it came to.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Executable, delete, insert, select

from app.db.sql import Statement, Tx, columns, query, statement
from app.db.tables import IdempotencyKey
from app.domain.ids import timestamp
from app.errors import InvalidInput, KeyInFlight, KeyReused

KEPT = timedelta(hours=48)
MAX_LENGTH = 255

_key = columns(IdempotencyKey)
_INSERT = Statement[Any](insert(IdempotencyKey))


@query(tuple[str, int, str])
def _find(*, scope: str, key: str) -> Executable:
    return select(_key.request_sha256, _key.status, _key.body).where(
        _key.scope == scope, _key.key == key
    )


@statement
def _expire(*, before: str) -> Executable:
    return delete(IdempotencyKey).where(_key.created_at < before)


class StoredResponse(NamedTuple):
    """A response: its status, its JSON text, and True in `replayed` if it was stored before."""

    status: int
    body: str
    replayed: bool = False


class KeyedRequest(NamedTuple):
    """A request with its idempotency key. `scope` is the caller, the method and the route."""

    scope: str
    key: str
    request_sha256: str


def parse_key(caller: str, method: str, route: str, key: str, body: bytes) -> KeyedRequest:
    """Return a request with its key, which may be quoted. Raises InvalidInput."""
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not 1 <= len(key) <= MAX_LENGTH or not key.isascii() or not key.isprintable():
        raise InvalidInput(
            f"An Idempotency-Key has 1 to {MAX_LENGTH} printable ASCII characters.",
            errors=[{"pointer": "", "header": "Idempotency-Key", "detail": "bad length or bytes"}],
        )
    return KeyedRequest(f"{caller} {method} {route}", key, hashlib.sha256(body).hexdigest())


def run_once(tx: Tx, request: KeyedRequest, work: Callable[[Tx], StoredResponse]) -> StoredResponse:
    """Do the work and store its response, or return the first one.

    Raises KeyReused, KeyInFlight.
    """
    if not tx.claim(f"{request.scope} {request.key}"):
        raise _in_flight()
    first = find_stored(tx, request)
    if first is not None:
        return first
    answer = work(tx)
    tx.send(_INSERT, **request._asdict(), status=answer.status, body=answer.body, created_at=tx.now)
    return answer


def use_once(tx: Tx, scope: str, key: str) -> bool:
    """Record that a one-time code is used; return False if it was before.

    Every server of the database agrees, and the record goes when it is older than `KEPT`.
    """
    if not tx.claim(f"{scope} {key}") or tx.first(_find, scope=scope, key=key) is not None:
        return False
    tx.send(_INSERT, scope=scope, key=key, request_sha256="", status=0, body="", created_at=tx.now)
    return True


def find_stored(tx: Tx, request: KeyedRequest) -> StoredResponse | None:
    """Return the first response to this request, None if there was none. Raises KeyReused."""
    row = tx.first(_find, scope=request.scope, key=request.key)
    if row is None:
        return None
    sha256, status, body = row
    if sha256 != request.request_sha256:
        raise KeyReused("This Idempotency-Key was used with another request; choose a new key.")
    return StoredResponse(status, body, replayed=True)


class InFlight:
    """The keys of the requests that this process is working on."""

    def __init__(self) -> None:
        self._keys: set[tuple[str, str]] = set()

    @contextmanager
    def claim(self, request: KeyedRequest) -> Iterator[None]:
        """Hold a key while its request is worked on. Raises KeyInFlight."""
        name = (request.scope, request.key)
        if name in self._keys:
            raise _in_flight()
        self._keys.add(name)
        try:
            yield
        finally:
            self._keys.discard(name)


def _in_flight() -> KeyInFlight:
    return KeyInFlight(
        "A request with this Idempotency-Key is being worked on; try again shortly.",
        retry_after=1,
    )


def expire(tx: Tx) -> int:
    """Delete keys older than `KEPT`; return their number."""
    return tx.run(_expire, before=timestamp(datetime.now(UTC) - KEPT))
