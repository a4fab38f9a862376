"""Roles in a project and the permissions of each. The one table of them is `ROLES`.

A user has a role in each project that it is a member of; an administrator has every right in every
project. A token has a scope, the highest role that it may act in.
"""

from enum import StrEnum

DEFAULT_PROJECT = "prj_00000000000000000000000000"
"""The project of whatever names none, and of everything that was there before projects were."""


class UserKind(StrEnum):
    """The kind of a user."""

    PERSON = "person"
    SERVICE = "service"


class Permission(StrEnum):
    """A permission that a request needs in its project."""

    READ = "read"
    # Experiments, runs, candidates: the daily work.
    WRITE = "write"
    # Releases, deletion, webhooks, members: what others rely on, or cannot get back.
    MAINTAIN = "maintain"
    # Projects, users, tokens: the service itself.
    ADMINISTER = "administer"


class Role(StrEnum):
    """A set of permissions, each role with those of the one before it."""

    VIEWER = "viewer"
    MEMBER = "member"
    MAINTAINER = "maintainer"
    ADMIN = "admin"

    def may(self, permission: Permission) -> bool:
        """Return True if this role has a permission."""
        return permission in ROLES[self]

    def capped(self, scope: "Role") -> "Role":
        """Return the lower of this role and a token's scope."""
        return min(self, scope, key=list(Role).index)


ROLES: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({Permission.READ}),
    Role.MEMBER: frozenset({Permission.READ, Permission.WRITE}),
    Role.MAINTAINER: frozenset({Permission.READ, Permission.WRITE, Permission.MAINTAIN}),
    Role.ADMIN: frozenset(Permission),
}
