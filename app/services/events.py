"""The append-only history of an experiment: one event for every change, seq without gaps."""

from typing import Any

from sqlalchemy import bindparam, insert, update

from app.db.sql import Statement, Tx, columns, dump, select_all
from app.db.tables import Event, Experiment
from app.domain.webhooks import EVENT_TYPES
from app.errors import NotFound
from app.services import webhooks

_experiment = columns(Experiment)
_event = columns(Event)

_NEXT_SEQ = Statement[tuple[int]](
    update(Experiment)
    .where(_experiment.id == bindparam("experiment"))
    .values(last_seq=_experiment.last_seq + 1)
    .returning(_experiment.last_seq)
)
_INSERT = Statement[Any](insert(Event))
_AFTER = Statement(
    select_all(Event)
    .where(_event.experiment_id == bindparam("experiment"), _event.seq > bindparam("after"))
    .order_by(_event.seq)
    .limit(bindparam("most")),
    Event,
)
_NEWEST = Statement(
    select_all(Event)
    .where(_event.experiment_id == bindparam("experiment"))
    .order_by(_event.seq.desc())
    .limit(bindparam("most")),
    Event,
)


def append(tx: Tx, experiment_id: str, type: str, *, run_id: str | None = None, **data: Any) -> int:
    """Write one event, wake its subscribers and return its `seq`. Raises NotFound."""
    row = tx.first(_NEXT_SEQ, experiment=experiment_id)
    if row is None:
        raise NotFound(f"There is no experiment {experiment_id}.")
    seq = row[0]
    data = {key: value for key, value in data.items() if value is not None}
    tx.run(
        _INSERT,
        experiment_id=experiment_id,
        seq=seq,
        type=type,
        at=tx.now,
        run_id=run_id,
        data=dump(data),
    )
    if type in EVENT_TYPES:
        webhooks.enqueue(tx, experiment_id, type, run_id, seq, data)
    tx.notify(experiment_id)
    if run_id is not None:
        tx.notify(run_id)
    return seq


def after(tx: Tx, experiment_id: str, seq: int, most: int) -> list[Event]:
    """Return up to `most` events with a greater seq, oldest first."""
    return tx.all(_AFTER, experiment=experiment_id, after=seq, most=most)


def newest(tx: Tx, experiment_id: str, most: int) -> list[Event]:
    """Return the last `most` events of an experiment, oldest first."""
    return tx.all(_NEWEST, experiment=experiment_id, most=most)[::-1]
