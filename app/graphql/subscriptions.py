"""Subscription: runs, events, metrics and logs as they change.

A subscriber holds one flag that a commit sets; it then reads what is new at its own pace, so
a slow one costs no memory and loses nothing. `afterSeq` goes on where a connection broke.
"""

from collections.abc import AsyncIterator
from typing import Annotated

import strawberry

from app.db import tables
from app.db.rows import EventRow
from app.db.sql import Tx
from app.domain.filters import MAX_KEYS
from app.domain.ids import is_id
from app.domain.lifecycle import TERMINAL
from app.errors import NotFound
from app.graphql import live
from app.graphql.describe import Info, output, subscription
from app.graphql.filters import ExperimentFilter, RunFilter
from app.graphql.logs import LOG_TAIL
from app.graphql.queries import Id
from app.graphql.scalars import Long
from app.graphql.types import Event, Experiment, Run
from app.graphql.values import LogPart, MetricSeries
from app.services import events, experiments, runs

BATCH = 200

Seconds = Annotated[
    float,
    strawberry.argument(description="Changes within this many seconds come as one answer."),
]

AfterSeq = Annotated[
    Long | None,
    strawberry.argument(description="Last `seq` already received; left out: only future events."),
]


def check_id(id: str, prefix: str) -> None:
    """Check that a text is an id. Raises NotFound."""
    if not is_id(id, prefix):
        raise NotFound(f"There is nothing with the id {id!r}.")


def _read_news(tx: Tx, id: str, seq: int | None) -> tuple[list[EventRow], int, bool]:
    """Return the next events after `seq`, the last `seq`, and True if the run has ended."""
    run = runs.get(tx, id) if is_id(id, "run") else None
    experiment = experiments.get(tx, run.experiment_id if run else id)
    rows = [] if seq is None else events.list_after(tx, experiment.id, seq, BATCH)
    return rows, experiment.last_seq, run is not None and run.status in TERMINAL


async def _watch_history(info: Info, id: str, seq: int | None) -> AsyncIterator[Event]:
    """Yield the events of an experiment or a run after `seq`, or from now on."""
    db = info.context.db
    with db.changes.subscribe(id) as changed:
        while True:
            changed.clear()
            rows, last, over = await db.read(_read_news, id, seq)
            for event in rows:
                if id in (event.run_id, event.experiment_id):
                    yield event  # type: ignore[misc]
            seq = rows[-1].seq if rows else last if seq is None else seq
            if len(rows) < BATCH:
                if over:
                    return
                await changed.wait()


@output
class Subscription:
    """Everything that can be subscribed to."""

    @subscription
    async def run(self, info: Info, id: Id) -> AsyncIterator[Run]:
        """A run: as it is now, then whenever it changes, until it has ended."""
        db = info.context.db
        check_id(id, "run")
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
        check_id(run_id, "run")
        return _watch_history(info, run_id, after_seq)

    @subscription
    async def experiment_events(
        self, info: Info, experiment_id: Id, after_seq: AfterSeq = None
    ) -> AsyncIterator[Event]:
        """The history of an experiment as it is written."""
        check_id(experiment_id, "exp")
        return _watch_history(info, experiment_id, after_seq)

    @subscription
    async def runs_changed(
        self,
        info: Info,
        filter: Annotated[
            RunFilter | None, strawberry.argument(description="Conditions on the runs.")
        ] = None,
        seconds: Seconds = 1.0,
    ) -> AsyncIterator[list[Run]]:
        """Runs that changed, those of a moment together, at most 100 in one answer. Conditions
        that a run may cease to meet (`status`, `metric`) are not applied, so that a list gets
        the runs that leave it, too."""
        return live.watch_runs(info.context, filter, seconds)  # type: ignore[return-value]

    @subscription
    async def experiments_changed(
        self,
        info: Info,
        filter: Annotated[
            ExperimentFilter | None,
            strawberry.argument(description="Conditions on the experiments."),
        ] = None,
        seconds: Seconds = 1.0,
    ) -> AsyncIterator[list[Experiment]]:
        """Experiments whose history went on (a run that changed its status, a checkpoint, an
        edit), those of a moment together, at most 20 in one answer. Conditions that an experiment
        may cease to meet (`tags`, `owner`, `search`, `archived`) are not applied."""
        return live.watch_experiments(info.context, filter, seconds)  # type: ignore[return-value]

    @subscription
    async def run_metrics(
        self,
        info: Info,
        run_id: Id,
        keys: Annotated[
            list[str] | None,
            strawberry.argument(description=f"Metrics, at most {MAX_KEYS}; all if left out."),
        ] = None,
        after_step: Annotated[
            Long | None,
            strawberry.argument(description="Last step already received; left out: only future."),
        ] = None,
        seconds: Seconds = 1.0,
    ) -> AsyncIterator[list[MetricSeries]]:
        """New points of a run's metrics until it has ended. A series replaces everything from its
        first step on: a new attempt may begin before points that were already received."""
        check_id(run_id, "run")
        points = live.watch_points(info.context, run_id, keys, after_step, seconds)
        return points  # type: ignore[return-value]

    @subscription
    async def run_log(
        self,
        info: Info,
        run_id: Id,
        offset: Annotated[
            Long,
            strawberry.argument(
                description="`nextOffset` of the last part received; negative: from the end."
            ),
        ] = LOG_TAIL,
    ) -> AsyncIterator[LogPart]:
        """The output of a run's trainer as it is printed, until the run has ended."""
        check_id(run_id, "run")
        return live.watch_output(info.context, run_id, offset)  # type: ignore[return-value]
