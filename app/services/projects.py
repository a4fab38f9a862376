"""Projects, and the roles that users have in them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Executable, delete, func, select

from app.db.changes import SUPERVISOR
from app.db.json_lists import one_of
from app.db.objects import replace
from app.db.sql import Tx, by_id, changing, columns, dump, load, query, select_all, statement
from app.db.tables import Experiment, Membership, Project, User
from app.domain.gate import Bound, Gate
from app.domain.ids import new_id
from app.domain.permissions import DEFAULT_PROJECT, Permission, Role
from app.domain.team import MAX_PROJECTS, MemberRequest, ProjectRequest, ProjectUpdate
from app.errors import Conflict, InvalidInput, NameTaken, NotFound
from app.services import users

_experiment = columns(Experiment)
_project, _member, _user = columns(Project), columns(Membership), columns(User)
_BY_ID = by_id(Project)


@query(Project)
def _by_name(*, name: str) -> Executable:
    return select_all(Project).where(_project.name == name)


@query(Project)
def _all() -> Executable:
    return select_all(Project).order_by(_project.name)


@query(tuple[str | None, float | None, bool | None])
def _gate(*, experiment: str) -> Executable:
    own = _project.release_metrics, _project.release_verified_hours, _project.release_approval
    return (
        select(*own)
        .select_from(Experiment)
        .join(Project, _project.id == _experiment.project_id)
        .where(_experiment.id == experiment)
    )


@query(tuple[int])
def _count() -> Executable:
    return select(func.count()).select_from(Project)


@statement
def _delete_member(*, project: str, user: str) -> Executable:
    return delete(Membership).where(_member.project_id == project, _member.user_id == user)


@query(tuple[str, str, str, str, str])
def _members(*, projects: str) -> Executable:
    return (
        select(_project.id, _user.id, _user.name, _member.role, _member.created_at)
        .select_from(Project)
        .join(Membership, _member.project_id == _project.id)
        .join(User, _user.id == _member.user_id)
        .where(one_of(_project.id, projects))
        .order_by(_user.name)
    )


@query(tuple[str, str, str])
def _roles_of(*, user: str) -> Executable:
    return (
        select(_project.id, _project.name, _member.role)
        .select_from(Membership)
        .join(Project, _project.id == _member.project_id)
        .where(_member.user_id == user)
        .order_by(_project.name)
    )


class Member(NamedTuple):
    """A user and its role in a project."""

    user_id: str
    user: str
    role: str
    created_at: str


class RoleIn(NamedTuple):
    """A project and the role of a user in it."""

    project_id: str
    project: str
    role: str


def create(tx: Tx, request: ProjectRequest) -> Project:
    """Create a project. Raises NotPermitted, NameTaken, Conflict if there are too many."""
    tx.require_admin()
    if tx.first(_by_name, name=request.name) is not None:
        raise NameTaken(f"There is a project {request.name!r}.")
    count = tx.first(_count)
    if count is not None and count[0] >= MAX_PROJECTS:
        raise Conflict(f"There are {MAX_PROJECTS:,} projects.")
    project = Project(
        id=new_id("prj"), name=request.name, description=request.description,
        created_at=tx.now,
    )  # fmt: skip
    tx.insert(project)
    return project


def update(tx: Tx, project_id: str, request: ProjectUpdate) -> Project:
    """Change a project and its quotas. Raises NotPermitted, NotFound.

    What is under way goes on, even if it is more than a new quota allows.
    """
    tx.require_admin()
    project = get(tx, project_id)
    changes: dict[str, Any] = {
        name: value
        for name in request.model_fields_set
        if (value := _encode_column(getattr(request, name))) != getattr(project, name)
    }
    if not changes:
        return project
    tx.run(changing(Project, frozenset(changes)), key=project.id, **changes)
    tx.notify(SUPERVISOR)
    return replace(project, **changes)


def _encode_column(value: Any) -> Any:
    """Return a value as its column has it: a list as JSON."""
    return dump(value) if isinstance(value, list) else value


def find_gate(tx: Tx, experiment_id: str, least: Gate) -> Gate:
    """Return what a release of an experiment needs: what its project wants, and `least`."""
    row = tx.first(_gate, experiment=experiment_id)
    if row is None:
        return least
    bounds = tuple(map(Bound.parse, load(row[0]) if row[0] else ()))
    return least.join(Gate(bounds, row[1], bool(row[2])))


def get(tx: Tx, project_id: str) -> Project:
    """Return a project. Raises NotFound."""
    project = tx.first(_BY_ID, project_id)
    if project is None:
        raise NotFound(f"There is no project {project_id!a}.")
    return project


def find_by_name(tx: Tx, name: str) -> Project | None:
    """Return the project of a name that the principal sees; None if there is none."""
    return tx.first(_by_name, name=name)


def list_all(tx: Tx) -> list[Project]:
    """Return the projects that the principal sees, by name."""
    return tx.all(_all)


def list_members(tx: Tx, project_id: str) -> list[Member]:
    """Return the members of a project by name. Raises NotFound."""
    get(tx, project_id)
    return list_members_of(tx, [project_id])[project_id]


def list_members_of(tx: Tx, project_ids: Sequence[str]) -> dict[str, list[Member]]:
    """Return the members of several projects by name; of one that is not seen, none."""
    members: dict[str, list[Member]] = {id: [] for id in project_ids}
    for project_id, *row in tx.all(_members, projects=dump(project_ids)):
        members[project_id].append(Member(*row))
    return members


def list_roles(tx: Tx, user_id: str) -> list[RoleIn]:
    """Return the role of a user in each of its projects."""
    return [RoleIn(*row) for row in tx.all(_roles_of, user=user_id)]


def set_member(tx: Tx, project_id: str, request: MemberRequest) -> Member:
    """Give a user a role in a project. Raises NotPermitted, NotFound, InvalidInput."""
    tx.require_project(Permission.MAINTAIN, project_id)
    if request.role is Role.ADMIN:
        raise InvalidInput(
            "An administrator is one everywhere: update the user instead.",
            errors=[{"pointer": "/role", "detail": "is no role in a project"}],
        )
    project, user = get(tx, project_id), users.get_by_name(tx, request.user)
    tx.run(_delete_member, project=project.id, user=user.id)
    member = Membership(
        project_id=project.id, user_id=user.id, role=request.role.value, created_at=tx.now
    )
    tx.insert(member)
    tx.notify(user.id)
    return Member(user.id, user.name, request.role.value, tx.now)


def remove_member(tx: Tx, project_id: str, user_id: str) -> None:
    """Take a user's role in a project away. Raises NotPermitted, NotFound.

    The user's open streams are checked again at once.
    """
    tx.require_project(Permission.MAINTAIN, project_id)
    if not tx.run(_delete_member, project=project_id, user=user_id):
        raise NotFound(f"User {user_id!a} is no member of project {project_id!a}.")
    tx.notify(user_id)


def choose_to_read(tx: Tx) -> str:
    """Return the id of the project in which names without a project are looked up."""
    seen = [] if tx.principal.is_trusted else list_all(tx)
    return seen[0].id if len(seen) == 1 else DEFAULT_PROJECT


def choose(tx: Tx, name: str | None) -> str:
    """Return the id of the project that a new experiment belongs to.

    Without a name: the caller's project if there is only one, else the default one.
    Raises NotPermitted, InvalidInput.
    """
    if name is not None:
        project = tx.first(_by_name, name=name)
        if project is None:
            raise InvalidInput(
                f"There is no project {name!r}.",
                errors=[{"pointer": "/project", "detail": "there is none"}],
            )
        project_id = project.id
    else:
        seen = [] if tx.principal.is_trusted else list_all(tx)
        project_id = seen[0].id if len(seen) == 1 else DEFAULT_PROJECT
        if seen and all(project.id != project_id for project in seen):
            raise InvalidInput(
                "Name the project; yours are: " + ", ".join(visible.name for visible in seen) + ".",
                errors=[{"pointer": "/project", "detail": "required: you are in several"}],
            )
    tx.require_project(Permission.WRITE, project_id)
    return project_id
