"""The one place where a user's rights are enforced: its transactions.

Every transaction of a user

* first looks whether its token is still good, in its own snapshot (`rights` remembers that): what
  was revoked before it began cannot be used, on whatever server;
* finds only rows that the user sees (`visibility`; what is read by the id of a run is judged here);
* may lock a row for a write, and write at all, only with the permission: a use case that forgot
  to ask for one is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from sqlalchemy import bindparam, func, select

from app.db import visibility
from app.db.rights import SECONDS, Known, KnownRights, Rights, remember
from app.db.sql import Compiled, P, Query, Statement, T, Tx, columns
from app.db.tables import AccessEpoch, ApiToken, Experiment, Membership, Project, User
from app.domain.ids import timestamp_after
from app.domain.permissions import ROLES, Permission, Role
from app.domain.principals import Principal, PrincipalKind
from app.errors import NotFound, NotPermitted, Unauthorized

_token, _user, _experiment = columns(ApiToken), columns(User), columns(Experiment)
_membership, _project = columns(Membership), columns(Project)
_EPOCH = Statement[tuple[str]](select(columns(AccessEpoch).name))
_TOKEN_ROLES = Statement[tuple[Any, ...]](
    select(
        _user.is_admin,
        _token.expires_at,
        _membership.project_id,
        _membership.role,
        select(func.count()).select_from(Project).scalar_subquery(),
        select(columns(AccessEpoch).name).scalar_subquery(),
    )
    .select_from(ApiToken)
    .join(User, _user.id == _token.user_id)
    .outerjoin(Membership, _membership.user_id == _user.id)
    .where(
        _token.id == bindparam("token"),
        _token.revoked_at.is_(None),
        _user.disabled_at.is_(None),
    )
)
"""All that decides what a token may do, read at one instant: a row for each project of its user."""
_PROJECT_OF = Statement[tuple[str]](
    select(_experiment.project_id).where(_experiment.id == bindparam("id"))
)
_NONE = Rights()
_FIX_SNAPSHOT = "SELECT 1 FROM account LIMIT 1"


def open_tx(
    cursor: Any, dialect: str, principal: Principal, rights: KnownRights, is_snapshot: bool = True
) -> Tx:
    """Return the transaction of a principal.

    Args:
        rights: what is remembered of users' rights.
        is_snapshot: all its statements see the same.
    """
    if principal.is_trusted:
        return Tx(cursor, dialect, principal, rights)
    tx = RestrictedTx(cursor, dialect, principal, rights)
    tx.known = rights.known
    tx.is_snapshot = is_snapshot
    return tx


class RestrictedTx(Tx):
    """The transaction of a user; made by `open_tx`."""

    known: Known | None
    """The rights remembered when it began: compared with its snapshot before a row is returned."""
    is_snapshot: bool
    """All its statements see the same; those of PostgreSQL's writes do not (READ COMMITTED)."""
    _epoch: Any
    """The answer that names PostgreSQL's state, once it was asked for by `_recall`."""
    _rights = _NONE
    _is_known = False
    _may_write = False

    def _execute(
        self, statement: Query[..., Any], args: Any, params: Mapping[str, Any]
    ) -> Compiled:
        if args:
            params = statement(*args, **params)
        compiled = sent = statement.compiled(self.dialect)
        known = None
        if not self._is_known:
            # The rights of a read are looked at after it is sent, which saves PostgreSQL a round
            # trip. No row is read before.
            known = None if compiled.writes or compiled.locks else self._recall()
            if known is None:
                self._authenticate()
        if compiled.is_viewed and self._rights.everywhere is None:
            sent = self._limited(statement, params)
            if sent.is_limited:
                params = {**params, visibility.USER: self.principal.user_id or ""}
        elif compiled.writes:
            self._admit_write()
            self._begin_write(compiled)
        self._cursor.execute(sent.text, sent.bind(params))  # which fixes the snapshot
        if known is not None:
            if self.dialect == "postgresql":
                self._cursor.wait()  # the epoch's answer has come before: one wait for both
            self._is_known = self._is_so(known)
            if not self._is_known:
                self._authenticate()
                return self._execute(statement, (), params)
        return compiled

    def _limited(self, statement: Query[..., Any], params: Mapping[str, Any]) -> Compiled:
        """Return the statement that finds what the user sees."""
        if self._rights.sees_all and self.is_snapshot:
            return statement.limited(self.dialect, True)
        return statement.limited(self.dialect, of_one=self._is_of_one(params))

    def first(self, statement: Query[P, T], *args: P.args, **params: P.kwargs) -> T | None:
        """Return the first row that the user sees; one that is locked, only for who may write."""
        compiled = self._execute(statement, args, params)
        row = self._cursor.fetchone()
        if row is None or statement.make is None:
            return cast("T | None", row)  # for some columns the use case has asked before
        place = compiled.judged_by
        if place is not None and not self._is_allowed(compiled, row[place]):
            return None
        return statement.make(row)

    def all(self, statement: Query[P, T], *args: P.args, **params: P.kwargs) -> list[T]:
        """Return every row that the user sees; those that are locked, only for who may write."""
        compiled = self._execute(statement, args, params)
        rows: list[Any] = self._cursor.fetchall()
        if statement.make is None:
            return rows
        place = compiled.judged_by
        if place is not None:
            rows = [row for row in rows if self._is_allowed(compiled, row[place])]
        return list(map(statement.make, rows))

    def _is_allowed(self, compiled: Compiled, experiment_id: str) -> bool:
        """Return True if the user may have a row of this experiment: a locked one, to change it."""
        if not compiled.locks:
            sees_all = self._rights.sees_all and self.is_snapshot
            return sees_all or self._get_role(experiment_id) is not None
        try:
            self.require(Permission.WRITE, experiment_id)
        except NotFound:
            return False
        return True

    def many(self, statement: Query[..., Any], rows: Iterable[Mapping[str, Any]]) -> None:
        """Execute a write for each of `rows`."""
        self._authenticate()
        self._admit_write()
        super().many(statement, rows)

    def sees_all(self) -> bool:
        """Return True if the user sees every project."""
        self._authenticate()
        return self._rights.everywhere is not None or self._rights.sees_all

    def require(self, permission: Permission, experiment_id: str) -> bool:
        """Raise NotPermitted unless the user has a permission there; NotFound where it is not.

        Return True if the experiment was looked for: for an administrator it is not.
        """
        self._authenticate()
        self._require(permission, experiment_id, self._get_role(experiment_id))
        return self._rights.everywhere is None

    def require_project(self, permission: Permission, project_id: str) -> None:
        """Raise NotPermitted unless the user has a permission there; NotFound where it is not."""
        self._authenticate()
        self._require(permission, project_id, self._get_role_in_project(project_id))

    def permissions(self, project_ids: Sequence[str]) -> list[frozenset[Permission]]:
        """Return what the user may do in each of these projects: nothing in one of others."""
        self._authenticate()
        roles = map(self._get_role_in_project, project_ids)
        return [frozenset() if role is None else ROLES[role] for role in roles]

    def require_admin(self) -> None:
        """Raise NotPermitted unless the user administers the service."""
        self._authenticate()
        role = self._rights.everywhere
        if role is None:
            raise NotPermitted("Only an administrator of the service may do this.")
        self._require(Permission.ADMINISTER, "", role)

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
        known = self._recall()
        if known is not None:
            if self.dialect == "sqlite":
                self._cursor.execute(_FIX_SNAPSHOT)
            if self._is_so(known):
                return self._rights
        if self.principal.kind is PrincipalKind.ANONYMOUS:
            return _NONE  # who sees nothing
        return self._read_rights()

    def _recall(self) -> Known | None:
        """Take the rights that are remembered, if they are; they hold if `_is_so` says so.

        None: they have to be read.
        """
        known = self.known
        rights = None if known is None else known.rights.get(self.principal.token_id)
        if rights is None or self.now >= rights.until:
            return None
        if self.dialect == "postgresql":
            self._epoch = self._ask(_EPOCH, {})  # is on its way, with what is sent next
        self._rights = rights
        return known

    def _is_so(self, known: Known) -> bool:
        """Return True if the snapshot, which is fixed by now, has the state that is remembered."""
        if self.dialect == "postgresql":
            epoch = self._epoch.fetchone()
            return epoch is not None and epoch[0] == known.epoch
        return self._known_rights.known is known

    def _ask(self, statement: Statement[Any], params: Mapping[str, Any]) -> Any:
        """Ask about rights; return the cursor that has the answer.

        Use cases that share a transaction of PostgreSQL share what they ask in it.
        """
        compiled = statement.compiled(self.dialect)
        if self.dialect == "postgresql":
            return self._cursor.ask(compiled.text, compiled.bind(params))
        return self._cursor.execute(compiled.text, params)

    def _read_rights(self) -> Rights:
        """Return the user's rights as they are, and remember them. Raises Unauthorized."""
        rows = self._ask(_TOKEN_ROLES, {"token": self.principal.token_id}).fetchall()
        if not rows or (rows[0][1] is not None and rows[0][1] <= self.now):
            raise Unauthorized("This token was revoked or has expired.")
        is_admin, expires_at, _, _, projects, epoch = rows[0]
        until = timestamp_after(self.now, SECONDS)
        until = min(expires_at or until, until)
        if is_admin:
            rights = Rights(self._capped(Role.ADMIN), until=until)
        else:
            roles = {row[2]: self._capped(Role(row[3])) for row in rows if row[2] is not None}
            rights = Rights(None, roles, len(roles) == projects, until)
        known = self.known
        if self.dialect == "postgresql":
            known = self._known_rights.of(epoch)
        if known is not None:
            remember(known.rights, self.principal.token_id, rights)
        return rights

    def _admit_write(self) -> None:
        if not self._may_write:
            raise NotPermitted("This needs the role `member` in a project, or a higher one.")

    def _require(self, permission: Permission, id: str, role: Role | None) -> None:
        if role is None:
            raise NotFound(f"There is nothing with the id {id!a}.")
        if not role.may(permission):
            needed = next(other for other in Role if other.may(permission))
            raise NotPermitted(
                f"This needs the role {needed.value!r}; with this token yours is {role.value!r}."
            )
        if permission is not Permission.READ:
            self._may_write = True

    def _get_role(self, experiment_id: str) -> Role | None:
        """Return the user's role in an experiment; None if it does not see that."""
        rights = self._rights
        if rights.everywhere is not None:
            return rights.everywhere
        project = rights.projects.get(experiment_id)
        if project is None:
            row = self._ask(_PROJECT_OF, {"id": experiment_id}).fetchone()
            if row is None:
                return None
            project = row[0]
            remember(rights.projects, experiment_id, project)
        return rights.roles.get(project)

    def _get_role_in_project(self, project_id: str) -> Role | None:
        """Return the user's role in a project; None if it does not see that."""
        return self._rights.everywhere or self._rights.roles.get(project_id)

    def _capped(self, role: Role) -> Role:
        return role.capped(self.principal.scope)

    def _is_of_one(self, params: Mapping[str, Any]) -> bool | None:
        """Return True if the user sees the experiment that a statement names; None without one."""
        id = params.get(visibility.EXPERIMENT)
        return None if id is None else self._get_role(id) is not None
