"""The guard in front of every route: tokens, hosts and origins, and the size of bodies.

One ASGI middleware for REST and GraphQL: Host and Origin against an allowlist (a web page
elsewhere must not drive a local service, not even by DNS rebinding), CORS for pages of hosts
that the operator named, the API token or a browser's session when a token is configured (every
route but health; trainers come with their run's token; a navigation without either gets the
sign-in page at the same address), and the cap on bodies, whether or not their length was
announced: a file of a checkpoint, an artifact and W&B's stream may be larger than other bodies.
exchange.py bounds them and completes the headers of responses; here is decided who may pass.
"""

import base64
import binascii
import re
from collections.abc import Callable, Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from app.db.current_principal import act_as
from app.domain import principals
from app.domain.browser_sessions import BrowserSessions
from app.domain.hosts import AllowedHosts, is_origin_allowed, is_same_site
from app.domain.principals import Principal
from app.domain.team import TOKEN_PREFIX
from app.domain.tokens import OF_RUNS, secrets_match
from app.errors import (
    Forbidden,
    ServiceError,
    Unauthorized,
)
from app.server.authentication import Authenticator
from app.server.exchange import Exchange, Headers, answer, check_body, refuse

_OPEN = {"/healthz", "/readyz"}
_SIGN_IN = "/session"
_SINGLE_SIGN_ON = {"/oidc", "/oidc-callback"}
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
"""Paths whose routes check the token of a run or an attempt themselves."""
_USUAL = f"Bearer {TOKEN_PREFIX}"
"""The usual prefix of a header with the token of a user."""
_PREFLIGHT = b"access-control-request-method"
_LOOKED_AT = {
    b"host", b"origin", b"authorization", b"content-length", b"content-encoding",
    b"transfer-encoding", b"cookie", b"accept", b"accept-language", _PREFLIGHT,
}  # fmt: skip
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
SignInPage = Callable[[str, str], tuple[bytes, Headers]]
"""Returns the page for a path and an Accept-Language: its body and its headers."""


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
        authenticator: Authenticator,
        sessions: Callable[[], BrowserSessions | None] = lambda: None,
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
            scope = {**scope, "path": _strip_root(self.root_path, scope["path"])}
        if scope.get("method") == "HEAD":
            # The server itself leaves the body out; a body without an end asks `head`.
            scope = {**scope, "method": "GET", "head": True}
        headers = _headers(scope)
        max_body = self._max_body(scope)
        exchange = Exchange(receive, send, headers, max_body)
        try:
            self._check_host(scope, headers)
            exchange.cors = cors = self._cors(headers)
            if cors and scope.get("method") == "OPTIONS" and _PREFLIGHT in headers:
                await answer(204, [*PREFLIGHT], b"", scope, exchange.send)
                return
            principal = scope["principal"] = await self._principal(scope, headers)
            if scope["type"] == "websocket":
                # GraphQL is told the token of a websocket in its first message.
                scope["end_with"] = lambda token_id: self._end_with(exchange, token_id)
                self._end_with(exchange, principal.token_id)
            act_as(principal)
            if exchange.unread:
                check_body(headers, max_body)
        except ServiceError as error:
            await self._refuse(error, scope, headers, exchange.send)
            return
        if self.root_path:
            path = self.root_path + scope["path"]
            scope = {**scope, "path": path, "root_path": self.root_path}
        try:
            await self.app(scope, exchange.receive, exchange.send)
        finally:
            exchange.stop()

    async def _refuse(
        self, error: ServiceError, scope: Scope, headers: dict[bytes, str], send: Send
    ) -> None:
        """Answer with the error; a browser that must sign in gets the page to do so."""
        signs_in = isinstance(error, Unauthorized) and _is_navigation(scope, headers)
        if signs_in and self.sign_in_page is not None:
            body, more = self.sign_in_page(scope["path"], headers.get(b"accept-language", ""))
            await answer(401, more, body, scope, send)
        else:
            await refuse(error, scope, send)

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
            raise _make_host_error("Host")

    def _cors(self, headers: dict[bytes, str]) -> Headers:
        """Return headers that let a page of another host read the response. Raises Forbidden."""
        origin = headers.get(b"origin")
        host = headers.get(b"host", "")
        if origin is None or (is_same_site(origin, host) and self.hosts.allows(host)):
            return []
        if origin not in self.allowed_origins and not is_origin_allowed(origin, self.origins):
            raise _make_host_error("Origin")
        return [(b"access-control-allow-origin", origin.encode("latin-1")), *_CORS]

    async def _principal(self, scope: Scope, headers: dict[bytes, str]) -> Principal:
        authorization = headers.get(b"authorization", "")
        if authorization.startswith(_USUAL):
            user = self.authenticator.recall(authorization.removeprefix("Bearer "))
            if user is not None:
                return user
        token = (bearer(authorization) or password(authorization)) if authorization else None
        if token is not None and token.startswith(TOKEN_PREFIX):
            return await self._user(token, scope)
        if self.api_token is None:
            return principals.LOCAL
        if token is not None and secrets_match(token, self.api_token):
            return principals.API_TOKEN
        path = scope["path"]
        if not authorization and path != _SIGN_IN:
            session = self._session(scope, headers)
            if session == "":
                return principals.API_TOKEN
            if session is not None and (user := await self.authenticator.find_by_id(session)):
                return user
        if scope["type"] == "websocket":
            inside = path == "/graphql"  # a browser's first message brings the token
        else:
            trainers = _TRAINERS.get(scope["method"])
            inside = path in _OPEN or path.startswith(_TRACKING)
            inside = inside or bool(trainers and trainers.fullmatch(path))
            inside = inside or (path == _SIGN_IN and scope["method"] not in _SAFE)
            inside = inside or (path in _SINGLE_SIGN_ON and scope["method"] == "GET")
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
        user = self.authenticator.recall(token) or await self.authenticator.find(token)
        if user is None:
            raise self._refusal(scope, "This token is not known, was revoked, or has expired.")
        return user

    def _end_with(self, exchange: Exchange, token_id: str | None) -> None:
        """Let a websocket end with the token that it is opened with."""
        if token_id is not None:
            exchange.end_with(
                lambda: self.authenticator.has_ended(token_id),
                self.authenticator.wait_ended(token_id),
            )

    def _refusal(self, scope: Scope, why: str) -> ServiceError:
        return self.authenticator.refuse((scope.get("client") or ("",))[0], why)

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


def _make_host_error(what: str) -> Forbidden:
    return Forbidden(
        f"This {what} is not allowed; the operator can add its name to LLM_TRAIN_ALLOWED_HOSTS."
    )


def _strip_root(root_path: str, path: str) -> str:
    """Return the path without the prefix of a proxy, which may have removed it already."""
    if path == root_path:
        return "/"
    return path.removeprefix(root_path) if path.startswith(f"{root_path}/") else path


def _headers(scope: Scope) -> dict[bytes, str]:
    """Return the headers that decide. Repeated ones are joined, so that none of them is used."""
    headers: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in _LOOKED_AT:
            text = value.decode("latin-1")
            # HTTP/2 splits cookies into several headers; no other header may be repeated.
            separator = "; " if name == b"cookie" else ", "
            headers[name] = f"{headers[name]}{separator}{text}" if name in headers else text
    return headers


def _is_navigation(scope: Scope, headers: dict[bytes, str]) -> bool:
    """Return True if a browser asks for a page to show."""
    return scope.get("method") == "GET" and "text/html" in headers.get(b"accept", "").lower()
