"""Principals: on whose behalf a request reads and writes.

    guard (token, session) → Principal → every transaction of the request, and its events

TRUSTED principals may do everything they ask for: this machine's user, the API token, the service
itself, and the trainer of one run, whose routes let it reach that run alone. All others are
restricted by `app.db.restricted`.
"""

from dataclasses import dataclass
from enum import StrEnum

from app.domain.permissions import Role


class PrincipalKind(StrEnum):
    """The kind of a principal."""

    LOCAL = "local"  # any caller of a service that asks for no token
    API_TOKEN = "api_token"  # noqa: S105 - LLM_TRAIN_API_TOKEN, an administrator
    USER = "user"
    SERVICE = "service"  # a service account
    RUN = "run"  # the trainer of a run, or its agent
    SUPERVISOR = "supervisor"  # this service
    ANONYMOUS = "anonymous"  # nobody yet


TRUSTED = frozenset(
    {
        PrincipalKind.LOCAL,
        PrincipalKind.API_TOKEN,
        PrincipalKind.RUN,
        PrincipalKind.SUPERVISOR,
    }
)


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller. `name`: a user's name, or a run's id. `scope`: the highest role of its token."""

    kind: PrincipalKind
    name: str | None = None
    user_id: str | None = None
    token_id: str | None = None
    scope: Role = Role.ADMIN

    @property
    def is_trusted(self) -> bool:
        """Return True if nothing is refused to it."""
        return self.kind in TRUSTED

    @property
    def topics(self) -> tuple[str, ...]:
        """Return the topics of changes to its rights."""
        return tuple(filter(None, (self.user_id, self.token_id)))

    @property
    def caller(self) -> str:
        """Return the text that its idempotency keys belong to."""
        return self.user_id or _CALLERS.get(self.kind, self.kind.value)


_CALLERS = {PrincipalKind.API_TOKEN: "api"}

LOCAL = Principal(PrincipalKind.LOCAL)
API_TOKEN = Principal(PrincipalKind.API_TOKEN)
SUPERVISOR = Principal(PrincipalKind.SUPERVISOR)
ANONYMOUS = Principal(PrincipalKind.ANONYMOUS)


def of_run(run_id: str) -> Principal:
    """Return the principal of a run's trainer or agent."""
    return Principal(PrincipalKind.RUN, run_id)
