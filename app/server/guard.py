"""The guard in front of every route: tokens, hosts and origins, and the size of bodies.

One ASGI middleware for REST and GraphQL: Host and Origin against an allowlist (a web page
elsewhere must not drive a local service, not even by DNS rebinding), CORS for pages of hosts
that the operator named, the API token or a browser's session when a token is configured (every
route but health; trainers come with their run's token; a navigation without either gets the
sign-in page at the same address), and the cap on bodies, whether or not their length was
announced: a file of a checkpoint, an artifact and W&B's stream may be larger than other bodies.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import Callable, Collection
from contextlib import suppress

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.db.acting import act_as
from app.domain import principals
from app.domain.browser_sessions import BrowserSessions
from app.domain.hosts import AllowedHosts, is_origin_allowed, is_same_site
from app.domain.principals import Principal
from app.domain.team import TOKEN_PREFIX
from app.domain.tokens import OF_RUNS, same
from app.errors import (
    BodyTooLarge,
    Forbidden,
    ServiceError,
    Unauthorized,
    UnsupportedMediaType,
)
from app.server.authentication import Authenticator

Headers = list[tuple[bytes, bytes]]

_OPEN = {"/healthz", "/readyz"}
_SIGN_IN = "/session"
_SAFE = ("GET", "HEAD", "OPTIONS")
_FILE = re.compile(
    r"/v1/runs/[^/]+/attempts/[^/]+/checkpoints/[^/]+/files/.+"
    r"|/mlflow/api/2\.0/mlflow-artifacts/artifacts/.+"
    r"|/wandb/files/[^/]+/[^/]+/[^/]+/.+"
)
_STREAM = re.compile(r"/wandb/files/[^/]+/[^/]+/[^/]+/file_stream")
MAX_STREAM = 16 * 1024 * 1024
"""Bytes of what W&B's client sends at once: up to 10 MB, and it gives up where that is refused."""
_TRACKING = ("/mlflow/", "/wandb/graphql", "/wandb/files/")
"""Below these a trainer comes with the token of its run, whatever the method."""
_TRAINERS = {
    "POST": re.compile(
        r"/v1/runs/[^/]+/(reports|checkpoints/[^/]+/(uploads|commit)"
        r"|attempts/[^/]+/(claim|pulse|log|exit|checkpoints/[^/]+/commit))"
    ),
    "GET": re.compile(r"/v1/runs/[^/]+/(spec|resume|attempts/[^/]+/resume/.+)"),
    "PUT": _FILE,
}
"""What asks for the token of a run or an attempt itself."""
_PREFLIGHT = b"access-control-request-method"
_LOOKED_AT = {
    b"host", b"origin", b"authorization", b"content-length", b"content-encoding",
    b"transfer-encoding", b"cookie", b"accept", b"accept-language", _PREFLIGHT,
}  # fmt: skip
_STARTS = {"http.response.start", "websocket.http.response.start"}

REVOKED = 4401
"""The code with which a websocket ends whose token was revoked."""
DRAIN_BYTES = 64 * 1024 * 1024
DRAIN_SECONDS = 10.0

SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_FRESH = (b"cache-control", b"no-store")
# No credentials: a page elsewhere brings the token itself, never the browser's own.
_CORS = [
    (b"vary", b"Origin"),
    (
        b"access-control-expose-headers",
        b"Idempotent-Replayed, Location, Retry-After, X-Next-Offset, WWW-Authenticate",
    ),
]
PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, HEAD, POST, PATCH, DELETE"),
    (
        b"access-control-allow-headers",
        b"Accept, Authorization, Content-Type, Idempotency-Key, Last-Event-ID",
    ),
    (b"access-control-max-age", b"600"),
]
# A token is taken as the password of Basic as well, but not asked for in this way: for a challenge
# of Basic a browser opens a dialog of its own, also over a page that would ask by itself.
CHALLENGE = "Bearer"

SignInPage = Callable[[str, str], tuple[bytes, Headers]]
"""Returns the page for a path and an Accept-Language: its body and its headers."""


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


def bearer(authorization: str) -> str | None:
    """Return the token of an Authorization header, or None."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def password(authorization: str) -> str | None:
    """Return the password of an Authorization header: how a browser sends a token."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded.strip(), validate=True).decode().partition(":")[2] or None
    except (binascii.Error, UnicodeDecodeError):
        return None


