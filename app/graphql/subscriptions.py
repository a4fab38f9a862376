"""Subscription: what can be watched.

A subscriber holds one flag that a commit sets; it then reads what is new at its own pace, so
a slow one costs no memory and loses nothing. `afterSeq` goes on where a connection broke.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Any, NamedTuple

import strawberry

from app.domain.lifecycle import TERMINAL
from app.graphql.describe import Info, attribute, output, subscription
from app.graphql.queries import Id
from app.graphql.scalars import Long
from app.graphql.types import Event, Run
from app.services import events, experiments, runs
from app.store import tables
from app.store.sql import Tx

BATCH = 200

AfterSeq = Annotated[
    Long | None,
    strawberry.argument(
        description="The last `seq` that is already known; left out: only what is to come."
    ),
]


@output
class RunUpdate:
    """How a run is now, and its events since the last update."""

    run: Run = attribute("The run.")
    events: list[Event] = attribute("What happened since the last update, oldest first.")
    seq: Long = attribute("The last event taken into account; `afterSeq` of a reconnect.")


class _Seen(NamedTuple):
    run: tables.Run
    events: list[tables.Event]
    seq: int
    # There are more events than were read.
    more: bool


def _look(tx: Tx, run_id: str, seq: int | None) -> _Seen:
    run = runs.get(tx, run_id)
    if seq is None:
        return _Seen(run, [], experiments.get(tx, run.experiment_id).last_seq, False)
    found = events.after(tx, run.experiment_id, seq, BATCH)
    return _Seen(
        run,
        [event for event in found if event.run_id == run_id],
        found[-1].seq if found else seq,
        len(found) == BATCH,
    )


@output
class Subscription:
    """Everything that can be watched."""

    @subscription
    async def run(self, info: Info, id: Id, after_seq: AfterSeq = None) -> AsyncIterator[RunUpdate]:
        """A run: how it is now, then every change and event, until it has ended."""
        db = info.context.db
        seq: int | None = after_seq
        last: tables.Run | None = None
        with db.changes.subscribe(id) as changed:
            while True:
                changed.clear()
                seen = await db.read(_look, id, seq)
                if seen.events or seen.run != last:
                    yield _update(seen)
                seq, last = seen.seq, seen.run
                if seen.more:
                    continue
                if seen.run.status in TERMINAL:
                    return
                await changed.wait()

    @subscription
    async def experiment_events(
        self, info: Info, experiment_id: Id, after_seq: AfterSeq = None
    ) -> AsyncIterator[Event]:
        """The history of an experiment as it is written."""
        db = info.context.db
        with db.changes.subscribe(experiment_id) as changed:
            experiment = await db.read(experiments.get, experiment_id)
            seq: int = experiment.last_seq if after_seq is None else after_seq
            while True:
                changed.clear()
                found: list[Any] = await db.read(events.after, experiment_id, seq, BATCH)
                for event in found:
                    seq = event.seq
                    yield event
                if len(found) < BATCH:
                    await changed.wait()


def _update(seen: Any) -> RunUpdate:
    return RunUpdate(run=seen.run, events=seen.events, seq=seen.seq)
