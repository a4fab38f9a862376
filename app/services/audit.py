"""The audit: what users and the operator's token wrote, and what was refused; for administrators.

It is recorded in the transaction of the write: by `perform` of REST and of GraphQL, and for
tracking clients by `services.tracking`, `services.models` and MLflow's routes of tags. What
trainers report, and what the service does by itself, is in the history of each experiment alone,
whose events have an actor too.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Executable, bindparam, delete, insert, select

from app.db.objects import column_names
from app.db.sql import Statement, Tx, columns, select_all, statement
from app.db.tables import AuditEntry
from app.domain.ids import lowest_id, new_id, timestamp_after
from app.domain.principals import PrincipalKind

T = TypeVar("T")

SIGN_IN = "sign_in"
"""The action of a caller that signs in, or sends a wrong token."""
_RECORDED = {PrincipalKind.API_TOKEN, PrincipalKind.USER, PrincipalKind.SERVICE}
_entry = columns(AuditEntry)
_INSERT = Statement[Any](insert(AuditEntry))
_GIVEN: dict[str, Any] = {
    name: bindparam(name) for name in column_names(AuditEntry) if name != "address"
}
_INSERT_DONE = Statement[Any](insert(AuditEntry).values(_GIVEN))
"""Without the address, which only a refused one has: sqlite3 takes long to bind a NULL."""
EXPIRED_AT_ONCE = 5_000


@statement
def _expire(*, before: str) -> Executable:
    old = select(_entry.id).where(_entry.id < before).order_by(_entry.id).limit(EXPIRED_AT_ONCE)
    return delete(AuditEntry).where(_entry.id.in_(old))


FILTERS = ("actor", "action", "target_id", "outcome")
_CONDITIONS: dict[str, Any] = {
    "actor": _entry.actor_name == bindparam("actor"),
    "action": _entry.action == bindparam("action"),
    "target_id": _entry.target_id == bindparam("target_id"),
    "outcome": _entry.outcome == bindparam("outcome"),
    "since": _entry.at >= bindparam("since"),
    "until": _entry.at < bindparam("until"),
    "after": _entry.id < bindparam("after"),
}


@cache  # of at most 128
def _listed(filters: frozenset[str]) -> Statement[AuditEntry]:
    query = select_all(AuditEntry).where(*(_CONDITIONS[name] for name in sorted(filters)))
    return Statement(query.order_by(_entry.id.desc()).limit(bindparam("most")), AuditEntry)


class Action(NamedTuple):
    """An action to record: its name, and its target if that is known beforehand."""

    name: str
    target_id: str | None = None


_IN_GRAPHQL = {"submit_run": "create_run", "verify_checkpoints": "verify_checkpoint"}
"""Operations of REST that GraphQL has under other names."""


@cache
def name_of(operation: str) -> str:
    """Return the action's name of an operation of REST or a mutation: the same for both."""
    name = re.sub("(?<=[a-z])(?=[A-Z])", "_", operation).lower()
    return _IN_GRAPHQL.get(name, name)


def record(tx: Tx, action: Action, made: Mapping[str, Any] | None = None) -> None:
    """Record a write of a user. `made`: what it has made or changed, with its id."""
    principal = tx.principal
    if principal.kind not in _RECORDED:
        return
    made_id = None if made is None else _get_id(made)
    entry = {
        "id": new_id("aud"), "at": tx.now, "actor_kind": principal.kind.value,
        "actor_name": principal.name, "token_id": principal.token_id, "action": action.name,
        "target_id": made_id or action.target_id, "outcome": "done",
    }  # fmt: skip
    tx.before_commit(_write, entry)


def _write(tx: Tx, entries: list[dict[str, Any]]) -> None:
    tx.many(_INSERT_DONE, entries)


_IDS = (
    "id", "delivery_id", "webhook_id", "rule_id", "verification_id", "checkpoint_id", "run_id",
    "experiment_id", "token_id", "user_id", "project_id",
)  # fmt: skip
"""Fields that name what was made, the most particular first: `id` is a row's own, of GraphQL."""


def _get_id(made: Mapping[str, Any]) -> str | None:
    for name in _IDS:
        if made.get(name):
            return str(made[name])
    return None


def with_audit(action: Action, work: Callable[[Tx], T]) -> Callable[[Tx], T]:
    """Return the same work, which is recorded in its transaction."""

    def run(tx: Tx) -> T:
        result = work(tx)
        record(tx, action)
        return result

    return run


def record_sign_in(tx: Tx, user: str, token_id: str) -> None:
    """Record that a user has signed in with OpenID Connect."""
    tx.send(
        _INSERT, id=new_id("aud"), at=tx.now, actor_kind=PrincipalKind.USER.value,
        actor_name=user, token_id=token_id, action=SIGN_IN, target_id=None, outcome="done",
        address=None,
    )  # fmt: skip


def record_failed_sign_in(tx: Tx, address: str) -> None:
    """Record that a token was not right. Whoever calls this bounds how often."""
    tx.run(
        _INSERT, id=new_id("aud"), at=tx.now, actor_kind=PrincipalKind.ANONYMOUS.value,
        actor_name=None, token_id=None, action=SIGN_IN, target_id=None, outcome="refused",
        address=address,
    )  # fmt: skip


def expire(tx: Tx, days: float) -> int:
    """Delete some of the entries that are older; return their number.

    Their ids contain the time of their creation, so entries that stay are not read.
    """
    before = lowest_id("aud", timestamp_after(tx.now, -days * 24 * 3600))
    return tx.run(_expire, before=before)


def list_entries(tx: Tx, filters: Mapping[str, str], most: int) -> list[AuditEntry]:
    """Return the newest entries that match. Raises NotPermitted.

    Args:
        filters: by the names of FILTERS; `since` and `until`, times; `after`, the id of the last
            entry of the page before.
    """
    tx.require_admin()
    return tx.all(_listed(frozenset(filters)), most=most, **filters)
