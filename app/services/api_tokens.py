"""Tokens of users: made, found, revoked. What is stored of one is its SHA-256.

Every transaction of a token looks whether it is still good (`app.db.restricted`); here is who may
make and revoke one.
"""

from typing import Any, NamedTuple

from sqlalchemy import Executable, func, or_, select, update

from app.db.objects import replace
from app.db.sql import Tx, by_id, changing, columns, query, statement
from app.db.tables import ApiToken, User
from app.domain.ids import new_id, timestamp, timestamp_after
from app.domain.permissions import Role, UserKind
from app.domain.principals import Principal, PrincipalKind
from app.domain.team import MAX_TOKENS, TokenRequest
from app.domain.tokens import digest
from app.errors import Conflict, InvalidInput, NotFound, NotPermitted
from app.services import users

_token, _user = columns(ApiToken), columns(User)
_BY_ID = by_id(ApiToken)
_found = (
    select(_token.id, _token.scope, _token.expires_at, _user.id, _user.name, _user.kind)
    .select_from(ApiToken)
    .join(User, _user.id == _token.user_id)
    .where(_token.revoked_at.is_(None), _user.disabled_at.is_(None))
)


@query(tuple[Any, ...])
def _find(*, sha256: str) -> Executable:
    return _found.where(_token.sha256 == sha256)


@query(tuple[Any, ...])
def _find_by_id(*, id: str) -> Executable:
    return _found.where(_token.id == id)


@query(tuple[int])
def _count(*, user: str, now: str) -> Executable:
    return (
        select(func.count())
        .select_from(ApiToken)
        .where(
            _token.user_id == user,
            _token.revoked_at.is_(None),
            or_(_token.expires_at.is_(None), _token.expires_at > now),
        )
    )


_listed = select(
    _token.id, _token.user_id, _user.name, _token.name, _token.scope, _token.created_at,
    _token.expires_at, _token.revoked_at, _token.last_used_at,
).join(User, _user.id == _token.user_id)  # fmt: skip


@query(tuple[Any, ...])
def _list(*, most: int) -> Executable:
    return _listed.order_by(_token.id.desc()).limit(most)


@query(tuple[Any, ...])
def _list_of(*, user: str, most: int) -> Executable:
    return _listed.where(_token.user_id == user).order_by(_token.id.desc()).limit(most)


@statement
def _used(*, key: str, at: str) -> Executable:
    return update(ApiToken).where(_token.id == key).values(last_used_at=at)


LISTED = 1_000
SESSION_SECONDS = 7 * 24 * 3600


class Token(NamedTuple):
    """A token as it is shown: never the token itself."""

    id: str
    user_id: str
    user: str
    name: str | None
    scope: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None


class Known(NamedTuple):
    """Whom a token belongs to, and until when."""

    principal: Principal
    expires_at: str | None

    def has_expired(self) -> bool:
        """Return True if the token is not good any more."""
        return self.expires_at is not None and self.expires_at <= timestamp()


def _of(row: ApiToken, user: str) -> Token:
    return Token(
        row.id, row.user_id, user, row.name, row.scope, row.created_at, row.expires_at,
        row.revoked_at, row.last_used_at,
    )  # fmt: skip


def create(tx: Tx, request: TokenRequest, secret: str) -> Token:
    """Record a token of a user: one's own, or as an administrator anybody's.

    Raises NotPermitted, InvalidInput, Conflict if the user has too many.

    Args:
        secret: the token, of which nothing but its digest is stored.
    """
    own = tx.principal.user_id
    if request.user is None and own is None:
        raise InvalidInput(
            "Say whose token it is.", errors=[{"pointer": "/user", "detail": "required"}]
        )
    if request.user is not None and request.user != tx.principal.name:
        tx.require_admin()
        user = users.get_by_name(tx, request.user)
    else:
        assert own is not None
        user = users.get(tx, own)
        tx.allow_own()
    if request.scope.capped(tx.principal.scope) is not request.scope:
        own_scope = tx.principal.scope.value
        raise NotPermitted(f"A token makes none of a higher scope than its own, {own_scope!r}.")
    if request.expires_at is not None and request.expires_at <= tx.now:
        raise InvalidInput(
            "It would have expired already.",
            errors=[{"pointer": "/expires_at", "detail": "is in the past"}],
        )
    if user.disabled_at is not None:
        raise Conflict(f"User {user.name!r} is disabled.")
    return _insert(tx, user, request.name, request.scope, request.expires_at, secret)


