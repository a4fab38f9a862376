"""Alert rules of projects, and what they have found.

    event → `react` (same transaction) → alert and event → webhooks
    points → supervisor.alerts → `metric_alerts.record` → alert and event → webhooks

An alert is on record by rule and subject (a run, or a released checkpoint): so it fires once until
it recovers, whichever server looks, however often.
"""

from functools import cache
from typing import Any

from sqlalchemy import Executable, bindparam, delete, func, select

from app.db.objects import replace
from app.db.sql import Statement, Tx, by_id, changing, columns, query, select_all, statement
from app.db.tables import Alert, AlertRule, Experiment, Run
from app.domain.alerts import (
    FIRES,
    MAX_RULES,
    RECOVERS,
    AlertKind,
    AlertRuleRequest,
    AlertRuleUpdate,
    Direction,
    describe,
)
from app.domain.ids import new_id
from app.domain.permissions import Permission
from app.errors import Conflict, InvalidInput, NotFound
from app.services import projects

FIRED, RECOVERED = "alert.fired", "alert.recovered"
MAX_LISTED = 1_000

_rule, _alert = columns(AlertRule), columns(Alert)
_experiment, _run = columns(Experiment), columns(Run)
_BY_ID = by_id(AlertRule)


@query(AlertRule)
def _all() -> Executable:
    return select_all(AlertRule).order_by(_rule.id)


@query(tuple[int])
def _count(*, project: str) -> Executable:
    return select(func.count()).select_from(AlertRule).where(_rule.project_id == project)


@query(AlertRule)
def _of_experiment(*, experiment: str) -> Executable:
    return (
        select_all(AlertRule)
        .join(Experiment, _experiment.project_id == _rule.project_id)
        .where(_experiment.id == experiment, _rule.paused_at.is_(None))
        .order_by(_rule.id)
    )


@query(Alert)
def _one(*, rule: str, subject: str) -> Executable:
    return select_all(Alert).where(_alert.rule_id == rule, _alert.subject == subject)


@query(tuple[int])
def _attempt(*, run: str) -> Executable:
    return select(_run.attempt).where(_run.id == run)


@statement
def _forget(*, rule: str, subject: str) -> Executable:
    return delete(Alert).where(_alert.rule_id == rule, _alert.subject == subject)


@statement
def _delete_alerts(*, rule: str) -> Executable:
    return delete(Alert).where(_alert.rule_id == rule)


@statement
def _delete(*, rule: str) -> Executable:
    return delete(AlertRule).where(_rule.id == rule)


def create(tx: Tx, request: AlertRuleRequest) -> AlertRule:
    """Create a rule. Raises NotPermitted, InvalidInput, Conflict for too many."""
    _check(request)
    project_id = projects.choose(tx, request.project)
    tx.require_project(Permission.MAINTAIN, project_id)
    count = tx.first(_count, project=project_id)
    if count is not None and count[0] >= MAX_RULES:
        raise Conflict(f"The project has {MAX_RULES} alert rules; delete one first.")
    rule = AlertRule(
        id=new_id("alr"), project_id=project_id, name=request.name, kind=request.kind.value,
        metric=request.metric, direction=request.direction and request.direction.value,
        value=request.value, points=request.points, created_at=tx.now, paused_at=None,
    )  # fmt: skip
    tx.insert(rule)
    return rule


def _check(request: AlertRuleRequest) -> None:
    """Raise InvalidInput for a field that its kind needs and lacks, or does not have."""
    if (fault := request.find_fault()) is not None:
        name, sentence = fault
        raise InvalidInput(sentence, errors=[{"pointer": f"/{name}", "detail": sentence}])


def get(tx: Tx, rule_id: str) -> AlertRule:
    """Return a rule. Raises NotFound."""
    rule = tx.first(_BY_ID, rule_id)
    if rule is None:
        raise NotFound(f"There is no alert rule {rule_id!a}.")
    return rule


def list_rules(tx: Tx) -> list[AlertRule]:
    """Return the rules of every project that the principal sees, oldest first."""
    return tx.all(_all)


def update(tx: Tx, rule_id: str, request: AlertRuleUpdate) -> AlertRule:
    """Change a rule, or pause it or let it go on. Raises NotFound, NotPermitted, InvalidInput."""
    rule = get(tx, rule_id)
    tx.require_project(Permission.MAINTAIN, rule.project_id)
    fields: dict[str, Any] = request.model_dump(exclude_unset=True, exclude_none=True)
    paused = fields.pop("paused", None)
    known = {"metric": rule.metric, "value": rule.value} | fields
    direction = Direction(rule.direction) if rule.direction else None
    _check(AlertRuleRequest(kind=AlertKind(rule.kind), direction=direction, **known))
    if paused is not None:
        fields["paused_at"] = tx.now if paused else None
    if fields:
        tx.run(changing(AlertRule, frozenset(fields)), key=rule.id, **fields)
    return replace(rule, **fields)


