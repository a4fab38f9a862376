"""One request and its response, as the guard sees them: bodies bounded, headers complete, errors.

Exchange     counts the body that comes, and completes the headers of what goes
refuse       an error in place of the app: problem+json, or GraphQL's form
answer       any other response in place of the app
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import orjson
from starlette.types import Message, Receive, Scope, Send

from app.errors import BodyTooLarge, ServiceError, UnsupportedMediaType

Headers = list[tuple[bytes, bytes]]

_STARTS = {"http.response.start", "websocket.http.response.start"}


REVOKED = 4401
"""The code with which a websocket ends whose token was revoked."""
_CLOSE = {"type": "websocket.close", "code": REVOKED, "reason": "Token revoked"}
DRAIN_BYTES = 64 * 1024 * 1024
DRAIN_SECONDS = 10.0

SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_FRESH = (b"cache-control", b"no-store")
# A token is taken as the password of Basic as well, but not asked for in this way: for a challenge
# of Basic a browser opens a dialog of its own, also over a page that would ask by itself.
CHALLENGE = "Bearer"


def problem(error: ServiceError) -> bytes:
    """Return an error as RFC 9457 `application/problem+json`."""
    body = {
        "type": f"urn:llm-train-api:{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        **error.extra,
    }
    if error.errors:
        body["errors"] = error.errors
    return orjson.dumps(body)


class Exchange:
    """One request and its answer: bounds the body, and completes the headers of the answer."""

    def __init__(
        self, receive: Receive, send: Send, headers: dict[bytes, str], max_body: int
    ) -> None:
        self._receive = receive
        self._send = send
        self._left = max_body
        self._max_body = max_body
        self.cors: Headers = []
        self.ended: Callable[[], bool] = never
        self._is_closed = False
        self._revoked: asyncio.Task[None] | None = None
        # More of the body may come.
        self.unread = headers.get(b"content-length", "0") != "0" or b"transfer-encoding" in headers

    async def receive(self) -> Message:
        if self._is_closed:
            return {"type": "websocket.disconnect", "code": REVOKED}
        message = await (self._receive() if self._revoked is None else self._receive_or_end())
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            self.unread = message.get("more_body", False)
            if self._left < 0:
                raise _too_large(self._max_body)
        return message

    def end_with(self, ended: Callable[[], bool], revoked: Awaitable[None]) -> None:
        """Close a websocket as soon as its token is not good any more, however idle it is."""
        self.ended = ended
        self._revoked = asyncio.ensure_future(revoked)

    def stop(self) -> None:
        """Stop waiting for the end of the token."""
        if self._revoked is not None:
            self._revoked.cancel()

    async def _receive_or_end(self) -> Message:
        assert self._revoked is not None
        receiving = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait({receiving, self._revoked}, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                return receiving.result()
        finally:
            receiving.cancel()
        if not self._is_closed:
            self._is_closed = True
            await self._send(_CLOSE)
        return {"type": "websocket.disconnect", "code": REVOKED}

    async def send(self, message: Message) -> None:
        if self._is_closed:
            return
        if message["type"] == "websocket.send" and self.ended():
            self._is_closed = True
            message = _CLOSE
        if message["type"] in _STARTS:
            headers = message["headers"] = [*message["headers"], *SECURITY, *self.cors]
            if all(name != b"cache-control" for name, _ in headers):
                headers.append(_FRESH)
            if self.unread:
                headers.append((b"connection", b"close"))
        elif self.unread and not message.get("more_body"):
            # A connection that is closed with bytes unread is reset, and a client that is
            # still sending then never sees the answer.
            await self._send({**message, "more_body": True})
            await _drain(self._receive)
            message = {"type": "http.response.body"}
        await self._send(message)


def never() -> bool:
    """Return False: a request without a token that could be revoked."""
    return False


def check_body(headers: dict[bytes, str], most: int) -> None:
    """Raise an error for a body that is encoded, or announced as larger than `most` bytes."""
    coding = headers.get(b"content-encoding", "identity")
    if coding.lower() != "identity":
        raise UnsupportedMediaType(
            f"Send the body as it is, without `Content-Encoding: {coding[:100]}`."
        )
    declared = headers.get(b"content-length", "0")
    digits = declared if declared.isascii() and declared.isdigit() else "0"
    if len(digits) > 18 or int(digits) > most:
        raise _too_large(most)


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"A body may have at most {most} bytes; send less at once.")


async def _drain(receive: Receive) -> None:
    """Read and discard the rest of a body, up to a size and a time."""
    left = DRAIN_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while left > 0:
                message = await receive()
                if not message.get("more_body"):  # or the client is gone
                    return
                left -= len(message["body"])


async def refuse(error: ServiceError, scope: Scope, send: Send) -> None:
    """Send an error in place of the app, in GraphQL's form at /graphql."""
    if scope["path"].startswith("/graphql"):
        media = b"application/json"
        body = orjson.dumps(
            {"errors": [{"message": error.detail, "extensions": {"code": error.code.upper()}}]}
        )
    else:
        media, body = b"application/problem+json", problem(error)
    headers = [(b"content-type", media)]
    if error.status == 401:
        headers.append((b"www-authenticate", CHALLENGE.encode()))
    if error.status == 415:
        headers.append((b"accept-encoding", b"identity"))
    await answer(error.status, headers, body, scope, send)


async def answer(status: int, headers: Headers, body: bytes, scope: Scope, send: Send) -> None:
    """Send a whole response, also in place of a websocket."""
    if status != 204:
        headers.append((b"content-length", str(len(body)).encode()))
    kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
