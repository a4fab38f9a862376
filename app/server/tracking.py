"""Code shared by the APIs of tracking clients: callers, and routes with errors in their format.

A caller may see everything, or is one run's trainer. A trainer sends its run's id and its token by
basic authentication: MLflow's client as user name and password, W&B's as one key after the user
name `api`. Recipes set the variables for both. Such a trainer reaches only its own run: any
experiment or run that it creates stands for that one.
"""

import base64
import binascii
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from app.db.current_principal import act_as
from app.domain.ids import is_id
from app.domain.principals import ANONYMOUS, Principal, PrincipalKind, of_run
from app.domain.tokens import attempt_of, run_token, secrets_match
from app.errors import Forbidden, ServiceError, Unauthorized
from app.services.tracking import Writer

_KEY_USER = "api"
"""The user name that W&B's client sends with its key, which is RUN_ID-TOKEN or an API token."""


class Access(NamedTuple):
    """The scope of a caller: with `run_id` that run only; for a recipe's run, its attempt."""

    run_id: str | None = None
    attempt: int | None = None

    def writer(self, run_id: str) -> Writer:
        """Return the writer of a run: its trainer, or a client. Raises Forbidden."""
        self.check_run(run_id)
        return Writer(run_id, self.attempt)

    def check_run(self, run_id: str | None) -> None:
        """Raise Forbidden for another run than the caller's own."""
        if self.run_id is not None and run_id != self.run_id:
            raise Forbidden("This token is good for its own run only.")


def get_access(request: Request) -> Access:
    """Return the scope of a request's caller. Raises Unauthorized."""
    principal: Principal = request.scope["principal"]
    if principal.kind in (PrincipalKind.API_TOKEN, PrincipalKind.USER, PrincipalKind.SERVICE):
        return Access()
    user, token = _basic(request.headers.get("authorization", ""))
    if user == _KEY_USER:
        user, _, token = token.partition("-")
    if is_id(user, "run"):
        secret = request.app.state.secret
        attempt = attempt_of(token, secret, user)
        if attempt is not None or secrets_match(token, run_token(secret, user)):
            act_as(of_run(user))
            return Access(user, attempt)
    elif principal != ANONYMOUS:
        return Access()
    raise Unauthorized(
        "Send the API token (MLFLOW_TRACKING_TOKEN, WANDB_API_KEY), or a run's id with its token "
        "(MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, WANDB_API_KEY=RUN_ID-TOKEN)."
    )


def _basic(authorization: str) -> tuple[str, str]:
    """Return user name and password of an Authorization header; empty if it has none."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


def make_router(answer: Callable[[ServiceError], Response]) -> APIRouter:
    """Return a router that answers a ServiceError with `answer`, without entries in OpenAPI."""

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def answering(request: Request) -> Response:
                try:
                    return await handle(request)
                except ServiceError as error:
                    return answer(error)

            return answering

    return APIRouter(route_class=Route, include_in_schema=False, redirect_slashes=False)


def json(body: object, status: int = 200) -> Response:
    """Return a response of this JSON."""
    return Response(orjson.dumps(body), status, media_type="application/json")


def refusal(error: ServiceError, status: int, body: object) -> Response:
    """Return an error with a body of the client's format, and Retry-After or WWW-Authenticate."""
    response = json(body, status)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="LLM Train API"'
    return response
