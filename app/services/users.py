"""Users and service accounts: whom tokens belong to. They are disabled, and never deleted."""

from typing import Any

from sqlalchemy import Executable, func, select

from app.db.objects import replace
from app.db.sql import Tx, by_id, changing, columns, query, select_all
from app.db.tables import ApiToken, User
from app.domain.ids import new_id
from app.domain.team import MAX_USERS, UserRequest, UserUpdate
from app.errors import Conflict, InvalidInput, NameTaken, NotFound

_user, _token = columns(User), columns(ApiToken)
_BY_ID = by_id(User)


@query(User)
def _by_name(*, name: str) -> Executable:
    return select_all(User).where(_user.name == name)


@query(User)
def _all() -> Executable:
    return select_all(User).order_by(_user.name)


@query(tuple[int])
def _count() -> Executable:
    return select(func.count()).select_from(User)


@query(tuple[str])
def _tokens(*, user: str) -> Executable:
    return select(_token.id).where(_token.user_id == user)


def create(
    tx: Tx, request: UserRequest, identity: tuple[str, str] | tuple[None, None] = (None, None)
) -> User:
    """Create a user. Raises NotPermitted, NameTaken, Conflict if there are too many.

    Args:
        identity: the issuer and the subject by which it signs in with OpenID Connect.
    """
    tx.require_admin()
    if tx.first(_by_name, name=request.name) is not None:
        raise NameTaken(f"There is a user {request.name!r}.")
    count = tx.first(_count)
    if count is not None and count[0] >= MAX_USERS:
        raise Conflict(f"There are {MAX_USERS:,} users.")
    user = User(
        id=new_id("usr"), name=request.name, kind=request.kind.value, email=request.email,
        is_admin=request.is_admin, created_at=tx.now, issuer=identity[0], subject=identity[1],
    )  # fmt: skip
    tx.insert(user)
    return user


def get(tx: Tx, user_id: str) -> User:
    """Return a user. Raises NotFound."""
    user = tx.first(_BY_ID, user_id)
    if user is None:
        raise NotFound(f"There is no user {user_id!a}.")
    return user


def find_by_name(tx: Tx, name: str) -> User | None:
    """Return the user of a name; None if there is none."""
    return tx.first(_by_name, name=name)


def get_by_name(tx: Tx, name: str) -> User:
    """Return the user that a request names. Raises InvalidInput."""
    user = find_by_name(tx, name)
    if user is None:
        raise InvalidInput(
            f"There is no user {name!a}.", errors=[{"pointer": "/user", "detail": "there is none"}]
        )
    return user


def list_all(tx: Tx) -> list[User]:
    """Return every user by name. Raises NotPermitted."""
    tx.require_admin()
    return tx.all(_all)


def update(tx: Tx, user_id: str, request: UserUpdate) -> User:
    """Change a user, or disable it. Raises NotPermitted, NotFound.

    Whoever waits on its behalf is woken, and then finds its tokens worthless.
    """
    tx.require_admin()
    user = get(tx, user_id)
    changes: dict[str, Any] = {
        name: getattr(request, name) for name in request.model_fields_set - {"disabled"}
    }
    if "disabled" in request.model_fields_set:
        changes["disabled_at"] = (user.disabled_at or tx.now) if request.disabled else None
    changes = {name: value for name, value in changes.items() if getattr(user, name) != value}
    if not changes:
        return user
    tx.run(changing(User, frozenset(changes)), key=user.id, **changes)
    tx.notify(user.id, *(token_id for (token_id,) in tx.all(_tokens, user=user.id)))
    return replace(user, **changes)