class Guard:
    """Pass a request on, with its principal in `scope["principal"]`, or refuse it.

    The principal acts in every transaction of the request. An anonymous one may ask for health,
    and is asked for a token further in: a trainer is, and a websocket of GraphQL.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str],
        origins: Collection[str],
        allowed_origins: Collection[str] = (),
        api_token: str | None,
        max_body: int,
        max_file: int = 0,
        root_path: str = "",
        sessions: Callable[[], BrowserSessions | None] = lambda: None,
        authenticator: Callable[[], Authenticator | None] = lambda: None,
        sign_in_page: SignInPage | None = None,
    ) -> None:
        self.app = app
        self.sessions = sessions
        self.authenticator = authenticator
        self.sign_in_page = sign_in_page
        self.max_file = max_file
        self.hosts = AllowedHosts(hosts)
        self.origins = AllowedHosts(origins)
        self.allowed_origins = frozenset(allowed_origins)
        self.api_token = api_token
        self.max_body = max_body
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if self.root_path:
            scope = {**scope, "path": _below(self.root_path, scope["path"])}
        if scope.get("method") == "HEAD":
            # The server itself leaves the body out; a body without an end asks `head`.
            scope = {**scope, "method": "GET", "head": True}
        headers = _headers(scope)
        max_body = self._max_body(scope)
        exchange = _Exchange(receive, send, headers, max_body)
        try:
            self._check_host(scope, headers)
            exchange.cors = cors = self._cors(headers)
            if cors and scope.get("method") == "OPTIONS" and _PREFLIGHT in headers:
                await _answer(204, [*PREFLIGHT], b"", scope, exchange.send)
                return
            principal = scope["principal"] = await self._principal(scope, headers)
            exchange.ended = self._ended(principal)
            act_as(principal)
            if exchange.unread:
                _check_body(headers, max_body)
        except Unauthorized as error:
            if self.sign_in_page is not None and _is_navigation(scope, headers):
                body, more = self.sign_in_page(scope["path"], headers.get(b"accept-language", ""))
                await _answer(401, more, body, scope, exchange.send)
            else:
                await _refuse(error, scope, exchange.send)
            return
        except ServiceError as error:
            await _refuse(error, scope, exchange.send)
            return
        if self.root_path:
            path = self.root_path + scope["path"]
            scope = {**scope, "path": path, "root_path": self.root_path}
        await self.app(scope, exchange.receive, exchange.send)

    def _max_body(self, scope: Scope) -> int:
        method, path = scope.get("method"), scope["path"]
        if method == "PUT" and _FILE.fullmatch(path):
            return self.max_file
        if method == "POST" and _STREAM.fullmatch(path):
            return max(self.max_body, MAX_STREAM)
        return self.max_body

    def _check_host(self, scope: Scope, headers: dict[bytes, str]) -> None:
        # A probe names an address, or nothing at all; what it reads is no secret.
        probe = scope["path"] in _OPEN and scope.get("method") == "GET"
        if not probe and not self.hosts.allows(headers.get(b"host", "")):
            raise _forbidden("Host")

    def _cors(self, headers: dict[bytes, str]) -> Headers:
        """Return headers that let a page of another host read the response. Raises Forbidden."""
        origin = headers.get(b"origin")
        host = headers.get(b"host", "")
        if origin is None or (is_same_site(origin, host) and self.hosts.allows(host)):
            return []
        if origin not in self.allowed_origins and not is_origin_allowed(origin, self.origins):
            raise _forbidden("Origin")
        return [(b"access-control-allow-origin", origin.encode("latin-1")), *_CORS]

    async def _principal(self, scope: Scope, headers: dict[bytes, str]) -> Principal:
        authorization = headers.get(b"authorization", "")
        token = (bearer(authorization) or password(authorization)) if authorization else None
        if token is not None and token.startswith(TOKEN_PREFIX):
            return await self._user(token, scope)
        if self.api_token is None:
            return principals.LOCAL
        if token is not None and same(token, self.api_token):
            return principals.API_TOKEN
        path = scope["path"]
        if not authorization and path != _SIGN_IN:
            session = self._session(scope, headers)
            if session == "":
                return principals.API_TOKEN
            if session is not None and (found := await self._of_session(session)) is not None:
                return found
        if scope["type"] == "websocket":
            inside = path == "/graphql"  # a browser's first message brings the token
        else:
            trainers = _TRAINERS.get(scope["method"])
            inside = path in _OPEN or path.startswith(_TRACKING)
            inside = inside or bool(trainers and trainers.fullmatch(path))
            inside = inside or (path == _SIGN_IN and scope["method"] not in _SAFE)
        if inside:
            return principals.ANONYMOUS
        why = (
            "Send the API token: `Authorization: Bearer …`; in a browser, sign in at the dashboard."
        )
        if token is None or token.startswith(OF_RUNS):  # which is no guess of another one
            raise Unauthorized(why)
        raise self._refusal(scope, why)

    async def _user(self, token: str, scope: Scope) -> Principal:
        """Return the user of a token. Raises Unauthorized, Busy after many wrong ones."""
        authenticator = self.authenticator()
        found = await authenticator.find(token) if authenticator is not None else None
        if found is None:
            raise self._refusal(scope, "This token is not known, was revoked, or has expired.")
        return found

    def _ended(self, principal: Principal) -> Callable[[], bool]:
        """Return what tells whether a principal's token was revoked since."""
        authenticator, token_id = self.authenticator(), principal.token_id
        if authenticator is None or token_id is None:
            return _never
        return lambda: authenticator.has_ended(token_id)

    def _refusal(self, scope: Scope, why: str) -> ServiceError:
        authenticator = self.authenticator()
        if authenticator is None:
            return Unauthorized(why)
        return authenticator.refuse((scope.get("client") or ("",))[0], why)

    async def _of_session(self, token_id: str) -> Principal | None:
        authenticator = self.authenticator()
        return await authenticator.find_by_id(token_id) if authenticator is not None else None

    def _session(self, scope: Scope, headers: dict[bytes, str]) -> str | None:
        """Return the token's id of a browser's session; empty: LLM_TRAIN_API_TOKEN's.

        None if its cookie does not let it do this. Raises Forbidden.

        `_cors` has judged an Origin. Browsers send one with whatever changes something and with
        every WebSocket; where it is missing, no page of ours has sent the request.
        """
        cookies = headers.get(b"cookie")
        sessions = self.sessions() if cookies else None
        subject = None if sessions is None else sessions.get_subject(cookies or "")
        if subject is None:
            return None
        if b"origin" in headers or scope.get("method") in _SAFE:
            return subject
        if scope["type"] == "websocket":
            return None
        raise Forbidden("With a session, send `Origin` as browsers do; or send the API token.")


