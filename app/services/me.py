"""The principal of a request, and its roles."""

from typing import NamedTuple

from app.db.sql import Tx
from app.services import projects, users
from app.services.projects import RoleIn


class Me(NamedTuple):
    """A principal, and what it may do."""

    kind: str
    name: str | None
    user_id: str | None
    scope: str
    is_admin: bool
    projects: list[RoleIn]


def get(tx: Tx) -> Me:
    """Return who asks."""
    principal = tx.principal
    kind, scope = principal.kind.value, principal.scope.value
    if principal.user_id is None:
        return Me(kind, principal.name, None, scope, principal.is_trusted, [])
    user = users.get(tx, principal.user_id)
    roles = projects.list_roles(tx, user.id)
    return Me(kind, principal.name, user.id, scope, bool(user.is_admin), roles)
