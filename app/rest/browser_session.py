"""/session: a browser signs in with the API token, or with a one-time code, and gets a cookie.

POST /session       {"token": …} or {"code": …} → 204 and the cookie
DELETE /session     204; the cookie ends
POST /session/code  a code for one sign-in, for who has the token: `llm-train open` prints a link

They are for browsers and for `llm-train open` alone, so they are no part of the REST contract.
"""

import hashlib

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from app.db.current_principal import acting_as
from app.domain.browser_sessions import CODE_SECONDS, BrowserSessions
from app.domain.principals import SUPERVISOR, Principal
from app.domain.team import TOKEN_PREFIX
from app.domain.tokens import secrets_match
from app.errors import ServiceError
from app.rest import body, responses
from app.rest.parameters import LazyRoute
from app.server.authentication import Authenticator
from app.services import api_tokens, idempotency

MOST_BYTES = 4096
router = APIRouter(include_in_schema=False, route_class=LazyRoute)


class SignIn(BaseModel):
    """One of the two."""

    model_config = ConfigDict(extra="forbid")

    token: str | None = None
    code: str | None = None


@router.post("/session")
async def sign_in(request: Request) -> Response:
    """Begin a session. Raises Unauthorized."""
    signed = await body.read(request, SignIn, MOST_BYTES)
    sessions: BrowserSessions | None = request.app.state.sessions
    if sessions is None:  # the service asks nobody for a token
        return Response(status_code=204)
    subject = ""
    if signed.code is not None:
        subject = await _use_code(request, sessions, signed.code)
    elif (signed.token or "").startswith(TOKEN_PREFIX):
        principal = await request.app.state.authenticator.find(signed.token or "")
        if principal is None:
            raise _refusal(request, "This token is not known, was revoked, or has expired.")
        subject = principal.token_id or ""
    elif not secrets_match(signed.token or "", request.app.state.settings.api_token):
        raise _refusal(
            request, "This is neither a token of a user nor LLM_TRAIN_API_TOKEN of the service."
        )
    return _with_cookie(sessions.make_cookie(subject, secure=_is_https(request)))


async def _use_code(request: Request, sessions: BrowserSessions, code: str) -> str:
    """Return whom a one-time code signs in, and use it up. Raises Unauthorized."""
    subject = sessions.subject_of_code(code)
    digest = hashlib.sha256(code.encode("utf-8", "replace")).hexdigest()
    with acting_as(SUPERVISOR):  # nobody has signed in yet
        genuine = subject is not None and await request.app.state.db.write(
            idempotency.use_once, "sign-in code", digest
        )
    if subject is None or not genuine:
        raise _refusal(
            request, "This link was used before or is too old; `llm-train open` makes another."
        )
    return subject


@router.delete("/session")
async def sign_out(request: Request) -> Response:
    """End the browser's session, and the token that a sign-in with OpenID Connect has made."""
    sessions: BrowserSessions | None = request.app.state.sessions
    if sessions is None:
        return Response(status_code=204)
    token_id = sessions.get_own_token(request.headers.get("cookie", ""))
    if token_id is not None:  # made for this session alone
        with acting_as(SUPERVISOR):
            await request.app.state.db.write(api_tokens.revoke, token_id)
        request.app.state.authenticator.forget()
    return _with_cookie(sessions.make_expired_cookie(secure=_is_https(request)))


@router.post("/session/code")
async def make_code(request: Request) -> Response:
    """Return a one-time code; null where no token is asked for."""
    sessions: BrowserSessions | None = request.app.state.sessions
    principal: Principal = request.scope["principal"]
    code = sessions.code(principal.token_id or "") if sessions is not None else None
    return responses.json({"code": code, "expires_in_seconds": CODE_SECONDS})


def _refusal(request: Request, why: str) -> ServiceError:
    address = request.client.host if request.client is not None else ""
    authenticator: Authenticator = request.app.state.authenticator
    return authenticator.refuse(address, why)


def _is_https(request: Request) -> bool:
    """Return True if the browser came over TLS, which a proxy may have ended."""
    return request.headers.get("origin", "").lower().startswith("https:")


def _with_cookie(cookie: str) -> Response:
    return Response(status_code=204, headers={"Set-Cookie": cookie})
