"""Subscription: what can be watched.

A subscriber holds one flag that a commit sets; it then reads what is new at its own pace, so
a slow one costs no memory and loses nothing. `afterSeq` goes on where a connection broke.
"""

from collections.abc import AsyncIterator
from typing import Annotated

import strawberry

from app.domain.ids import is_id
from app.domain.lifecycle import TERMINAL
from app.errors import NotFound
from app.graphql.describe import Info, output, subscription
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


def checked(id: str, prefix: str) -> None:
    """Raises NotFound for what is no id."""
    if not is_id(id, prefix):
        raise NotFound(f"There is nothing with the id {id!r}.")


def _history(tx: Tx, experiment_id: str, seq: int | None) -> tuple[list[tables.Event], int]:
    """The next events after `seq`, and the last `seq` of the experiment."""
    last = experiments.get(tx, experiment_id).last_seq
    return ([] if seq is None else events.after(tx, experiment_id, seq, BATCH)), last


@output
class Subscription:
    """Everything that can be watched."""

    @subscription
    async def run(self, info: Info, id: Id) -> AsyncIterator[Run]:
        """A run: as it is now, then whenever it changes, until it has ended."""
        db = info.context.db
        checked(id, "run")
        seen: tables.Run | None = None
        with db.changes.subscribe(id) as changed:
            while seen is None or seen.status not in TERMINAL:
                changed.clear()
                run = await db.read(runs.get, id)
                if run != seen:
                    seen = run
                    yield run  # type: ignore[misc]
                else:
                    await changed.wait()

    @subscription
    async def run_events(
        self, info: Info, run_id: Id, after_seq: AfterSeq = None
    ) -> AsyncIterator[Event]:
        """The history of a run as it is written, until it has ended."""
        db = info.context.db
        checked(run_id, "run")
        seq: int | None = after_seq
        with db.changes.subscribe(run_id) as changed:
            while True:
                changed.clear()
                run = await db.read(runs.get, run_id)
                found, last = await db.read(_history, run.experiment_id, seq)
                for event in found:
                    if event.run_id == run_id:
                        yield event  # type: ignore[misc]
                seq = found[-1].seq if found else last if seq is None else seq
                if len(found) < BATCH:
                    if run.status in TERMINAL:
                        return
                    await changed.wait()

    @subscription
    async def experiment_events(
        self, info: Info, experiment_id: Id, after_seq: AfterSeq = None
    ) -> AsyncIterator[Event]:
        """The history of an experiment as it is written."""
        db = info.context.db
        checked(experiment_id, "exp")
        seq: int | None = after_seq
        with db.changes.subscribe(experiment_id) as changed:
            while True:
                changed.clear()
                found, last = await db.read(_history, experiment_id, seq)
                for event in found:
                    yield event  # type: ignore[misc]
                seq = found[-1].seq if found else last if seq is None else seq
                if len(found) < BATCH:
                    await changed.wait()
