"""Project, Member, User, ApiToken: who shares what, and how they are let in."""

from functools import partial
from typing import Any

import strawberry

from app.db.sql import Tx, load
from app.domain.permissions import Permission, Role, UserKind
from app.domain.principals import PrincipalKind
from app.domain.quotas import ProjectUse as UseRow
from app.graphql.describe import Info, attribute, each, edge, field, output
from app.graphql.scalars import DateTime, Long
from app.services import projects, quotas
from app.services.expiry import Part
from app.services.projects import Member as MemberRow

strawberry.enum(Role, description="A role in a project; each has more permissions.")
strawberry.enum(Permission, description="A permission in a project, or for the whole service.")
strawberry.enum(Part, name="RetentionPart", description="A part of a run that retention removes.")
strawberry.enum(UserKind, description="The kind of a user.")
strawberry.enum(PrincipalKind, description="The kind of a principal.")


@output
class Actor:
    """On whose behalf something was done."""

    kind: PrincipalKind = attribute("Kind of principal.")
    name: str | None = attribute("Name of the user, or id of the run.")


@output
class AuditEntry:
    """One write of a user or of the operator's token, or one sign-in that was refused."""

    id: strawberry.ID = attribute("Its id: `after` of the next page.")
    at: DateTime = attribute("Time.")
    actor_kind: PrincipalKind = attribute("Kind of the principal that acted.")
    actor_name: str | None = attribute("Name of the user.")
    token_id: strawberry.ID | None = attribute("The token that was used.")
    action: str = attribute("Name of the operation, or `sign_in`.")
    target_id: strawberry.ID | None = attribute("Id of its target.")
    outcome: str = attribute("`done` or `refused`.")
    address: str | None = attribute("Address that a refused sign-in came from.")


@output
class Member:
    """A user and its role in a project."""

    user_id: strawberry.ID = attribute("The user.")
    user: str = attribute("Its name.")
    role: Role = attribute("Its role.")
    created_at: DateTime = attribute("Time of joining.")


@output
class ProjectUse:
    """A project's current use of what its quotas limit."""

    runs: int = attribute("Runs of recipes that are under way.")
    gpus: int = attribute("GPUs that they hold.")
    bytes: Long = attribute("Size of its READY checkpoints.")


def _uses(tx: Tx, ids: list[str]) -> list[UseRow]:
    return list(quotas.find_uses(tx, ids).values())


def _permissions(tx: Tx, ids: list[str]) -> list[list[Permission]]:
    return [sorted(held, key=list(Permission).index) for held in tx.permissions(ids)]


def _members(tx: Tx, ids: list[str]) -> list[list[MemberRow]]:
    return list(projects.list_members_of(tx, ids).values())


@output
class Project:
    """The project of a team: its experiments, and who may do what with them."""

    id: strawberry.ID = attribute("Its id.")
    name: str = attribute("Its name, which never changes.")
    description: str | None = attribute("Purpose.")
    created_at: DateTime = attribute("Time of creation.")
    max_runs: int | None = attribute("Runs that may be under way at a time; null: any number.")
    max_gpus: int | None = attribute("GPUs that its runs may hold together; null: all.")
    max_bytes: Long | None = attribute(
        "Once its checkpoints take so many bytes, no further run starts; null: never."
    )
    logs_days: float | None = attribute(
        "Days after a run's end for which its log is kept; null: as the service is set."
    )
    points_days: float | None = attribute("The same of all of its points, which are thinned then.")
    curves_days: float | None = attribute(
        "The same of any points: then the latest values alone are kept."
    )
    release_verified_hours: float | None = attribute(
        "The longest time since a release was found to be whole."
    )

    @field
    def release_metrics(self) -> list[str] | None:
        """Bounds that its releases must meet, besides those of the service."""
        stored: Any = self.release_metrics
        bounds: list[str] | None = load(stored) if stored else None
        return bounds

    @field
    def release_approval(self) -> bool | None:
        """True if another maintainer must have approved a release."""
        stored: Any = self.release_approval
        return None if stored is None else bool(stored)

    @edge
    async def use(self, info: Info) -> ProjectUse:
        """Its current use of what these limit."""
        use: ProjectUse = await each(self, partial(_load_uses, info))
        return use

    @edge
    async def permissions(self, info: Info) -> list[Permission]:
        """Your permissions in it, by your role and the scope of your token."""
        permissions: list[Permission] = await each(self, partial(_load_permissions, info))
        return permissions

    @edge
    async def members(self, info: Info) -> list[Member]:
        """Its members, by name."""
        load = partial(_load_members, info)
        members: list[Member] = await each(self, load)
        return members


async def _load_uses(info: Info, rows: list[Project]) -> list[UseRow]:
    return await info.context.load("uses", [row.id for row in rows], _uses)


async def _load_permissions(info: Info, rows: list[Project]) -> list[list[Permission]]:
    return await info.context.load("permissions", [row.id for row in rows], _permissions)


async def _load_members(info: Info, rows: list[Project]) -> list[list[MemberRow]]:
    return await info.context.load("members", [row.id for row in rows], _members)


@output
class User:
    """A person or a service that holds tokens."""

    id: strawberry.ID = attribute("Its id.")
    name: str = attribute("Its name, which never changes.")
    kind: UserKind = attribute("Person or service.")
    email: str | None = attribute("Its address.")
    is_admin: bool = attribute("It may do everything in every project.")
    created_at: DateTime = attribute("Time of creation.")
    disabled_at: DateTime | None = attribute("Time at which it was disabled.")


@output
class ApiToken:
    """A token of a user, without the token itself."""

    id: strawberry.ID = attribute("Its id.")
    user_id: strawberry.ID = attribute("The user.")
    user: str = attribute("Its name.")
    name: str | None = attribute("Purpose of the token.")
    scope: Role = attribute("The highest role that it may act in.")
    created_at: DateTime = attribute("Time of creation.")
    expires_at: DateTime | None = attribute("Time at which it expires.")
    revoked_at: DateTime | None = attribute("Time at which it was revoked.")
    last_used_at: DateTime | None = attribute("Time of its last use, to a few minutes.")


@output
class Removable:
    """The logs, points or curves of a project's runs that a rule would remove now."""

    part: Part = attribute("Logs, points (which are thinned) or curves.")
    days: float | None = attribute("The rule; null: it is kept for ever.")
    runs: int = attribute("Number of runs.")
    size_bytes: Long = attribute("Of `train.log` on the disk, or of the runs' points as stored.")
    oldest_end: DateTime | None = attribute("The earliest end of these runs.")
    more: bool = attribute("These are the first runs, and not all.")


@output
class RoleInProject:
    """A project and a role in it."""

    project_id: strawberry.ID = attribute("The project.")
    project: str = attribute("Its name.")
    role: Role = attribute("The role.")


@output
class Viewer:
    """The principal of this request."""

    kind: PrincipalKind = attribute("Kind of principal.")
    name: str | None = attribute("Name of the user.")
    user_id: strawberry.ID | None = attribute("The user.")
    scope: Role = attribute("The highest role that its token may act in.")
    is_admin: bool = attribute("It may do everything in every project.")
    projects: list[RoleInProject] = attribute("Its roles.")
