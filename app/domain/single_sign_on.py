"""Sign-in with OpenID Connect, as far as no network is needed.

    Attempts       one way to the provider and back, bound to the browser by a signed cookie
    Identity       whom the provider has signed in
    GroupRoles     which groups of the provider have which roles, from the table [groups]

Nothing secret is in the cookie: the nonce and the verifier of PKCE are derived from its random
state and the service's secret, so every server of the database can end what another has begun.
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from app.domain.permissions import Role
from app.domain.tokens import secrets_match

ATTEMPT_SECONDS = 600
MAX_ADDRESS = 2_000
"""Characters of the address to return to; of a longer one the start page takes the place."""
_ADDRESS = re.compile(r"/[^\s\\\x00-\x1f\x7f]*")
_PROJECT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.I)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._@+-]+")


class Attempt(NamedTuple):
    """One sign-in that is under way. `to`: the address below the service to return to."""

    state: str
    nonce: str
    verifier: str
    to: str


class Identity(NamedTuple):
    """A person as the provider tells: the issuer and subject are who it is, the rest may change."""

    issuer: str
    subject: str
    name: str
    email: str | None
    groups: frozenset[str]


def return_address(text: str) -> str:
    """Return an address below the service; `/` for whatever else a link may ask for."""
    good = len(text) <= MAX_ADDRESS and _ADDRESS.fullmatch(text) and not text.startswith("//")
    return text if good else "/"


def name_for(claims: Mapping[str, Any]) -> str:
    """Return a name for a new user: what the provider calls it, in characters of our names."""
    for key in ("preferred_username", "email", "sub"):
        value = claims.get(key)
        if isinstance(value, str):
            name = _NOT_IN_NAMES.sub("-", value).lstrip("._@+-")[:90]
            if name:
                return name
    return "user"


class Attempts:
    """Signs and verifies the cookies of sign-ins that are under way."""

    def __init__(self, secret: str, clock: Callable[[], float] = time.time) -> None:
        self._key = hashlib.sha256(f"single sign-on:{secret}".encode()).digest()
        self._clock = clock
        self.name = f"llm_train_oidc_{self._sign('name').hex()[:8]}"

    def begin(self, to: str, *, secure: bool) -> tuple[Attempt, str]:
        """Return a new attempt, and the Set-Cookie header that binds it to the browser.

        Lax, not Strict: the provider's page leads back to this service.
        """
        attempt = self._attempt(secrets.token_urlsafe(24), return_address(to))
        about = [int(self._clock()) + ATTEMPT_SECONDS, attempt.state, attempt.to]
        value = _text(json.dumps(about).encode())
        value = f"{value}.{_text(self._sign(f'attempt:{value}'))}"
        return attempt, f"{self.name}={value}; Max-Age={ATTEMPT_SECONDS}{_end(secure)}"

    def make_expired_cookie(self, *, secure: bool) -> str:
        """Return the Set-Cookie header that removes the cookie."""
        return f"{self.name}=; Max-Age=0{_end(secure)}"

    def find(self, cookies: str, state: str) -> Attempt | None:
        """Return the attempt of a Cookie header if it has this state and is not too old."""
        for cookie in cookies.split(";"):
            name, _, whole = cookie.strip().partition("=")
            value, _, signature = whole.partition(".")
            if name != self.name or not secrets_match(
                signature, _text(self._sign(f"attempt:{value}"))
            ):
                continue
            expiry, own, to = json.loads(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))
            if secrets_match(state, own) and expiry > self._clock():
                return self._attempt(own, to)
        return None

    def _attempt(self, state: str, to: str) -> Attempt:
        nonce, verifier = (_text(self._sign(f"{kind}:{state}")) for kind in ("nonce", "verifier"))
        return Attempt(state, nonce, verifier, to)

    def _sign(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode("utf-8", "replace"), hashlib.sha256)


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _end(secure: bool) -> str:
    return f"; HttpOnly; SameSite=Lax{'; Secure' if secure else ''}"


class GroupRoles(NamedTuple):
    """The roles that members of the provider's groups have here.

    If any group names a project, all its roles come from groups; if any group makes
    administrators, all administrators do. Everything else is managed by hand.
    """

    roles: Mapping[str, Mapping[str, Role]] = {}
    admins: frozenset[str] = frozenset()

    @property
    def projects(self) -> list[str]:
        """Return the names of the projects whose roles come from groups."""
        return sorted({project for roles in self.roles.values() for project in roles})

    def is_empty(self) -> bool:
        """Return True if the operator mapped no group."""
        return not self.roles and not self.admins

    def admits(self, groups: Iterable[str]) -> bool:
        """Return True if one of these groups has a role, or no group was mapped."""
        return self.is_empty() or any(name in self.roles or name in self.admins for name in groups)

    def role_in(self, project: str, groups: Iterable[str]) -> Role | None:
        """Return the highest role that some groups have in a project, or None."""
        held = [self.roles[name][project] for name in groups if project in self.roles.get(name, {})]
        return max(held, key=list(Role).index, default=None)


def parse_groups(table: object) -> GroupRoles:
    """Return what the table [groups] says. Raises ValueError led by the key.

    [groups]
    "ml-platform" = "admin"
    "ml-speech" = { speech = "member", vision = "viewer" }
    """
    if not isinstance(table, dict):
        raise ValueError("groups: must be a table")
    roles: dict[str, dict[str, Role]] = {}
    admins = set()
    for group, grants in table.items():
        if grants == "admin":
            admins.add(group)
        elif isinstance(grants, dict):
            roles[group] = {
                project: _role(f"{group}.{project}", project, role)
                for project, role in grants.items()
            }
        else:
            raise ValueError(f'{group}: must be "admin" or a table such as {{ speech = "member" }}')
    return GroupRoles(roles, frozenset(admins))


def _role(place: str, project: str, role: object) -> Role:
    if not _PROJECT.fullmatch(project):
        raise ValueError(f"{place}: {project!r} is no name of a project")
    if role not in (Role.VIEWER, Role.MEMBER, Role.MAINTAINER):
        raise ValueError(f"{place}: must be viewer, member or maintainer")
    return Role(str(role))
