"""The one place where a user's rights are enforced: its transactions.

Every transaction of a user

* first looks whether its token is still good, in its own snapshot (`rights` remembers that, on
  SQLite): what was revoked before it began cannot be used, on whatever server;
* finds only rows that the user sees (`visibility`);
* may lock a row for a write, and write at all, only with the permission: a use case that forgot
  to ask for one is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from sqlalchemy import and_, bindparam, func, select

from app.db import visibility
from app.db.rights import SECONDS, KnownRights, Rights, remember
from app.db.sql import Compiled, P, Query, Statement, T, Tx, columns
from app.db.tables import ApiToken, Experiment, Membership, Project, User
from app.domain.ids import timestamp_after
from app.domain.permissions import ROLES, Permission, Role
from app.domain.principals import Principal, PrincipalKind
from app.errors import NotFound, NotPermitted, Unauthorized

_token, _user, _experiment = columns(ApiToken), columns(User), columns(Experiment)
_membership, _project = columns(Membership), columns(Project)
_Token = tuple[bool, str | None]
"""Of a token: True if its user administers the service, and when it expires."""
_AUTHENTICATE = Statement[_Token](
    select(_user.is_admin, _token.expires_at)
    .select_from(ApiToken)
    .join(User, _user.id == _token.user_id)
    .where(
        _token.id == bindparam("token"),
        _token.revoked_at.is_(None),
        _user.disabled_at.is_(None),
    )
)
_MEMBERSHIPS = Statement[tuple[str, str]](
    select(_membership.project_id, _membership.role).where(_membership.user_id == bindparam("user"))
)
_COUNT_PROJECTS = Statement[tuple[int]](select(func.count()).select_from(Project))
_PROJECT_OF = Statement[tuple[str]](
    select(_experiment.project_id).where(_experiment.id == bindparam("id"))
)
_NONE = Rights()
_FIX_SNAPSHOT = "SELECT 1 FROM account LIMIT 1"
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


def open_tx(
    cursor: Any, dialect: str, principal: Principal, rights: KnownRights | None = None
) -> Tx:
    """Return the transaction of a principal.

    Args:
        rights: what is remembered of users' rights, on a database that no other process writes.
    """
    kind = Tx if principal.is_trusted else RestrictedTx
    return kind(cursor, dialect, principal, rights)


class RestrictedTx(Tx):
    """The transaction of a user."""

    _is_known = False
    _may_write = False
    _rights = _NONE
    _roles: dict[str, Role | None] | None = None

    def _execute(
        self, statement: Query[..., Any], args: Any, params: Mapping[str, Any]
    ) -> Compiled:
        if args:
            params = statement(*args, **params)
        if self._is_known:
            return self._send(statement, params)
        compiled = self._send_before(statement, params)
        if compiled is None:
            self._authenticate()
            compiled = self._send(statement, params)
        return compiled

    def _send_before(
        self, statement: Query[..., Any], params: Mapping[str, Any]
    ) -> Compiled | None:
        """Send a read before the token is known to be good; None if it is to be sent after that.

        None of it is looked at before the token is judged. Raises Unauthorized.
        """
        compiled = statement.compiled(self.dialect)
        if compiled.writes or compiled.locks or self.principal.kind is PrincipalKind.ANONYMOUS:
            return None
        if self.dialect == "postgresql":
            # One round trip instead of two, for what a user finds who is no administrator.
            check = self._ask(_AUTHENTICATE, {"token": self.principal.token_id})
            if visibility.EXPERIMENT in params:  # its role is asked meanwhile
                self._ask_role(params[visibility.EXPERIMENT], _ROLE_IN_EXPERIMENT)
                return None
            compiled = self._send(statement, params)
            self._rights = self._judge(check.fetchone())
            self._is_known = True
            return compiled if self._rights.everywhere is None else None
        shared = self._known_rights
        known = None if shared is None else shared.known
        rights = None if known is None else self._remembered(known)
        if shared is None or rights is None:
            return None
        self._rights = rights
        compiled = self._send(statement, params)  # which fixes the snapshot
        self._is_known = shared.known is known
        if self._is_known:
            return compiled
        self._roles = None
        return None

    def _send(self, statement: Query[..., Any], params: Mapping[str, Any]) -> Compiled:
        rights = self._rights
        if rights.everywhere is None:
            sees_all = rights.sees_all
            of_one = not sees_all and visibility.EXPERIMENT in params and self._is_of_one(params)
            compiled = statement.limited(self.dialect, sees_all, of_one)
            if compiled.is_limited:
                params = {**params, visibility.USER: self.principal.user_id or ""}
        else:
            compiled = statement.compiled(self.dialect)
        if compiled.writes:
            self._admit_write()
            self._begin_write(compiled)
        self._cursor.execute(compiled.text, compiled.bind(params))
        return compiled

    def first(self, statement: Query[P, T], *args: P.args, **params: P.kwargs) -> T | None:
        """Return the first row that the user sees; one that is locked, only for who may write."""
        compiled = self._execute(statement, args, params)
        row = self._cursor.fetchone()
        if row is None or statement.make is None:
            return cast("T | None", row)  # for some columns the use case has asked before
        made = statement.make(row)
        return None if compiled.locks and not self._is_writable(made) else made

    def all(self, statement: Query[P, T], *args: P.args, **params: P.kwargs) -> list[T]:
        """Return every row that the user sees; those that are locked, only for who may write."""
        compiled = self._execute(statement, args, params)
        rows: list[Any] = self._cursor.fetchall()
        if statement.make is None:
            return rows
        made = list(map(statement.make, rows))
        return list(filter(self._is_writable, made)) if compiled.locks else made

    def many(self, statement: Query[..., Any], rows: Iterable[Mapping[str, Any]]) -> None:
        """Execute a write for each of `rows`."""
        self._authenticate()
        self._admit_write()
        super().many(statement, rows)

    def require(self, permission: Permission, experiment_id: str) -> bool:
        """Raise NotPermitted unless the user has a permission there; NotFound where it is not.

        Return True if the experiment was looked for: for an administrator it is not.
        """
        self._require(permission, experiment_id, _ROLE_IN_EXPERIMENT)
        return self._rights.everywhere is None

    def require_project(self, permission: Permission, project_id: str) -> None:
        """Raise NotPermitted unless the user has a permission there; NotFound where it is not."""
        self._require(permission, project_id, _ROLE_IN_PROJECT)

    def permissions(self, project_ids: Sequence[str]) -> list[frozenset[Permission]]:
        """Return what the user may do in each of these projects: nothing in one of others."""
        self._authenticate()
        if self._rights.everywhere is None and self._rights.roles is None:
            self._roles = {**(self._roles or {}), **self._read_roles()}
        roles = [self._get_role(id, _ROLE_IN_PROJECT) for id in project_ids]
        return [frozenset() if role is None else ROLES[role] for role in roles]

    def require_admin(self) -> None:
        """Raise NotPermitted unless the user administers the service."""
        self._authenticate()
        role = self._rights.everywhere
        if role is None:
            raise NotPermitted("Only an administrator of the service may do this.")
        self._check(role, Permission.ADMINISTER)

    def allow_own(self) -> None:
        """Let the user write what is its own: its tokens."""
        self._authenticate()
        self._may_write = True

    def _authenticate(self) -> None:
        if not self._is_known:
            self._rights = self._find_rights()
            self._is_known = True

    def _find_rights(self) -> Rights:
        """Return the user's rights, which may be remembered. Raises Unauthorized."""
        if self.principal.kind is PrincipalKind.ANONYMOUS:
            return _NONE  # who sees nothing
        shared = self._known_rights
        known = None if shared is None else shared.known
        if shared is None or known is None:  # a change is under way, and it is asked meanwhile
            return self._judge(self._read_token())
        rights = self._remembered(known)
        if rights is not None:
            self._cursor.execute(_FIX_SNAPSHOT)
            if shared.known is known:
                return rights
        rights = self._read_rights()
        remember(known, str(self.principal.token_id), rights)
        return rights

    def _remembered(self, known: Mapping[str, Rights]) -> Rights | None:
        """Return what is remembered of the token, if it need not be read again."""
        rights = known.get(str(self.principal.token_id))
        return rights if rights is not None and self.now < rights.until else None

    def _read_token(self) -> _Token | None:
        check = self._ask(_AUTHENTICATE, {"token": self.principal.token_id})
        return cast("_Token | None", check.fetchone())

    def _ask(self, statement: Statement[Any], params: Mapping[str, Any]) -> Any:
        """Ask about rights; return the cursor that has the answer.

        Use cases that share a transaction of PostgreSQL share what they ask in it.
        """
        compiled = statement.compiled(self.dialect)
        if self.dialect == "postgresql":
            return self._cursor.ask(compiled.text, compiled.bind(params))
        return self._cursor.execute(compiled.text, params)

    def _require_good(self, token: _Token | None) -> _Token:
        """Return what is known of a token. Raises Unauthorized if it is revoked or has expired."""
        if token is None or (token[1] is not None and token[1] <= self.now):
            raise Unauthorized("This token was revoked or has expired.")
        return token

    def _judge(self, token: _Token | None) -> Rights:
        """Return the rights of a token, without its roles in projects. Raises Unauthorized."""
        is_admin, _ = self._require_good(token)
        return Rights(self._capped(Role.ADMIN)) if is_admin else _NONE

    def _read_rights(self) -> Rights:
        """Return the user's rights with its roles, to be remembered. Raises Unauthorized."""
        is_admin, expires_at = self._require_good(self._read_token())
        until = timestamp_after(self.now, SECONDS)
        until = min(expires_at or until, until)
        if is_admin:
            return Rights(self._capped(Role.ADMIN), until=until)
        roles = self._read_roles()
        sees_all = self._ask(_COUNT_PROJECTS, {}).fetchone()[0] == len(roles)
        return Rights(None, roles, sees_all, until)

    def _read_roles(self) -> dict[str, Role]:
        memberships = self._ask(_MEMBERSHIPS, {"user": self.principal.user_id})
        return {project: self._capped(Role(role)) for project, role in memberships.fetchall()}

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
        role = self._get_role(id, find)
        if role is None:
            raise NotFound(f"There is nothing with the id {id!a}.")
        self._check(role, permission)

    def _get_role(self, id: str, find: Statement[Any]) -> Role | None:
        """Return the user's role in an experiment or a project; None if it does not see that."""
        roles = self._roles
        if roles is None:
            roles = self._roles = {}
        if id not in roles:
            roles[id] = self._rights.everywhere or self._find_role(id, find)
        return roles[id]

    def _find_role(self, id: str, find: Statement[Any]) -> Role | None:
        roles, projects = self._rights.roles, self._rights.projects
        if roles is not None:
            if find is _ROLE_IN_PROJECT:
                return roles.get(id)
            if id not in projects:
                row = self._ask(_PROJECT_OF, {"id": id}).fetchone()
                if row is None:
                    return None
                remember(projects, id, row[0])
            return roles.get(projects[id])
        row = cast("tuple[str | None] | None", self._ask_role(id, find).fetchone())
        if row is None or row[0] is None:
            return None
        return self._capped(Role(row[0]))

    def _ask_role(self, id: str, find: Statement[Any]) -> Any:
        return self._ask(find, {"id": id, "user": self.principal.user_id})

    def _capped(self, role: Role) -> Role:
        return role.capped(self.principal.scope)

    def _is_of_one(self, params: Mapping[str, Any]) -> bool:
        """Return True if a statement names an experiment that the user sees."""
        id = params[visibility.EXPERIMENT]
        return id is not None and self._get_role(id, _ROLE_IN_EXPERIMENT) is not None

    def _check(self, role: Role, permission: Permission) -> None:
        if not role.may(permission):
            needed = next(other for other in Role if other.may(permission))
            raise NotPermitted(
                f"This needs the role {needed.value!r}; with this token yours is {role.value!r}."
            )
        if permission is not Permission.READ:
            self._may_write = True
