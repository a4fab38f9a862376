"""Alerts about the values of metrics: which runs are watched, and what was found of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Executable, and_, or_, select

from app.db.sql import Tx, columns, query, select_all
from app.db.tables import Alert, AlertRule, Experiment, Run
from app.domain.alerts import WATCHED, Change
from app.domain.lifecycle import RunStatus
from app.errors import NotFound, RunLimit
from app.services import alerts, events, limits, runs

MAX_RUNS = 10_000

_rule, _run, _experiment = columns(AlertRule), columns(Run), columns(Experiment)
_IS_WATCHED = and_(
    or_(*[_rule.kind == kind.value for kind in sorted(WATCHED)]), _rule.paused_at.is_(None)
)


class WatchedRun(NamedTuple):
    """A run whose metrics are compared with rules."""

    id: str
    project_id: str
    attempt: int
    start_step: int
    heartbeat_at: str | None
    finished_at: str | None


@query(AlertRule)
def _watching() -> Executable:
    return select_all(AlertRule).where(_IS_WATCHED).order_by(_rule.id)


@query(WatchedRun)
def _watched(*, since: str, most: int) -> Executable:
    of_others = {"project_id": _experiment.project_id}
    live = [_run.status == status.value for status in (RunStatus.RUNNING, RunStatus.CANCELLING)]
    return (
        select(*[of_others.get(name, _run.get(name)) for name in WatchedRun._fields])
        .select_from(Run)
        .join(Experiment, _experiment.id == _run.experiment_id)
        .where(
            or_(*live, _run.finished_at >= since),
            _run.heartbeat_at.is_not(None),
            _experiment.project_id.in_(select(_rule.project_id).where(_IS_WATCHED)),
        )
        .order_by(_run.id)
        .limit(most)
    )


def list_watching(tx: Tx) -> list[AlertRule]:
    """Return the rules of all projects that are about the values of metrics."""
    return tx.all(_watching)


def list_watched(tx: Tx, since: str) -> list[WatchedRun]:
    """Return the runs of their projects that are under way, or have ended since."""
    return tx.all(_watched, since=since, most=MAX_RUNS)


def record(tx: Tx, seen: WatchedRun, rule_id: str, changes: Sequence[Change]) -> None:
    """Record that a rule fired or recovered, with events. May be repeated: what is known stays."""
    if (locked := _lock(tx, seen, rule_id)) is None:
        return
    run, rule = locked
    for change in changes:
        known = alerts.find(tx, rule.id, run.id)
        if known is not None and known.attempt == run.attempt and change.step <= (known.step or 0):
            continue  # already handled, by a server that has gone since
        try:
            run = limits.charge(tx, run, limits.ENTRY_BYTES, "/metrics")
        except RunLimit:  # of a metric that goes to and fro for ever
            return
        if change.fired:
            event = alerts.fire(tx, rule, Alert(
                rule_id=rule.id, subject=run.id, experiment_id=run.experiment_id, run_id=run.id,
                attempt=run.attempt, step=change.step, value=change.value, fired_at=tx.now,
                recovered_at=None,
            ), f"It is {change.value:g}.")  # fmt: skip
        else:
            event = alerts.recover(tx, rule, run.id, change.step, change.value)
        _append(tx, run, event)


def is_firing(tx: Tx, seen: WatchedRun, rule_id: str) -> bool:
    """Return True if the alert of a rule about a run has not recovered."""
    known = alerts.find(tx, rule_id, seen.id)
    return known is not None and known.recovered_at is None


def recover(tx: Tx, seen: WatchedRun, rule_id: str, good: Change) -> None:
    """Record that an alert of an earlier attempt, or by another bound, has recovered."""
    if (locked := _lock(tx, seen, rule_id)) is not None:
        run, rule = locked
        _append(tx, run, alerts.recover(tx, rule, run.id, good.step, good.value))


def _lock(tx: Tx, seen: WatchedRun, rule_id: str) -> tuple[Run, AlertRule] | None:
    """Lock a run, and return it and the rule; None if one is deleted, or the attempt is over."""
    try:
        run, rule = runs.lock(tx, seen.id), alerts.get(tx, rule_id)
    except NotFound:
        return None
    return (run, rule) if run.attempt == seen.attempt else None


def _append(tx: Tx, run: Run, event: tuple[str, dict[str, Any]] | None) -> None:
    if event is not None:
        type, data = event
        events.append(tx, run.experiment_id, type, run_id=run.id, **data)
