"""Mutations of projects, members, users and tokens."""

from typing import Annotated

import strawberry

from app.db.sql import Tx
from app.domain.permissions import Role, UserKind
from app.domain.team import (
    MemberRequest,
    ProjectRequest,
    ProjectUpdate,
    TokenRequest,
    UserRequest,
    UserUpdate,
    new_token,
)
from app.graphql.describe import Info, attribute, clearable, input, mutation, optional, output
from app.graphql.mutations.payloads import KEY, Payload, Rows, perform, request_of
from app.graphql.scalars import DateTime, Long
from app.graphql.team import ApiToken, Member, Project, User
from app.services import api_tokens, projects, users


@input
class CreateProjectInput:
    """A new project."""

    name: str = attribute("Its name, which never changes.")
    description: str | None = optional("Purpose.")
    idempotency_key: str | None = optional(KEY)


@input
class UpdateProjectInput:
    """A project, and what to change. A field that is left out stays; null removes."""

    project_id: strawberry.ID = attribute("The project.")
    description: str | None = clearable("Purpose.")
    max_runs: int | None = clearable("Runs that may be under way at a time; null: any number.")
    max_gpus: int | None = clearable("GPUs that its runs may hold together; null: all.")
    max_bytes: Long | None = clearable(
        "Once its checkpoints take so many bytes, no further run starts; null: never."
    )
    logs_days: float | None = clearable(
        "Days after a run's end for which its log is kept; null: as the service is set."
    )
    points_days: float | None = clearable("The same of all of its points, which are thinned then.")
    curves_days: float | None = clearable(
        "The same of any points: then the latest values alone are kept."
    )
    release_metrics: list[str] | None = clearable(
        "Bounds such as `val_loss<=2.0` of its releases, besides those of the service."
    )
    release_verified_hours: float | None = clearable(
        "The longest time since a release was found to be whole."
    )
    release_approval: bool | None = clearable(
        "True if another maintainer must have approved a release."
    )
    idempotency_key: str | None = optional(KEY)


@input
class SetMemberInput:
    """The role of a user in a project."""

    project_id: strawberry.ID = attribute("The project.")
    user: str = attribute("Name of the user.")
    role: Role = attribute("VIEWER, MEMBER or MAINTAINER.")
    idempotency_key: str | None = optional(KEY)


@input
class RemoveMemberInput:
    """A user that is to leave a project."""

    project_id: strawberry.ID = attribute("The project.")
    user_id: strawberry.ID = attribute("The user.")
    idempotency_key: str | None = optional(KEY)


@input
class CreateUserInput:
    """A new user or service account."""

    name: str = attribute("Its name, which never changes.")
    kind: UserKind | None = optional("PERSON if left out.")
    email: str | None = optional("Its address.")
    is_admin: bool | None = optional("It may do everything in every project.")
    idempotency_key: str | None = optional(KEY)


@input
class UpdateUserInput:
    """A user, and what to change. A field that is left out stays; null removes."""

    user_id: strawberry.ID = attribute("The user.")
    email: str | None = clearable("Its address.")
    is_admin: bool | None = optional("It may do everything in every project.")
    disabled: bool | None = optional("None of its tokens is good any more.")
    idempotency_key: str | None = optional(KEY)


@input
class CreateTokenInput:
    """A new token."""

    user: str | None = optional("Name of its user; left out: you.")
    name: str | None = optional("Purpose.")
    scope: Role | None = optional("The highest role that it may act in; MEMBER if left out.")
    expires_at: DateTime | None = optional("Time at which it expires; left out: never.")
    idempotency_key: str | None = optional(KEY)


@input
class RevokeTokenInput:
    """A token to revoke."""

    token_id: strawberry.ID = attribute("The token.")
    idempotency_key: str | None = optional(KEY)


@output
class ProjectPayload(Payload):
    """The project."""

    project: Project | None = optional("The project.")


@output
class MemberPayload(Payload):
    """The member."""

    member: Member | None = optional("The user and its role; null once it has left.")


@output
class UserPayload(Payload):
    """The user."""

    user: User | None = optional("The user.")


