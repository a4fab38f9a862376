"""The door, before any route: who may come in, from where, and how large.

One ASGI middleware for REST and GraphQL: Host and Origin against an allowlist (a web page
elsewhere must not drive a local service, not even by DNS rebinding), the API token when
one is configured (every route but health; trainers come with their run's token), and the
cap on bodies, whether or not their length was announced.
"""

import base64
import binascii
import re
from collections.abc import Collection

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.hosts import allowed, origin_allowed
from app.domain.tokens import same
from app.errors import BodyTooLarge, Forbidden, ServiceError, Unauthorized

ANONYMOUS = "anonymous"
"""The caller who may ask for health, and is asked for a token further in: a trainer is, and a
websocket of GraphQL."""

_OPEN = {"/healthz", "/readyz"}
_TRAINERS = {
    "POST": re.compile(r"/v1/runs/[^/]+/reports"),
    "GET": re.compile(r"/v1/runs/[^/]+/spec"),
}
_LOOKED_AT = {b"host", b"origin", b"authorization", b"content-length"}

SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_FRESH = (b"cache-control", b"no-store")
CHALLENGES = ("Bearer", 'Basic realm="LLM Train API"')


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


def bearer(authorization: str) -> str | None:
    """The token of an Authorization header."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def password(authorization: str) -> str | None:
    """The password of an Authorization header: how a browser sends a token."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded.strip(), validate=True).decode().partition(":")[2] or None
    except (binascii.Error, UnicodeDecodeError):
        return None


class Guard:
    """Lets a request pass or answers it. `scope["caller"]` is who passed."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str],
        origins: Collection[str],
        api_token: str | None,
        max_body: int,
    ) -> None:
        self.app = app
        self.hosts = hosts
        self.origins = origins
        self.api_token = api_token
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            headers = _headers(scope)
            self._check_names(headers)
            scope["caller"] = self._caller(scope, headers.get(b"authorization", ""))
            self._check_length(headers.get(b"content-length", "0"))
        except ServiceError as error:
            await _refuse(error, scope, send)
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
                headers = message["headers"] = [*message["headers"], *SECURITY]
                if all(name != b"cache-control" for name, _ in headers):
                    headers.append(_FRESH)
            await send(message)

        if scope["type"] == "http" and scope["method"] == "HEAD":
            # The server itself leaves the body out; a body without an end asks `head`.
            scope = {**scope, "method": "GET", "head": True}
        try:
            await self.app(scope, limited, hardened)
        except BodyTooLarge as error:
            if started:
                raise
            await _refuse(error, scope, send)

    def _check_names(self, headers: dict[bytes, str]) -> None:
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if not allowed(host, self.hosts):
            wrong = "Host"
        elif origin is not None and not origin_allowed(origin, host, self.origins):
            wrong = "Origin"
        else:
            return
        raise Forbidden(
            f"This {wrong} is not allowed; the operator can add its name to "
            "LLM_TRAIN_ALLOWED_HOSTS."
        )

    def _caller(self, scope: Scope, authorization: str) -> str:
        if self.api_token is None:
            return "local"
        token = bearer(authorization) or password(authorization)
        if token is not None and same(token, self.api_token):
            return "api"
        path = scope["path"]
        if scope["type"] == "websocket":
            inside = path == "/graphql"  # a browser's first message brings the token
        else:
            trainers = _TRAINERS.get(scope["method"])
            inside = path in _OPEN or bool(trainers and trainers.fullmatch(path))
        if inside:
            return ANONYMOUS
        raise Unauthorized(
            "Send the API token: `Authorization: Bearer …`, or in a browser as the password."
        )

    def _check_length(self, declared: str) -> None:
        digits = declared if declared.isascii() and declared.isdigit() else "0"
        if len(digits) > 18 or int(digits) > self.max_body:
            raise self._too_large()

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"A body may have at most {self.max_body} bytes; send less at once.")


def _headers(scope: Scope) -> dict[bytes, str]:
    """The headers that decide. A repeated one is joined, and so means nothing to anyone."""
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in _LOOKED_AT:
            text = value.decode("latin-1")
            found[name] = f"{found[name]}, {text}" if name in found else text
    return found


async def _refuse(error: ServiceError, scope: Scope, send: Send) -> None:
    """Answers in the place of the app: in GraphQL's form to GraphQL's clients."""
    if scope["path"].startswith("/graphql"):
        media = b"application/json"
        body = orjson.dumps(
            {"errors": [{"message": error.detail, "extensions": {"code": error.code.upper()}}]}
        )
    else:
        media, body = b"application/problem+json", problem(error)
    headers = [
        (b"content-type", media), (b"content-length", str(len(body)).encode()), *SECURITY, _FRESH,
    ]  # fmt: skip
    if error.status == 401:
        headers += [(b"www-authenticate", challenge.encode()) for challenge in CHALLENGES]
    kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
    await send({"type": f"{kind}.start", "status": error.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