class _Exchange:
    """One request and its answer: bounds the body, and completes the headers of the answer."""

    def __init__(
        self, receive: Receive, send: Send, headers: dict[bytes, str], max_body: int
    ) -> None:
        self._receive = receive
        self._send = send
        self._left = max_body
        self._max_body = max_body
        self.cors: Headers = []
        self.ended: Callable[[], bool] = _never
        self._is_closed = False
        # More of the body may come.
        self.unread = headers.get(b"content-length", "0") != "0" or b"transfer-encoding" in headers

    async def receive(self) -> Message:
        if self._is_closed:
            return {"type": "websocket.disconnect", "code": REVOKED}
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            self.unread = message.get("more_body", False)
            if self._left < 0:
                raise _too_large(self._max_body)
        return message

    async def send(self, message: Message) -> None:
        if self._is_closed:
            return
        if message["type"] == "websocket.send" and self.ended():
            self._is_closed = True
            message = {"type": "websocket.close", "code": REVOKED, "reason": "Token revoked"}
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


def _never() -> bool:
    return False


def _check_body(headers: dict[bytes, str], most: int) -> None:
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


def _forbidden(what: str) -> Forbidden:
    return Forbidden(
        f"This {what} is not allowed; the operator can add its name to LLM_TRAIN_ALLOWED_HOSTS."
    )


def _below(root_path: str, path: str) -> str:
    """Return the path without the prefix of a proxy, which may have removed it already."""
    if path == root_path:
        return "/"
    return path.removeprefix(root_path) if path.startswith(f"{root_path}/") else path


def _headers(scope: Scope) -> dict[bytes, str]:
    """Return the headers that decide. Repeated ones are joined, so that none of them is used."""
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in _LOOKED_AT:
            text = value.decode("latin-1")
            # HTTP/2 splits cookies into several headers; no other header may be repeated.
            separator = "; " if name == b"cookie" else ", "
            found[name] = f"{found[name]}{separator}{text}" if name in found else text
    return found


def _is_navigation(scope: Scope, headers: dict[bytes, str]) -> bool:
    """Return True if a browser asks for a page to show."""
    return scope.get("method") == "GET" and "text/html" in headers.get(b"accept", "").lower()


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


async def _refuse(error: ServiceError, scope: Scope, send: Send) -> None:
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
    await _answer(error.status, headers, body, scope, send)


async def _answer(status: int, headers: Headers, body: bytes, scope: Scope, send: Send) -> None:
    if status != 204:
        headers.append((b"content-length", str(len(body)).encode()))
    kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
