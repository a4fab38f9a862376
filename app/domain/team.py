"""Requests about projects, their members, users and tokens; and what a token looks like."""

import secrets
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints

from app.domain.gate import Bound
from app.domain.ids import parse_timestamp
from app.domain.permissions import Role, UserKind
from app.domain.requests import Request, Slug, Text

TOKEN_PREFIX = "llmt_"  # noqa: S105 - by which scanners find leaked ones
MAX_USERS, MAX_PROJECTS, MAX_TOKENS = 10_000, 1_000, 100
"""Of a service; of a user, tokens that are good."""
MAX_DAYS = 36_500
"""A hundred years, which is for ever."""

UserName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}$")]
Moment = Annotated[str, BeforeValidator(parse_timestamp)]


def new_token() -> str:
    """Return a new token: 256 random bits.

    Hexadecimal, since W&B's client takes what is before a key's first dash for a server's prefix.
    """
    return TOKEN_PREFIX + secrets.token_hex(32)


class ProjectRequest(Request):
    """Create a project. Its name never changes."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "speech", "description": "Speech models"}]}
    )

    name: Slug
    description: Text | None = None


AtMost = Annotated[int, Field(ge=0, le=2**31 - 1)]
AtMostBytes = Annotated[int, Field(ge=0, le=2**53)]
MAX_BOUNDS = 50


def _check_bound(text: str) -> str:
    Bound.parse(text)
    return text


BoundText = Annotated[str, StringConstraints(max_length=300), AfterValidator(_check_bound)]
Days = Annotated[float, Field(gt=0, le=MAX_DAYS)]


class RetentionChange(Request):
    """Change for how long logs and points are kept. What is left out stays; null removes."""

    logs_days: Days | None = Field(
        default=None,
        description="Days after a run's end for which its log is kept; null: as the service is "
        "set.",
    )
    points_days: Days | None = Field(
        default=None,
        description="Days after a run's end for which all of its points are kept; null: as the "
        "service is set.",
    )
    curves_days: Days | None = Field(
        default=None,
        description="Days after a run's end for which any of its points are kept, and then the "
        "latest values alone; null: as the service is set.",
    )


class ProjectUpdate(RetentionChange):
    """Change a project. What is left out stays; null removes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"max_runs": 8, "max_gpus": 16}]})

    description: Text | None = None
    max_runs: AtMost | None = Field(
        default=None, description="Runs that may be under way at a time; null: any number."
    )
    max_gpus: AtMost | None = Field(
        default=None, description="GPUs that its runs may hold together; null: all."
    )
    max_bytes: AtMostBytes | None = Field(
        default=None,
        description="Once its checkpoints take so many bytes, no further run starts; null: never.",
    )
    release_metrics: Annotated[list[BoundText], Field(max_length=MAX_BOUNDS)] | None = Field(
        default=None,
        description="Bounds such as `val_loss<=2.0` that a checkpoint must meet to become a "
        "release, besides those of the service.",
    )
    release_verified_hours: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        default=None, description="The longest time since its files were last found to be whole."
    )
    release_approval: bool | None = Field(
        default=None, description="True if another maintainer must have marked it as `approved`."
    )


class MemberRequest(Request):
    """Give a user a role in a project, in the place of the one that it has there."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user": "alice", "role": "member"}]})

    user: UserName
    role: Annotated[Role, Field(description="`viewer`, `member` or `maintainer`.")]


class UserRequest(Request):
    """Create a user, or a service account. Its name never changes."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "alice", "email": "alice@example.com"}]}
    )

    name: UserName
    kind: UserKind = UserKind.PERSON
    email: Text | None = None
    is_admin: bool = Field(default=False, description="May do everything in every project.")


class UserUpdate(Request):
    """Change a user. What is left out stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"disabled": True}]})

    email: Text | None = None
    is_admin: bool = Field(default_factory=bool, description="May do everything.")
    disabled: bool = Field(
        default_factory=bool, description="None of its tokens and sessions is good any more."
    )


class TokenRequest(Request):
    """Create a token of a user."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user": "alice", "name": "laptop", "scope": "member"}]}
    )

    user: UserName | None = Field(default=None, description="Left out: whoever asks.")
    name: Text | None = Field(default=None, description="Purpose.")
    scope: Role = Field(default=Role.MEMBER, description="The highest role that it may act in.")
    expires_at: Moment | None = Field(default=None, description="Left out: it does not expire.")
