"""/oidc and /oidc-callback: a browser signs in with OpenID Connect and gets a session's cookie.

GET /oidc?to=/runs    to the provider, with a cookie that binds the way back to this browser
GET /oidc-callback    from there: the code is exchanged, the session begins, and on to `to`

They are one folder deep, as /session is: a cookie without a Path is for the folder of the address,
and so for the whole service below whatever prefix a proxy has. Like /session they are for browsers
alone, and no part of the REST contract.
"""

import hashlib
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from app.db.current_principal import acting_as
from app.db.sql import Tx
from app.domain.browser_sessions import BrowserSessions
from app.domain.principals import SUPERVISOR
from app.domain.single_sign_on import Attempt, Attempts, Identity
from app.domain.team import new_token
from app.errors import NotFound, ServiceError, Unauthorized
from app.rest.parameters import LazyRoute
from app.server.openid import Provider
from app.services import audit, idempotency, sign_ins
from app.services.api_tokens import Token
from app.web import sign_in as pages

MOST_CHARACTERS = 4_000
"""Of a code or a state: what a provider sends is far shorter."""
router = APIRouter(include_in_schema=False, route_class=LazyRoute)


@router.get("/oidc")
async def begin(request: Request) -> Response:
    """Send the browser to the provider. Raises NotFound, Unavailable."""
    provider, attempts = _parts(request)
    to = request.query_params.get("to", "/")
    attempt, cookie = attempts.begin(to, secure=_is_https(request))
    try:
        url = await provider.authorization_url(attempt)
    except ServiceError as error:
        return _show_error(request, error)
    return Response(status_code=302, headers={"Location": url, "Set-Cookie": cookie})


@router.get("/oidc-callback")
async def end(request: Request) -> Response:
    """Begin the session of a user who has signed in at the provider. Raises NotFound."""
    provider, attempts = _parts(request)
    try:
        attempt = await _use(request, attempts)
        query = request.query_params
        identity = await provider.identify(query["code"], attempt, query.get("iss"))
        token = await _begin_session(request, identity)
    except ServiceError as error:
        return _show_error(request, error, attempts.make_expired_cookie(secure=_is_https(request)))
    sessions: BrowserSessions = request.app.state.sessions
    address = request.app.state.settings.public_url + quote(attempt.to, safe="/?#&=:@!$'()*+,;~%[]")
    # Not a redirect: a browser sends a Strict cookie only with what a page of ours asks for.
    response = _page(request, pages.make_onward_page(address), 200)
    response.headers.append(
        "set-cookie", sessions.make_cookie(token.id, owns=True, secure=_is_https(request))
    )
    response.headers.append("set-cookie", attempts.make_expired_cookie(secure=_is_https(request)))
    return response


async def _use(request: Request, attempts: Attempts) -> Attempt:
    """Return the attempt that an answer ends, and use it up. Raises Unauthorized."""
    query = request.query_params
    state, code = query.get("state", ""), query.get("code", "")
    attempt = None
    if len(state) <= MOST_CHARACTERS and len(query.getlist("state")) == 1:
        attempt = attempts.find(request.headers.get("cookie", ""), state)
    if attempt is None:
        raise _refuse(request, "This sign-in was begun in another browser, or too long ago.")
    digest = hashlib.sha256(state.encode("utf-8", "replace")).hexdigest()
    with acting_as(SUPERVISOR):  # nobody has signed in yet
        is_first = await request.app.state.db.write(idempotency.use_once, "sign-in state", digest)
    if not is_first:
        raise _refuse(request, "This sign-in was ended before; begin another.")
    if "error" in query or not 0 < len(code) <= MOST_CHARACTERS or len(query.getlist("code")) > 1:
        raise _refuse(request, "The provider did not sign you in.")
    return attempt


async def _begin_session(request: Request, identity: Identity) -> Token:
    secret, groups = new_token(), request.app.state.group_roles

    def work(tx: Tx) -> Token:
        token = sign_ins.sign_in(tx, identity, groups, secret)
        audit.record_sign_in(tx, token.user, token.id)
        return token

    with acting_as(SUPERVISOR):
        token: Token = await request.app.state.db.write(work)
    return token


def _parts(request: Request) -> tuple[Provider, Attempts]:
    provider: Provider | None = request.app.state.provider
    if provider is None:
        raise NotFound("This service has no provider to sign in with: LLM_TRAIN_OIDC_ISSUER.")
    return provider, request.app.state.sign_in_attempts


def _refuse(request: Request, why: str) -> ServiceError:
    address = request.client.host if request.client is not None else ""
    error: ServiceError = request.app.state.authenticator.refuse(address, why)
    return error


def _show_error(request: Request, error: ServiceError, cookie: str | None = None) -> Response:
    """Return an error as a page for people; as problem+json for whatever else asks."""
    if isinstance(error, Unauthorized) and error.__cause__ is not None:
        error = _refuse(request, error.detail)  # counted and recorded, as a wrong token is
    if "text/html" not in request.headers.get("accept", "").lower():
        raise error
    home = f"{request.app.state.settings.public_url}/"
    response = _page(request, pages.make_refused_page(error.detail, home), error.status)
    if cookie is not None:
        response.headers.append("set-cookie", cookie)
    return response


def _page(request: Request, page: pages.Page, status: int) -> Response:
    body, policy = page(request.headers.get("accept-language", ""))
    headers = {"Content-Security-Policy": policy}
    return Response(body, status, headers, "text/html")


def _is_https(request: Request) -> bool:
    return str(request.app.state.settings.public_url).startswith("https:")
