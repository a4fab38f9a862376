"""The one place where a user's rights are enforced: its transactions.

Every transaction of a user

* first looks whether its token is still good, in its own snapshot: what was revoked before it
  began cannot be used, on whatever server;
* finds only rows that the user sees (`visibility`);
* may lock a row for a write, and write at all, only with the permission: a use case that forgot
  to ask for one is refused.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from sqlalchemy import and_, bindparam, select

from app.db import visibility
from app.db.sql import P, Query, Statement, T, Tx, columns
from app.db.tables import ApiToken, Experiment, Membership, Project, User
from app.domain.permissions import Permission, Role
from app.domain.principals import ANONYMOUS, Principal
from app.errors import NotFound, NotPermitted, Unauthorized

_token, _user, _experiment = columns(ApiToken), columns(User), columns(Experiment)
_membership, _project = columns(Membership), columns(Project)
_AUTHENTICATE = Statement[tuple[bool, str | None]](
    select(_user.is_admin, _token.expires_at)
    .select_from(ApiToken)
    .join(User, _user.id == _token.user_id)
    .where(
        _token.id == bindparam("token"),
        _token.revoked_at.is_(None),
        _user.disabled_at.is_(None),
    )
)
_of_user = _membership.user_id == bindparam("user")
_ROLE_IN_EXPERIMENT = Statement[tuple[str | None]](
    select(_membership.role)
    .select_from(Experiment)
    .outerjoin(Membership, and_(_membership.project_id == _experiment.project_id, _of_user))
    .where(_experiment.id == bindparam("id"))
)
_ROLE_IN_PROJECT = Statement[tuple[str | None]](
    select(_membership.role)
    .select_from(Project)
    .outerjoin(Membership, and_(_membership.project_id == _project.id, _of_user))
    .where(_project.id == bindparam("id"))
)


def open_tx(cursor: Any, dialect: str, principal: Principal) -> Tx:
    """Return the transaction of a principal."""
    kind = Tx if principal.is_trusted else RestrictedTx
    return kind(cursor, dialect, principal)


class RestrictedTx(Tx):
    """The transaction of a user."""

    def __init__(self, cursor: Any, dialect: str, principal: Principal) -> None:
        super().__init__(cursor, dialect, principal)
        self._is_known = False
        # The role of an administrator, in every project.
        self._everywhere: Role | None = None
        self._roles: dict[str, Role | None] = {}
        self._may_write = False

    def _execute(self, statement: Query[..., Any], args: Any, params: Mapping[str, Any]) -> None:
        self._authenticate()
        whole = statement.compiled(self.dialect)
        if whole.writes:
            self._admit_write()
        if whole.writes or whole.locks or self._everywhere is not None:
            super()._execute(statement, args, params)
            return
        compiled = statement.limited(self.dialect)
        user = {visibility.USER: self.principal.user_id or ""}
        bound = compiled.bind({**statement(*args, **params), **user})
        self._cursor.execute(compiled.text, bound)

    def first(self, statement: Query[P, T], *args: P.args, **params: P.kwargs) -> T | None:
        """Return the first row that the user sees; one that is locked, only for who may write."""
        row = super().first(statement, *args, **params)
        if row is None or not statement.compiled(self.dialect).locks or statement.make is None:
            return row  # of a statement for some columns the use case has asked before
        return row if self._is_writable(row) else None

    def all(self, statement: Query[P, T], *args: P.args, **params: P.kwargs) -> list[T]:
        """Return every row that the user sees; those that are locked, only for who may write."""
        rows = super().all(statement, *args, **params)
        if not statement.compiled(self.dialect).locks or statement.make is None:
            return rows
        return [row for row in rows if self._is_writable(row)]

    def many(self, statement: Query[..., Any], rows: Iterable[Mapping[str, Any]]) -> None:
        """Execute a write for each of `rows`."""
        self._authenticate()
        self._admit_write()
        super().many(statement, rows)

    def require(self, permission: Permission, experiment_id: str) -> None:
        """Raise NotPermitted unless the user has a permission there; NotFound where it is not."""
        self._require(permission, experiment_id, _ROLE_IN_EXPERIMENT)

    def require_project(self, permission: Permission, project_id: str) -> None:
        """Raise NotPermitted unless the user has a permission there; NotFound where it is not."""
        self._require(permission, project_id, _ROLE_IN_PROJECT)

    def require_admin(self) -> None:
        """Raise NotPermitted unless the user administers the service."""
        self._authenticate()
        self._check(self._everywhere or Role.VIEWER, Permission.ADMINISTER)

    def allow_own(self) -> None:
        """Let the user write what is its own: its tokens."""
        self._authenticate()
        self._may_write = True

    def _authenticate(self) -> None:
        if self._is_known:
            return
        self._is_known = True
        if self.principal == ANONYMOUS:
            return  # who sees nothing
        super()._execute(_AUTHENTICATE, (), {"token": self.principal.token_id})
        row = self._cursor.fetchone()
        if row is None or (row[1] is not None and row[1] <= self.now):
            self._is_known = False
            raise Unauthorized("This token was revoked or has expired.")
        if row[0]:
            self._everywhere = Role.ADMIN.capped(self.principal.scope)

    def _admit_write(self) -> None:
        if not self._may_write:
            raise NotPermitted("This needs the role `member` in a project, or a higher one.")

    def _is_writable(self, row: Any) -> bool:
        """Return True if the user may change a row; False if it does not see it."""
        experiment_id = getattr(row, "experiment_id", None) or row.id
        try:
            self.require(Permission.WRITE, experiment_id)
        except NotFound:
            return False
        return True

    def _require(self, permission: Permission, id: str, find: Statement[Any]) -> None:
        self._authenticate()
        if id not in self._roles:
            self._roles[id] = self._everywhere or self._find_role(id, find)
        role = self._roles[id]
        if role is None:
            raise NotFound(f"There is nothing with the id {id!a}.")
        self._check(role, permission)

    def _find_role(self, id: str, find: Statement[Any]) -> Role | None:
        super()._execute(find, (), {"id": id, "user": self.principal.user_id})
        row = cast("tuple[str | None] | None", self._cursor.fetchone())
        if row is None or row[0] is None:
            return None
        return Role(row[0]).capped(self.principal.scope)

    def _check(self, role: Role, permission: Permission) -> None:
        if not role.may(permission):
            raise NotPermitted(
                f"The role {role.value!r} lacks the permission `{permission.value}`."
            )
        if permission is not Permission.READ:
            self._may_write = True
