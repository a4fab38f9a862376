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

strawberry.enum(Role, description="What a user may do in a project; each role may more.")
strawberry.enum(Permission, description="What somebody may do in a project, or to the service.")
strawberry.enum(Part, name="RetentionPart", description="What retention removes of a run.")
strawberry.enum(UserKind, description="Whom a user stands for.")
strawberry.enum(PrincipalKind, description="What kind of principal acts.")


@output
class Actor:
    """On whose behalf something was done."""

    kind: PrincipalKind = attribute("What it is.")
    name: str | None = attribute("Name of the user, or id of the run.")


@output
class AuditEntry:
    """One write of a user or of the operator's token, or one sign-in that was refused."""

    id: strawberry.ID = attribute("Its id: `after` of the next page.")
    at: DateTime = attribute("Time.")
    actor_kind: PrincipalKind = attribute("What kind of principal has acted.")
    actor_name: str | None = attribute("Name of the user.")
    token_id: strawberry.ID | None = attribute("The token that was used.")
    action: str = attribute("Name of the operation, or `sign_in`.")
    target_id: strawberry.ID | None = attribute("What it was about.")
    outcome: str = attribute("`done` or `refused`.")
    address: str | None = attribute("Where a refused sign-in came from.")


@output
class Member:
    """A user and its role in a project."""

    user_id: strawberry.ID = attribute("The user.")
    user: str = attribute("Its name.")
    role: Role = attribute("Its role.")
    created_at: DateTime = attribute("Since when.")


@output
class ProjectUse:
    """What a project has of what its quotas limit."""

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
    """What a team shares: experiments, and who may do what with them."""

    id: strawberry.ID = attribute("Its id.")
    name: str = attribute("Its name, which never changes.")
    description: str | None = attribute("What it is for.")
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
        """Whether another maintainer must have approved a release."""
        stored: Any = self.release_approval
        return None if stored is None else bool(stored)

    @edge
    async def use(self, info: Info) -> ProjectUse:
        """What it has now of what these limit."""
        use: ProjectUse = await each(self, partial(_load_uses, info))
        return use

    @edge
    async def permissions(self, info: Info) -> list[Permission]:
        """What you may do in it, by your role and the scope of your token."""
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
    disabled_at: DateTime | None = attribute("When it was disabled.")


@output
class ApiToken:
    """A token of a user, without the token itself."""

    id: strawberry.ID = attribute("Its id.")
    user_id: strawberry.ID = attribute("The user.")
    user: str = attribute("Its name.")
    name: str | None = attribute("What the token is for.")
    scope: Role = attribute("The highest role that it may act in.")
    created_at: DateTime = attribute("Time of creation.")
    expires_at: DateTime | None = attribute("When it expires.")
    revoked_at: DateTime | None = attribute("When it was revoked.")
    last_used_at: DateTime | None = attribute("When it was last used, to some minutes.")


@output
class Removable:
    """What of a project's runs a rule would remove now."""

    part: Part = attribute("Logs, points (which are thinned) or curves.")
    days: float | None = attribute("The rule; null: it is kept for ever.")
    runs: int = attribute("Number of runs.")
    size_bytes: Long = attribute("Of `train.log` on the disk, or of the runs' points as stored.")
    oldest_end: DateTime | None = attribute("When the run of them ended that ended first.")
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

    kind: PrincipalKind = attribute("What it is.")
    name: str | None = attribute("Name of the user.")
    user_id: strawberry.ID | None = attribute("The user.")
    scope: Role = attribute("The highest role that its token may act in.")
    is_admin: bool = attribute("It may do everything in every project.")
    projects: list[RoleInProject] = attribute("Its roles.")
