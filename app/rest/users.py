"""`/v1/users`, `/v1/tokens` and `/v1/me`: who may use the service, and with what."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from app.db.tables import User
from app.domain.ids import PATTERN
from app.domain.team import TokenRequest, UserName, UserRequest, UserUpdate, new_token
from app.rest import responses, schemas
from app.rest.body import read
from app.rest.parameters import DocumentedRoute, Parameters, accepts_json
from app.rest.problems import describe_errors
from app.rest.projects import UserId
from app.services import api_tokens, me, users
from app.services.api_tokens import Token

router = APIRouter(prefix="/v1", tags=["team"], route_class=DocumentedRoute)

TOKEN_ID = "tok_0cc4q1zt8b3k5m7p9s1v3x5z7a"  # noqa: S105
TokenId = Annotated[str, Path(pattern=PATTERN.format("tok"), examples=[TOKEN_ID])]


class UserAnswer(TypedDict):
    """A user or a service account."""

    user_id: str
    name: str
    kind: schemas.UserKind
    email: str | None
    is_admin: bool
    created_at: schemas.Time
    disabled_at: schemas.Time | None


class UsersAnswer(TypedDict):
    """All users."""

    users: list[UserAnswer]


class TokenAnswer(TypedDict):
    """A token, without the token itself."""

    token_id: str
    user_id: str
    user: str
    name: str | None
    scope: Annotated[schemas.Role, Field(description="The highest role that it may act in.")]
    created_at: schemas.Time
    expires_at: schemas.Time | None
    revoked_at: schemas.Time | None
    last_used_at: Annotated[schemas.Time | None, Field(description="To some minutes.")]


class NewTokenAnswer(TokenAnswer):
    """A new token, and the token itself."""

    token: Annotated[str | None, Field(description="Shown once: a replay has null.")]


class TokensAnswer(TypedDict):
    """Tokens, newest first."""

    tokens: list[TokenAnswer]


class RoleAnswer(TypedDict):
    """A role in a project."""

    project_id: str
    project: str
    role: schemas.Role


class MeAnswer(TypedDict):
    """The principal of this request, and its roles."""

    kind: schemas.PrincipalKind
    name: str | None
    user_id: str | None
    scope: schemas.Role
    is_admin: bool
    projects: list[RoleAnswer]


def view(user: User) -> UserAnswer:
    """Return `UserAnswer`."""
    return {
        "user_id": user.id,
        "name": user.name,
        "kind": user.kind,
        "email": user.email,
        "is_admin": bool(user.is_admin),
        "created_at": user.created_at,
        "disabled_at": user.disabled_at,
    }


def view_token(token: Token) -> TokenAnswer:
    """Return `TokenAnswer`."""
    return {
        "token_id": token.id,
        "user_id": token.user_id,
        "user": token.user,
        "name": token.name,
        "scope": token.scope,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "last_used_at": token.last_used_at,
    }


@router.post("/users", status_code=201, response_model=UserAnswer, **accepts_json(UserRequest))
async def create_user(request: Request) -> Response:
    """Create a user or a service account. For administrators."""
    body = await read(request, UserRequest)
    return responses.respond(
        await responses.perform(request, lambda tx: users.create(tx, body), view, 201)
    )


@router.get("/users", response_model=UsersAnswer, responses=describe_errors())
async def list_users(request: Request) -> Response:
    """List the users, by name. For administrators."""
    rows = await request.app.state.db.scan(users.list_all)
    return responses.json({"users": list(map(view, rows))})


@router.patch("/users/{user_id}", response_model=UserAnswer, **accepts_json(UserUpdate, 404))
async def update_user(request: Request, user_id: UserId) -> Response:
    """Change a user, or disable it. For administrators."""
    body = await read(request, UserUpdate)
    stored = await responses.perform(request, lambda tx: users.update(tx, user_id, body), view)
    request.app.state.authenticator.forget()
    return responses.respond(stored)


@router.post(
    "/tokens", status_code=201, response_model=NewTokenAnswer,
    **accepts_json(TokenRequest),
)  # fmt: skip
async def create_token(request: Request) -> Response:
    """Create a token: your own, or as an administrator anybody's. This answer alone shows it.

    A replay of it (`Idempotency-Key`) has null in its place.
    """
    body, secret = await read(request, TokenRequest), new_token()
    stored = await responses.perform(
        request, lambda tx: api_tokens.create(tx, body, secret), view_token, 201
    )
    shown = None if stored.replayed else secret
    return responses.respond(stored, secrets=lambda _: {"token": shown})


class TokensQuery(Parameters):
    """The user whose tokens to list."""

    user: UserName | None = None


@router.get("/tokens", response_model=TokensAnswer, responses=describe_errors(422))
async def list_tokens(request: Request, query: Annotated[TokensQuery, Query()]) -> Response:
    """List your newest tokens; as an administrator, those of everybody, or of one user."""
    rows = await request.app.state.db.scan(api_tokens.list_tokens, query.user)
    return responses.json({"tokens": list(map(view_token, rows))})


@router.delete("/tokens/{token_id}", status_code=204, responses=describe_errors(404))
async def revoke_token(request: Request, token_id: TokenId) -> Response:
    """Revoke a token, at once and on every server: yours, or as an administrator anybody's."""
    await responses.write(request, lambda tx: api_tokens.revoke(tx, token_id))
    request.app.state.authenticator.forget()
    return Response(status_code=204)


@router.get("/me", response_model=MeAnswer, responses=describe_errors())
async def get_me(request: Request) -> Response:
    """Return who asks, and its roles."""
    viewer = await request.app.state.db.read(me.get)
    return responses.json(
        {**viewer._asdict(), "projects": [role._asdict() for role in viewer.projects]}
    )
