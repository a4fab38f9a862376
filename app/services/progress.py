"""What follows from a run's row: how far it is, when it will end, what its overrides did."""

import math
from typing import Any

from app.domain import hyperparams
from app.domain.ids import seconds_between
from app.domain.lifecycle import RunStatus
from app.store.sql import load
from app.store.tables import Run


def overrides(row: Run) -> dict[str, Any]:
    """Per overridden hyperparameter: requested, effective, and whether it was applied."""
    if row.override_hyperparams == "{}":
        return {}
    used = load(row.effective_hyperparams) if row.effective_hyperparams else None
    return {
        each.key: {
            "requested": each.requested,
            "effective": each.effective,
            "applied": each.applied,
        }
        for each in hyperparams.overrides(load(row.override_hyperparams), used)
    }


def progress(row: Run) -> float | None:
    """0 to 1, or None while the total is not known."""
    if row.status == RunStatus.SUCCEEDED:
        return 1.0
    if not row.total_steps:
        return None
    return min(1.0, row.step / row.total_steps)


def eta_seconds(row: Run) -> float | None:
    """Seconds to the last step at the pace of this attempt so far."""
    if row.status != RunStatus.RUNNING or not (row.total_steps and row.heartbeat_at):
        return None
    taken = row.step - row.start_step
    if taken <= 0 or row.launched_at is None:
        return None
    pace = seconds_between(row.launched_at, row.heartbeat_at) / taken
    eta = pace * max(0, row.total_steps - row.step)
    return round(eta, 1) if math.isfinite(eta) else None