def remove(tx: Tx, rule_id: str) -> None:
    """Delete a rule, and what it has found. Raises NotFound, NotPermitted."""
    tx.require_project(Permission.MAINTAIN, get(tx, rule_id).project_id)
    tx.run(_delete_alerts, rule=rule_id)
    tx.run(_delete, rule=rule_id)


_CONDITIONS: dict[str, Any] = {
    "run_id": _alert.run_id == bindparam("run_id"),
    "rule_id": _alert.rule_id == bindparam("rule_id"),
}


@cache
def _listed(filters: frozenset[str], firing: bool) -> Statement[Alert]:
    conditions = [_CONDITIONS[name] for name in sorted(filters)]
    conditions += [_alert.recovered_at.is_(None)] if firing else []
    newest = (_alert.fired_at.desc(), _alert.rule_id, _alert.subject)
    alerts = select_all(Alert).where(*conditions).order_by(*newest)
    return Statement(alerts.limit(bindparam("most")), Alert)


def list_alerts(
    tx: Tx, filters: dict[str, str], firing: bool, most: int = MAX_LISTED
) -> list[Alert]:
    """Return the newest alerts: of a rule or a run, and with `firing` those not recovered."""
    return tx.all(_listed(frozenset(filters), firing), **filters, most=most)


def react(
    tx: Tx, experiment_id: str, type: str, run_id: str | None, data: dict[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    """Record what an event of a run fires or lets recover; return the types and data of events."""
    fires, recovers = FIRES.get(type, frozenset()), RECOVERS.get(type, frozenset())
    if run_id is None or not (fires or recovers):
        return []
    rules = tx.all(_of_experiment, experiment=experiment_id)
    attempt = (tx.first(_attempt, run=run_id) or (0,))[0] if rules else 0
    made: list[tuple[str, dict[str, Any]]] = []
    for rule in rules:
        subject = run_id
        if rule.kind == AlertKind.CHECKPOINT_RELEASED:
            subject = str(data.get("ckpt_path", run_id))
        if rule.kind in recovers:
            event = recover(tx, rule, subject)
        elif rule.kind in fires and _is_about(rule, data):
            alert = Alert(
                rule_id=rule.id, subject=subject, experiment_id=experiment_id, run_id=run_id,
                attempt=attempt, step=data.get("step"),
                value=None, fired_at=tx.now, recovered_at=None,
            )  # fmt: skip
            event = fire(tx, rule, alert, data.get("detail"))
        else:
            continue
        made += [event] if event else []
    return made


def _is_about(rule: AlertRule, data: dict[str, Any]) -> bool:
    """Return False for a rule about NaN if the event is no NaN, or is about another metric."""
    if rule.kind != AlertKind.METRIC_NAN:
        return True
    return data.get("rule") == "nan" and rule.metric in (None, data.get("key"))


def fire(
    tx: Tx, rule: AlertRule, alert: Alert, why: str | None = None
) -> tuple[str, dict[str, Any]] | None:
    """Record an alert, unless it is firing; return the type and data of its event."""
    known = find(tx, rule.id, alert.subject)
    if known is not None and known.recovered_at is None:
        return None
    return FIRED, _put(tx, rule, alert, why)


def recover(
    tx: Tx, rule: AlertRule, subject: str, step: int | None = None, value: float | None = None
) -> tuple[str, dict[str, Any]] | None:
    """Record that an alert has recovered, if it is firing; return its event's type and data."""
    known = find(tx, rule.id, subject)
    if known is None or known.recovered_at is not None:
        return None
    changes: dict[str, Any] = {
        "recovered_at": tx.now,
        "step": known.step if step is None else step,
        "value": value,
    }
    return RECOVERED, _put(tx, rule, replace(known, **changes), "It has recovered.")


def find(tx: Tx, rule_id: str, subject: str) -> Alert | None:
    """Return what a rule has found of a subject."""
    return tx.first(_one, rule=rule_id, subject=subject)


def released_path(alert: Alert) -> str | None:
    """Return the path of the released checkpoint that an alert is about; None for one of a run."""
    return alert.subject if alert.subject != alert.run_id else None


def _put(tx: Tx, rule: AlertRule, alert: Alert, why: str | None) -> dict[str, Any]:
    """Record an alert in the place of its subject's last one; return the data of its event."""
    tx.run(_forget, rule=rule.id, subject=alert.subject)
    tx.insert(alert)
    at = f" at step {alert.step}" if alert.step is not None and rule.metric else ""
    words = describe(AlertKind(rule.kind), rule.direction, rule.metric, rule.value) + at
    name = f"{rule.name}: " if rule.name else ""
    detail = f"{name}{words}." + (f" {why}" if why else "")
    about = {
        "rule_id": rule.id, "rule": rule.name, "kind": rule.kind, "key": rule.metric,
        "step": alert.step, "value": alert.value, "attempt": alert.attempt, "detail": detail,
        "ckpt_path": released_path(alert),
    }  # fmt: skip
    return {key: value for key, value in about.items() if value is not None}
