"""The door, before any route: who may come in, from where, and how large.

One ASGI middleware for REST and GraphQL: Host and Origin against an allowlist (a web page
elsewhere must not drive a local service, not even by DNS rebinding), the API token when
one is configured (every route but health; reports also take their run's token), and the
cap on bodies, whether or not their length was announced.
"""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import orjson
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.tokens import same
from app.errors import BodyTooLarge, Forbidden, ServiceError, Unauthorized

_OPEN = {"/healthz", "/readyz"}
_REPORTS = re.compile(r"/v1/runs/[^/]+/reports")
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


def problem(error: ServiceError) -> bytes:
    """An error as RFC 9457 `application/problem+json`."""
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


def bearer(headers: Headers) -> str | None:
    """The token of an Authorization header."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


class Guard:
    """Lets a request pass or answers it. `scope["caller"]` is who passed."""

    def __init__(
        self, app: ASGIApp, *, allowed_hosts: Iterable[str], api_token: str | None, max_body: int
    ) -> None:
        self.app = app
        self.hosts = {host.lower() for host in allowed_hosts}
        self.api_token = api_token
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_names(headers)
            scope["caller"] = self._caller(scope, headers)
            declared = headers.get("content-length", "")
            if declared.isdigit() and int(declared) > self.max_body:
                raise self._too_large()
        except ServiceError as error:
            await _refuse(error, scope, receive, send)
            return
        started = False
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self.max_body:
                    raise self._too_large()
            return message

        async def hardened(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        try:
            await self.app(scope, limited, hardened)
        except BodyTooLarge as error:
            if started:
                raise
            await _refuse(error, scope, receive, send)

    def _check_names(self, headers: Headers) -> None:
        if _name(headers.get("host", "")) not in self.hosts:
            raise Forbidden(
                "This Host is not allowed; the operator can add it to LLM_TRAIN_ALLOWED_HOSTS."
            )
        origin = headers.get("origin")
        if origin is not None and _name(urlsplit(origin).netloc) not in self.hosts:
            raise Forbidden(
                "This Origin is not allowed; the operator can add it to LLM_TRAIN_ALLOWED_HOSTS."
            )

    def _caller(self, scope: Scope, headers: Headers) -> str:
        path = scope["path"]
        if self.api_token is None:
            return "local"
        token = bearer(headers)
        if token is not None and same(token, self.api_token):
            return "api"
        if path in _OPEN or _REPORTS.fullmatch(path) or scope["type"] == "websocket":
            return "anonymous"  # reports and websockets are asked for their token further in
        raise Unauthorized("Send the API token: `Authorization: Bearer …`.")

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"A body may have at most {self.max_body} bytes.")


def _name(netloc: str) -> str:
    """The host name of `name`, `name:port` or `[v6]:port`, lower-case."""
    end = netloc.find("]")
    name = netloc[: end + 1] if end >= 0 else netloc.partition(":")[0]
    return name.lower()


async def _refuse(error: ServiceError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 4403, "reason": error.code})
        return
    if scope["path"].startswith("/graphql"):
        media = b"application/json"
        body = orjson.dumps(
            {"errors": [{"message": error.detail, "extensions": {"code": error.code}}]}
        )
    else:
        media, body = b"application/problem+json", problem(error)
    headers = [(b"content-type", media), (b"content-length", str(len(body)).encode()), *_HEADERS]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
