"""The append-only history of an experiment: one event for every change, seq without gaps.

append    hands an event over → its transaction's end numbers and writes it, with all others

Numbers are given out just before the commit, since that holds the experiment's row until the
events are on disk: every other transaction that adds an event to it waits for so long.
"""

from typing import Any, NamedTuple

from sqlalchemy import Executable, insert, select, update

from app.db.rows import EventRow
from app.db.sql import Statement, Tx, columns, dump, query, select_all
from app.db.tables import Event, Experiment
from app.domain.permissions import Permission
from app.domain.webhooks import EVENT_TYPES
from app.errors import NotFound
from app.services import alerts, deliveries

_experiment = columns(Experiment)
_event = columns(Event)
_INSERT = Statement[Any](insert(Event))


@query(tuple[int])
def _last_seq(*, experiment: str, more: int) -> Executable:
    return (
        update(Experiment)
        .where(_experiment.id == experiment)
        .values(last_seq=_experiment.last_seq + more)
        .returning(_experiment.last_seq)
    )


@query(tuple[str])
def _existing(*, experiment: str) -> Executable:
    return select(_experiment.id).where(_experiment.id == experiment)


@query(EventRow)
def _after(*, experiment: str, after: int, most: int) -> Executable:
    return (
        select_all(Event)
        .where(_event.experiment_id == experiment, _event.seq > after)
        .order_by(_event.seq)
        .limit(most)
    )


@query(EventRow)
def _newest(*, experiment: str, most: int) -> Executable:
    return (
        select_all(Event)
        .where(_event.experiment_id == experiment)
        .order_by(_event.seq.desc())
        .limit(most)
    )


def check_experiment(tx: Tx, experiment_id: str) -> None:
    """Raise NotFound if there is no such experiment, NotPermitted if it may not be written to."""
    is_there = tx.require(Permission.WRITE, experiment_id)
    if not is_there and tx.first(_existing, experiment=experiment_id) is None:
        raise _make_not_found(experiment_id)


def _make_not_found(experiment_id: str) -> NotFound:
    return NotFound(f"There is no experiment {experiment_id}.")


class NewEvent(NamedTuple):
    """An event that has no number yet."""

    experiment_id: str
    type: str
    at: str
    run_id: str | None
    data: dict[str, Any]
    actor_kind: str
    actor_name: str | None


def append(
    tx: Tx, experiment_id: str, type: str, *, run_id: str | None = None, **data: Any
) -> None:
    """Add one event and wake its subscribers.

    The transaction fails with NotFound at its end if there is no such experiment. Raises
    NotPermitted if the principal may not write there.
    """
    tx.require(Permission.WRITE, experiment_id)
    known = {key: value for key, value in data.items() if value is not None}
    actor = tx.principal
    new = NewEvent(experiment_id, type, tx.now, run_id, known, actor.kind.value, actor.name)
    tx.before_commit(_write, new)
    tx.notify(experiment_id)
    if run_id is not None:
        tx.notify(run_id)


def _write(tx: Tx, events: list[NewEvent]) -> None:
    by_experiment: dict[str, list[NewEvent]] = {}
    for event in events:
        by_experiment.setdefault(event.experiment_id, []).append(event)
    # In one order everywhere, so that no two transactions wait for each other.
    for experiment_id, new in sorted(by_experiment.items()):
        new += _alerts(tx, new)
        row = tx.first(_last_seq, experiment=experiment_id, more=len(new))
        if row is None:
            raise _make_not_found(experiment_id)
        numbered = list(enumerate(new, row[0] - len(new) + 1))
        tx.many(_INSERT, [{**e._asdict(), "seq": seq, "data": dump(e.data)} for seq, e in numbered])
        for seq, e in numbered:
            if e.type in EVENT_TYPES:
                deliveries.enqueue(tx, experiment_id, e.type, e.run_id, seq, e.data)


def _alerts(tx: Tx, new: list[NewEvent]) -> list[NewEvent]:
    """Return the events of alerts that new events fire, or let recover."""
    return [
        event._replace(type=type, data=data)
        for event in new
        for type, data in alerts.react(
            tx, event.experiment_id, event.type, event.run_id, event.data
        )
    ]


def list_after(tx: Tx, experiment_id: str, seq: int, most: int) -> list[EventRow]:
    """Return up to `most` events with a greater seq, oldest first."""
    return tx.all(_after, experiment=experiment_id, after=seq, most=most)


def list_newest(tx: Tx, experiment_id: str, most: int) -> list[EventRow]:
    """Return the last `most` events of an experiment, oldest first."""
    return tx.all(_newest, experiment=experiment_id, most=most)[::-1]
