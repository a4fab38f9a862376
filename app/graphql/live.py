"""Streams of subscriptions: runs that changed, new points, new output.

A subscriber holds one flag (or the ids of what changed) that a commit sets; it then reads what is
new at its own pace, so a slow one costs no memory and loses nothing. Changes within `seconds` come
as one answer.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from app.db import keyset, listing
from app.db.cursors import Order, Window
from app.db.rows import ExperimentRow, RunRow
from app.db.sql import Tx
from app.domain.lifecycle import TERMINAL
from app.domain.points import MAX_STEP
from app.errors import InvalidInput
from app.graphql import limits, logs
from app.graphql.context import Context
from app.graphql.curves import Curve, check_keys, curve
from app.graphql.filters import ExperimentFilter, RunFilter, get_conditions
from app.services import curves, log_streams, metrics, runs
from app.services.log_streams import TextPart

SHORTEST, LONGEST = 0.1, 60.0
NEW_POINTS = 1_000
"""Points of a metric in one answer; the rest follows in the next."""
CHANGING = ("status", "metric", "name", "tags", "search", "active", "archived")
"""Conditions that a run or an experiment may meet today and not tomorrow."""


def check_interval(seconds: float) -> float:
    """Return the seconds between two answers. Raises InvalidInput."""
    if not SHORTEST <= seconds <= LONGEST:
        raise InvalidInput(f"`seconds` must be {SHORTEST:g} to {LONGEST:g}.")
    return seconds


async def watch_runs(
    context: Context, chosen: RunFilter | None, seconds: float
) -> AsyncIterator[list[RunRow]]:
    """Yield the runs that changed and meet the conditions that a run cannot cease to meet.

    So a list by status also gets those which have left it.
    """
    db, wait = context.db, check_interval(seconds)
    filters = {
        name: value for name, value in get_conditions(chosen).items() if name not in CHANGING
    }
    only = set(filters.pop("ids", ()))
    with db.changes.collect("run_") as changed:
        while True:
            await changed.event.wait()
            await asyncio.sleep(wait)
            if changed.take_lost():
                yield await db.scan(_read_newest, filters, sorted(only))
            while ids := changed.take(limits.CHANGED):
                wanted = [id for id in ids if not only or id in only]
                # By their ids they are few, whatever the other conditions.
                if wanted and (rows := await db.read(_read_matching, filters, wanted)):
                    yield rows


def _read_matching(tx: Tx, filters: dict[str, Any], ids: list[str]) -> list[RunRow]:
    window = Window(len(ids))
    return keyset.page(tx, listing.RUNS, filters | {"ids": ids}, Order("created_at"), window).rows


def _read_newest(tx: Tx, filters: dict[str, Any], only: list[str]) -> list[RunRow]:
    """Return the first page of a list: what changed while nobody was told is likely there."""
    window = Window(limits.CHANGED)
    filters = filters | ({"ids": only} if only else {})
    return keyset.page(tx, listing.RUNS, filters, Order("created_at"), window).rows


async def watch_experiments(
    context: Context, chosen: ExperimentFilter | None, seconds: float
) -> AsyncIterator[list[ExperimentRow]]:
    """Yield the experiments whose history went on, by the same rules as `watch_runs`."""
    db, wait = context.db, check_interval(seconds)
    allowed = get_conditions(chosen)
    filters = {name: allowed[name] for name in allowed.keys() - {*CHANGING, "owner"}}
    with db.changes.collect("exp_") as changed:
        while True:
            await changed.event.wait()
            await asyncio.sleep(wait)
            if changed.take_lost():
                yield await db.scan(_read_newest_experiments, filters)
            while ids := changed.take(limits.CHANGED_EXPERIMENTS):
                if rows := await db.read(_read_matching_experiments, filters, ids):
                    yield rows


def _read_matching_experiments(
    tx: Tx, filters: dict[str, Any], ids: list[str]
) -> list[ExperimentRow]:
    window = Window(len(ids))
    by_ids = filters | {"ids": ids}
    return keyset.page(tx, listing.EXPERIMENTS, by_ids, Order("created_at"), window).rows


def _read_newest_experiments(tx: Tx, filters: dict[str, Any]) -> list[ExperimentRow]:
    window = Window(limits.CHANGED_EXPERIMENTS)
    return keyset.page(tx, listing.EXPERIMENTS, filters, Order("created_at"), window).rows


async def watch_points(
    context: Context,
    run_id: str,
    keys: list[str] | None,
    after_step: int | None,
    seconds: float,
) -> AsyncIterator[list[Curve]]:
    """Yield what is new of a run's metrics until it has ended. Raises InvalidInput, NotFound."""
    db, wait = context.db, check_interval(seconds)
    if after_step is not None and not 0 <= after_step <= MAX_STEP:
        raise InvalidInput("`afterStep` must be a step.")
    cursor = _Cursor(run_id, check_keys(keys), after_step)
    with db.changes.subscribe(run_id) as changed:
        while True:
            changed.clear()
            points = await db.scan(cursor.read)
            if points:
                budget = context.for_operation(limits.SECONDS).budget
                try:
                    answer = [curve(series, budget) for series in points]
                finally:
                    budget.release()
                yield answer
            elif cursor.ended:
                return
            elif not points:
                await changed.wait()
            await asyncio.sleep(0 if cursor.more else wait)


class _Cursor:
    """The position of a subscriber in each metric of a run."""

    def __init__(self, run_id: str, keys: tuple[str, ...] | None, after: int | None) -> None:
        self.run_id = run_id
        self.keys = keys
        self.after = after
        self.ended = False
        self.more = False
        self._last: dict[str, int] = {}
        self._attempt: int | None = None

    def read(self, tx: Tx) -> list[curves.Series]:
        """Return the points after those that were read, and remember that they were."""
        run = runs.get(tx, self.run_id)
        self.ended = run.status in TERMINAL
        latest = {row.key: row.step for row in metrics.list_latest(tx, run.id)}
        if self.keys is not None:
            latest = {key: latest[key] for key in self.keys if key in latest}
        if self._attempt is None and self.after is None:
            self._last = dict(latest)
        if self._attempt not in (None, run.attempt):
            # Points past the start of a new attempt are superseded, and its own come again.
            self._last = {key: min(step, run.start_step) for key, step in self._last.items()}
        self._attempt = run.attempt
        behind: dict[int, list[str]] = {}
        for key, step in latest.items():
            last = self._last.get(key, -1 if self.after is None else self.after)
            if step > last:
                behind.setdefault(last, []).append(key)
        self.more = False
        points = []
        for last, keys in sorted(behind.items()):
            window = curves.Window(from_step=last + 1, limit=NEW_POINTS)
            for series in curves.read(tx, [run.id], keys, window):
                if series.steps:
                    points.append(series)
                    self._last[series.key] = series.steps[-1]
                self.more |= series.next_after_step is not None
        return points


async def watch_output(context: Context, run_id: str, offset: int) -> AsyncIterator[TextPart]:
    """Yield a run's log as it grows until it has ended. Raises InvalidInput, NotFound."""
    logs.check_offset(offset)
    await context.db.read(log_streams.get_run, run_id)
    async for part in log_streams.follow_text(
        context.db, run_id, logs.run_dir(context, run_id), offset
    ):
        yield part
