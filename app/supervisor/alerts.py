"""Rules of projects about the values of metrics: read what is new, and record what they find.

All that is remembered is a cache: after a restart the points are read again, and what is on record
fires no second time.
"""

import time

from app.db.tables import AlertRule
from app.domain.alerts import AlertKind, Change, MetricWatch
from app.domain.ids import timestamp, timestamp_after
from app.errors import NotFound
from app.services import curves, metric_alerts
from app.services.curves import Window
from app.services.metric_alerts import WatchedRun
from app.supervisor.memory import AlertWatches
from app.supervisor.state import SupervisorState

EVERY_SECONDS = 1.0
LOOK_BACK_SECONDS = 3600.0
"""A new leader checks the last points of runs that ended within this time."""
_OVERLAP_SECONDS = 60.0
_PAGE = 5_000
_ABOUT = "alert rules"


async def check_alerts(state: SupervisorState) -> None:
    """Begin to compare what is new of metrics with the rules, unless that is under way."""
    watches = state.alert_watches
    if _ABOUT in state.jobs or time.monotonic() - watches.looked_at < EVERY_SECONDS:
        return
    watches.looked_at = time.monotonic()
    if rules := await state.db.read(metric_alerts.list_watching):
        state.start_job(_ABOUT, look(state, rules))


async def look(state: SupervisorState, rules: list[AlertRule]) -> None:
    """Compare the new points of every watched run with the rules of its project."""
    watches, now = state.alert_watches, timestamp()
    since = watches.since or timestamp_after(now, -LOOK_BACK_SECONDS)
    watched = await state.db.scan(metric_alerts.list_watched, since)
    # All is read again after a failure: what a watch has found may not be on record.
    before, watches.seen = watches.seen, {}
    seen: AlertWatches.Seen = {}
    for run in watched:
        for rule in rules:
            if rule.project_id != run.project_id or (run.finished_at or now) < rule.created_at:
                continue
            # A rule that was changed begins anew.
            key = (run.id, run.attempt, rule.id, rule.value, rule.points)
            watch, told_at = before.get(key) or (_watch(rule), None)
            state_at = f"{run.heartbeat_at} {run.finished_at}"
            if told_at != state_at:
                await _compare(state, run, rule, watch)
                await _recover(state, run, rule, watch)
            seen[key] = watch, state_at
    watches.seen = seen
    watches.since = timestamp_after(now, -_OVERLAP_SECONDS)


def _watch(rule: AlertRule) -> MetricWatch:
    return MetricWatch(AlertKind(rule.kind), rule.direction, rule.value or 0.0, rule.points)


async def _compare(
    state: SupervisorState, run: WatchedRun, rule: AlertRule, watch: MetricWatch
) -> None:
    """Feed a watch with what is new of its metric, and record what the rule finds."""
    while rule.metric is not None:
        window = Window(from_step=watch.next_step, limit=_PAGE)
        try:
            (curve,) = await state.db.scan(curves.read, [run.id], [rule.metric], window)
        except NotFound:
            return  # deleted meanwhile
        changes: list[Change] = []
        for step, value in zip(curve.steps, curve.values, strict=True):
            change = watch.feed(step, value)
            if change is not None and _is_own(run, change):
                changes.append(change)
        if changes:
            await state.db.write(metric_alerts.record, run, rule.id, changes)
        if curve.next_after_step is None:
            return


async def _recover(
    state: SupervisorState, run: WatchedRun, rule: AlertRule, watch: MetricWatch
) -> None:
    """End an alert that this watch has not seen: of an earlier attempt, or by another bound."""
    good = watch.good
    if watch.is_recorded or good is None or not _is_own(run, good):
        return
    if await state.db.read(metric_alerts.is_firing, run, rule.id):
        await state.db.write(metric_alerts.recover, run, rule.id, good)
    watch.is_recorded = True


def _is_own(run: WatchedRun, change: Change) -> bool:
    """Return True unless it is of the run that this one, or its attempt, was resumed from."""
    return change.step > run.start_step or run.start_step == 0
