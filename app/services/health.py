"""Findings of health rules: each recorded once an attempt, with an event."""

import math
from collections.abc import Mapping

from sqlalchemy import Executable, text

from app.db.sql import Tx, columns, query, select_all, statement
from app.db.tables import Checkpoint, HealthFinding, Run
from app.domain.health import Finding, HealthAction, describe_nan, is_watched
from app.domain.points import Column
from app.domain.tracking import wire_number
from app.errors import RunLimit
from app.services import events, limits

_finding = columns(HealthFinding)


@statement
def _add(*, run: str, attempt: int, rule: str, key: str, step: int, action: str) -> Executable:
    return text(
        "INSERT INTO health_finding (run_id, attempt, rule, key, step, action)"
        " VALUES (:run, :attempt, :rule, :key, :step, :action)"
        " ON CONFLICT (run_id, attempt, rule, key) DO NOTHING"
    )


@statement
def _set_action(*, action: str, run: str, attempt: int, rule: str, key: str) -> Executable:
    return text(
        "UPDATE health_finding SET action = :action"
        " WHERE run_id = :run AND attempt = :attempt AND rule = :rule AND key = :key"
    )


@query(HealthFinding)
def _of_run(*, run: str) -> Executable:
    return (
        select_all(HealthFinding)
        .where(_finding.run_id == run)
        .order_by(_finding.attempt, _finding.step, _finding.rule, _finding.key)
    )


def check_finite(tx: Tx, run: Run, batch: Mapping[str, Column]) -> Run:
    """Record the first NaN of each metric in a batch of points; return the run as it is then."""
    for key, column in batch.items():
        if not column.finite and is_watched(key):
            step = next(
                (s for s, v in zip(column.steps, column.values, strict=True) if math.isnan(v)), None
            )
            if step is not None:  # else infinite, as a scaled gradient may be
                run = record(tx, run, describe_nan(key, step))
    return run


def record(tx: Tx, run: Run, finding: Finding) -> Run:
    """Record a finding with an event, unless it is known of this attempt; return the run."""
    added = tx.run(
        _add, run=run.id, attempt=run.attempt, rule=finding.rule.value, key=finding.key,
        step=finding.step, action=HealthAction.EVENT.value,
    )  # fmt: skip
    if added != 1:
        return run
    try:
        run = limits.charge(tx, run, limits.ENTRY_BYTES, "/metrics")
    except RunLimit:  # of thousands of metrics: the finding stands, without an event
        return run
    events.append(
        tx, run.experiment_id, "run.unhealthy", run_id=run.id, rule=finding.rule.value,
        key=finding.key, step=finding.step, value=wire_number(finding.value),
        detail=finding.detail, attempt=run.attempt,
    )  # fmt: skip
    return run


def set_action(tx: Tx, finding: HealthFinding, action: HealthAction) -> None:
    """Record what is done about a finding."""
    tx.run(
        _set_action, run=finding.run_id, attempt=finding.attempt, rule=finding.rule,
        key=finding.key, action=action.value,
    )  # fmt: skip


def list_of_run(tx: Tx, run_id: str) -> list[HealthFinding]:
    """Return what was found of a run, by attempt and step."""
    return tx.all(_of_run, run=run_id)


def wants_retry(tx: Tx, run: Run) -> bool:
    """Return True if the current attempt was stopped to be tried again from before a finding."""
    return any(
        finding.attempt == run.attempt and finding.action == HealthAction.RETRY
        for finding in list_of_run(tx, run.id)
    )


def is_tainted(findings: list[HealthFinding], checkpoint: Checkpoint) -> bool:
    """Return True if a checkpoint was saved at or after what a retry is to avoid."""
    return any(
        finding.action == HealthAction.RETRY
        and finding.attempt == checkpoint.attempt
        and (checkpoint.step or 0) >= finding.step
        for finding in findings
    )
