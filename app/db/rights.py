"""A cache of users' rights, kept between transactions.

A transaction may use the cache only if its own snapshot holds the same. `Known` belongs to one
state of the tables of RIGHTS. On SQLite, which one process writes:

    a write of a table of RIGHTS → `begin_change`: the cache is emptied and stays empty
    its COMMIT or ROLLBACK       → `end_change`: from here on it is filled again
    a transaction                → takes `known`, fixes its snapshot, and checks that `known` is
                                   still the same: then no change was committed in between

On PostgreSQL, which others write as well (psql included), triggers give each state a random name,
the epoch: its one row is read with a transaction's first statement, and must be that of `known`.
No two states have the same name, even when an older one is restored from a backup. Changes wait
for each other on that row, so a transaction that sees one sees all before it.

So rights revoked before a transaction's snapshot are gone for it, as if it had read them itself.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import Connection

from app.domain.permissions import Role

K = TypeVar("K")
T = TypeVar("T")

RIGHTS = ("account", "api_token", "membership", "project")
"""Tables by which rights are decided. Of `experiment`, whose project never changes, a deletion."""
EPOCHS = {
    **dict.fromkeys(RIGHTS, "INSERT OR UPDATE OR DELETE OR TRUNCATE"),
    # Not of `last_used_at`, which is written all the time.
    "api_token": "INSERT OR UPDATE OF user_id, scope, expires_at, revoked_at OR DELETE OR TRUNCATE",
    "experiment": "DELETE OR TRUNCATE",
}
"""What begins a new epoch on PostgreSQL, by table."""
_CHANGES = re.compile(
    r"\b(INTO|UPDATE|FROM) (" + "|".join(RIGHTS) + r")\b(?! SET last_used_at=\S+ WHERE )"  # noqa: S608
    r"|DELETE FROM experiment\b",
)
"""The same on SQLite, by the text of a statement. One that sets `last_used_at` and more is one."""
REMEMBERED = 10_000
SECONDS = 10.0
"""After this it is read again, as an operator may have changed the file by hand."""


@dataclass(frozen=True, slots=True)
class Rights:
    """The rights of a token's user. `roles`: by project, lowered to the token's scope.

    `everywhere`: the role of an administrator. `sees_all`: its projects are all there are.
    `projects`: those of experiments that were asked for. `until`: when to read it again.
    """

    everywhere: Role | None = None
    roles: Mapping[str, Role] = field(default_factory=dict)
    sees_all: bool = False
    until: str = ""
    projects: dict[str, str] = field(default_factory=dict)


def changes_rights(text: str) -> bool:
    """Return True if a write may change what somebody may do."""
    return _CHANGES.search(text) is not None


@dataclass(frozen=True, slots=True)
class Known:
    """The cached rights of one state of the tables, by the ids of tokens.

    `epoch`: the state's name on PostgreSQL.
    """

    epoch: str | None = None
    rights: dict[str | None, Rights] = field(default_factory=dict)


class KnownRights:
    """The current cache. `known` is None while a change is under way."""

    def __init__(self) -> None:
        self.known: Known | None = Known()

    def begin_change(self) -> None:
        """Forget all. For the thread that writes, before the statement."""
        self.known = None

    def end_change(self) -> None:
        """Remember again, once the transaction is over."""
        if self.known is None:
            self.known = Known()

    def of(self, epoch: str | None) -> Known | None:
        """Return what is remembered of an epoch, and no longer of another one; None without one."""
        if epoch is None:
            return None
        known = self.known
        if known is None or known.epoch != epoch:
            known = self.known = Known(epoch)
        return known


def remember(known: dict[K, T], id: K, item: T) -> None:
    """Remember an item, instead of all others where they are many."""
    if len(known) >= REMEMBERED:
        known.clear()
    known[id] = item


def create_triggers(connection: Connection) -> None:
    """Let PostgreSQL name each state of the tables by which rights are decided."""
    if connection.dialect.name == "postgresql":
        for text in _triggers():
            connection.exec_driver_sql(text)


def _triggers() -> Iterator[str]:
    yield (
        "CREATE FUNCTION begin_access_epoch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO access_epoch (id, name) VALUES (1, gen_random_uuid())"
        " ON CONFLICT (id) DO UPDATE SET name = excluded.name; RETURN NULL; END $$"
    )
    for table, changes in EPOCHS.items():
        yield (
            f"CREATE TRIGGER {table}_access AFTER {changes} ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION begin_access_epoch()"
        )