def _insert(
    tx: Tx, user: User, name: str | None, scope: Role, expires_at: str | None, secret: str
) -> Token:
    count = tx.first(_count, user=user.id, now=tx.now)
    if count is not None and count[0] >= MAX_TOKENS:
        raise Conflict(f"User {user.name!r} has {MAX_TOKENS} tokens; revoke one first.")
    row = ApiToken(
        id=new_id("tok"), user_id=user.id, name=name, sha256=digest(secret),
        scope=scope.value, created_at=tx.now, expires_at=expires_at,
    )  # fmt: skip
    tx.insert(row)
    return _of(row, user.name)


def create_session(tx: Tx, user: User, secret: str) -> Token:
    """Record the token of a user's new browser session. Raises Conflict."""
    expires_at = timestamp_after(tx.now, SESSION_SECONDS)
    return _insert(tx, user, "browser session", Role.ADMIN, expires_at, secret)


def list_tokens(tx: Tx, user_name: str | None) -> list[Token]:
    """Return the newest tokens: one's own; as an administrator those of a user, or all.

    Raises NotPermitted.
    """
    own = tx.principal.user_id
    if own is not None and user_name in (None, tx.principal.name):
        rows = tx.all(_list_of, user=own, most=LISTED)
    else:
        tx.require_admin()
        if user_name is None:
            rows = tx.all(_list, most=LISTED)
        else:
            user = users.find_by_name(tx, user_name)
            rows = [] if user is None else tx.all(_list_of, user=user.id, most=LISTED)
    return [Token(*row) for row in rows]


def revoke(tx: Tx, token_id: str) -> Token:
    """Revoke a token: one's own, or as an administrator anybody's. Repeated, it changes nothing.

    Every server is told, and closes what is open on its behalf. Raises NotFound.
    """
    row = tx.first(_BY_ID, token_id)
    if row is None:
        raise NotFound(f"There is no token {token_id!a}.")
    if row.user_id == tx.principal.user_id:
        tx.allow_own()
    else:
        try:
            tx.require_admin()
        except NotPermitted:  # and never a hint
            raise NotFound(f"There is no token {token_id!a}.") from None
    user = users.get(tx, row.user_id)
    if row.revoked_at is not None:
        return _of(row, user.name)
    tx.run(changing(ApiToken, frozenset({"revoked_at"})), key=token_id, revoked_at=tx.now)
    tx.notify(token_id)
    return _of(replace(row, revoked_at=tx.now), user.name)


def find(tx: Tx, secret: str) -> Known | None:
    """Return whom a token belongs to; None for one that is not good."""
    return _to_known(tx, tx.first(_find, sha256=digest(secret)))


def find_by_id(tx: Tx, token_id: str) -> Known | None:
    """Return whom a token belongs to, by its id; None for one that is not good."""
    return _to_known(tx, tx.first(_find_by_id, id=token_id))


def _to_known(tx: Tx, row: tuple[Any, ...] | None) -> Known | None:
    if row is None:
        return None
    token_id, scope, expires_at, user_id, name, kind = row
    if expires_at is not None and expires_at <= tx.now:
        return None
    is_service = kind == UserKind.SERVICE
    principal = Principal(
        PrincipalKind.SERVICE if is_service else PrincipalKind.USER,
        name, user_id, token_id, Role(scope),
    )  # fmt: skip
    return Known(principal, expires_at)


def note_use(tx: Tx, token_id: str) -> None:
    """Record that a token is used."""
    tx.run(_used, key=token_id, at=tx.now)