@output
class CreateTokenPayload(Payload):
    """The new token."""

    api_token: ApiToken | None = optional("The token, without itself.")
    secret: str | None = optional("The token itself, shown once: null in a replay.")


@output
class TokenPayload(Payload):
    """The token."""

    api_token: ApiToken | None = optional("The token, without itself.")


NewProject = Annotated[CreateProjectInput, strawberry.argument(description="The new project.")]
ChangedProject = Annotated[
    UpdateProjectInput, strawberry.argument(description="The project and its changes.")
]
NewRole = Annotated[SetMemberInput, strawberry.argument(description="The user and its role.")]
Leaving = Annotated[RemoveMemberInput, strawberry.argument(description="The user and the project.")]
NewUser = Annotated[CreateUserInput, strawberry.argument(description="The new user.")]
Changed = Annotated[UpdateUserInput, strawberry.argument(description="The user and its changes.")]
NewToken = Annotated[CreateTokenInput, strawberry.argument(description="The new token.")]
Revoked = Annotated[RevokeTokenInput, strawberry.argument(description="The token.")]


@output
class TeamMutations:
    """Mutations of projects, members, users and tokens."""

    @mutation
    async def create_project(self, info: Info, input: NewProject) -> ProjectPayload:
        """Create a project. For administrators."""

        def work(tx: Tx) -> Rows:
            return {"project": projects.create(tx, request_of(ProjectRequest, input))}

        return await perform(info, input, ProjectPayload, work)

    @mutation
    async def update_project(self, info: Info, input: ChangedProject) -> ProjectPayload:
        """Change a project and its quotas. For administrators."""

        def work(tx: Tx) -> Rows:
            request = request_of(ProjectUpdate, input, "project_id")
            return {"project": projects.update(tx, input.project_id, request)}

        return await perform(info, input, ProjectPayload, work)

    @mutation
    async def set_member(self, info: Info, input: NewRole) -> MemberPayload:
        """Give a user a role in a project. For its maintainers."""

        def work(tx: Tx) -> Rows:
            request = request_of(MemberRequest, input, "project_id")
            return {"member": projects.set_member(tx, input.project_id, request)}

        return await perform(info, input, MemberPayload, work)

    @mutation
    async def remove_member(self, info: Info, input: Leaving) -> MemberPayload:
        """Take a user's role in a project away. For its maintainers."""

        def work(tx: Tx) -> Rows:
            projects.remove_member(tx, input.project_id, input.user_id)
            return {}

        return await perform(info, input, MemberPayload, work)

    @mutation
    async def create_user(self, info: Info, input: NewUser) -> UserPayload:
        """Create a user or a service account. For administrators."""

        def work(tx: Tx) -> Rows:
            return {"user": users.create(tx, request_of(UserRequest, input))}

        return await perform(info, input, UserPayload, work)

    @mutation
    async def update_user(self, info: Info, input: Changed) -> UserPayload:
        """Change a user, or disable it. For administrators."""

        def work(tx: Tx) -> Rows:
            request = request_of(UserUpdate, input, "user_id")
            return {"user": users.update(tx, input.user_id, request)}

        payload = await perform(info, input, UserPayload, work)
        info.context.authenticator.forget()
        return payload

    @mutation
    async def create_token(self, info: Info, input: NewToken) -> CreateTokenPayload:
        """Create a token: your own, or as an administrator anybody's."""
        secret = new_token()

        def work(tx: Tx) -> Rows:
            return {"api_token": api_tokens.create(tx, request_of(TokenRequest, input), secret)}

        payload = await perform(info, input, CreateTokenPayload, work)
        if payload.api_token is not None and not payload.replayed:
            payload.secret = secret
        return payload

    @mutation
    async def revoke_token(self, info: Info, input: Revoked) -> TokenPayload:
        """Revoke a token, at once: yours, or as an administrator anybody's."""

        def work(tx: Tx) -> Rows:
            return {"api_token": api_tokens.revoke(tx, input.token_id)}

        payload = await perform(info, input, TokenPayload, work)
        info.context.authenticator.forget()
        return payload
