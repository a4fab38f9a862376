"""What users may do, remembered between transactions, on a database that one process writes.

A transaction may use what is remembered only if its own snapshot holds the same. Hence:

    a write of a table of RIGHTS → `begin_change`: all is forgotten, nothing is remembered
    its COMMIT or ROLLBACK       → `end_change`: from here on it is remembered anew
    a transaction                → takes `known`, fixes its snapshot, and looks whether `known` is
                                   still the same: then no change was committed in between

So what was revoked before a transaction's snapshot is missed by it, as if it had asked. PostgreSQL,
which other servers write as well, is asked by each transaction.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from app.domain.permissions import Role

T = TypeVar("T")

RIGHTS = ("account", "api_token", "membership", "project")
"""Tables by which rights are decided. Of `experiment`, whose project never changes, a deletion."""
_CHANGES = re.compile(
    r"\b(INTO|UPDATE|FROM) (" + "|".join(RIGHTS) + r")\b|DELETE FROM experiment\b",  # noqa: S608
)
REMEMBERED = 10_000
SECONDS = 10.0
"""After this it is read again, as an operator may have changed the file by hand."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What the user of a token may do. `roles`: by project, lowered to the token's scope.

    None, where nothing is remembered. `everywhere`: the role of an administrator. `sees_all`: its
    projects are all there are. `projects`: those of experiments that were asked for. `until`: when
    to read it again.
    """

    everywhere: Role | None = None
    roles: Mapping[str, Role] | None = None
    sees_all: bool = False
    until: str = ""
    projects: dict[str, str] = field(default_factory=dict)


def changes_rights(text: str) -> bool:
    """Return True if a write may change what somebody may do."""
    return _CHANGES.search(text) is not None


class KnownRights:
    """The rights of the tokens that were used. `known` is None while a change is under way."""

    def __init__(self) -> None:
        self.known: dict[str, Rights] | None = {}

    def begin_change(self) -> None:
        """Forget all. For the thread that writes, before the statement."""
        self.known = None

    def end_change(self) -> None:
        """Remember again, once the transaction is over."""
        if self.known is None:
            self.known = {}


def remember(known: dict[str, T], id: str, item: T) -> None:
    """Remember an item, instead of all others where they are many."""
    if len(known) >= REMEMBERED:
        known.clear()
    known[id] = item
