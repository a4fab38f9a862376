"""Sign-ins with OpenID Connect: a person of the provider becomes a user, with a session's token.

A user is matched by issuer and subject and by nothing else: names and addresses can be given to
somebody else, or be chosen by a person itself.
"""

import logging

from sqlalchemy import Executable

from app.db.sql import Tx, columns, query, select_all
from app.db.tables import User
from app.domain.permissions import UserKind
from app.domain.single_sign_on import GroupRoles, Identity
from app.domain.team import MemberRequest, UserRequest, UserUpdate
from app.errors import Busy, Unauthorized
from app.services import api_tokens, projects, users

log = logging.getLogger(__name__)
_user = columns(User)


@query(User)
def _by_subject(*, issuer: str, subject: str) -> Executable:
    return select_all(User).where(_user.issuer == issuer, _user.subject == subject)


def sign_in(tx: Tx, identity: Identity, groups: GroupRoles, secret: str) -> api_tokens.Token:
    """Begin the session of a person, who is made a user the first time.

    Roles in projects that `groups` names become those of the person's groups. Raises Unauthorized
    for who is disabled, or new and in no group that has a role.

    Args:
        secret: the token of the session, of which nothing but its digest is stored.
    """
    user = tx.first(_by_subject, issuer=identity.issuer, subject=identity.subject)
    if user is None:
        if not groups.admits(identity.groups):
            raise Unauthorized("None of your groups has a role here; ask the operator for one.")
        user = _create(tx, identity)
    if user.disabled_at is not None:
        raise Unauthorized(f"User {user.name!r} is disabled.")
    user = users.update(tx, user.id, _changes(user, identity, groups))
    _set_roles(tx, user, identity, groups)
    return api_tokens.create_session(tx, user, secret)


def _changes(user: User, identity: Identity, groups: GroupRoles) -> UserUpdate:
    """Return what the provider says otherwise than what is known of a user."""
    changes: dict[str, object] = {"email": identity.email}
    if groups.admins:
        changes["is_admin"] = not groups.admins.isdisjoint(identity.groups)
    return UserUpdate.model_validate(changes)


def _create(tx: Tx, identity: Identity) -> User:
    # Two first sign-ins at a time would choose the same name.
    if not tx.claim("first sign-in"):
        raise Busy("Somebody else signs in at this moment; try again.", retry_after=1)
    name, number = identity.name, 1
    while users.find_by_name(tx, name) is not None:
        number += 1
        name = f"{identity.name}-{number}"
    request = UserRequest(name=name, kind=UserKind.PERSON, email=identity.email)
    return users.create(tx, request, (identity.issuer, identity.subject))


def _set_roles(tx: Tx, user: User, identity: Identity, groups: GroupRoles) -> None:
    held = {role.project_id: role.role for role in projects.list_roles(tx, user.id)}
    for name in groups.projects:
        project = projects.find_by_name(tx, name)
        if project is None:
            log.warning("[groups] names the project %r, which there is not", name)
            continue
        role, before = groups.role_in(name, identity.groups), held.get(project.id)
        if role is None:
            if before is not None:
                projects.remove_member(tx, project.id, user.id)
        elif role != before:
            projects.set_member(tx, project.id, MemberRequest(user=user.name, role=role))
