"""Values derived from a run's row: its status in words, its progress, the effect of its overrides.

The pace of an attempt is steps over seconds, summed from report to report. Only seconds measured
by one monotonic clock count: the wall clock may be set while a run trains.
"""

import math
import secrets
import time
from pathlib import Path
from typing import Any

from app.db.rows import AnyRun, AnyRunSummary
from app.db.sql import load
from app.domain import hyperparams
from app.domain.lifecycle import Reason, RunStatus


def status_detail(row: AnyRunSummary) -> str | None:
    """Return why a run is where it is, in one or two sentences.

    Of one that is running: how it began, and what its trainer ignored of the overrides.
    """
    if row.status != RunStatus.RUNNING or row.effective_attempt != row.attempt:
        return row.status_detail
    ignored = hyperparams.explain_ignored(_overrides(row))
    return " ".join(filter(None, (row.status_detail, ignored))) or None


def _overrides(row: AnyRunSummary) -> list[hyperparams.Override]:
    if row.override_hyperparams == "{}":
        return []
    used = load(row.effective_hyperparams) if row.effective_hyperparams else None
    return hyperparams.overrides(load(row.override_hyperparams), used)


def overrides(row: AnyRun) -> dict[str, Any]:
    """Return requested and effective value of each override, and whether it was applied."""
    return {
        override.key: {
            "requested": override.requested,
            "effective": override.effective,
            "applied": override.applied,
        }
        for override in _overrides(row)
    }


def progress(row: AnyRunSummary) -> float | None:
    """Return a number from 0 to 1, or None while the total is not known."""
    if row.status == RunStatus.SUCCEEDED:
        return 1.0
    if not row.total_steps:
        return None
    return min(1.0, row.step / row.total_steps)


def eta_seconds(row: AnyRunSummary) -> float | None:
    """Return the seconds to the last step at the pace of this attempt, or None if not known."""
    if row.status != RunStatus.RUNNING or not row.total_steps or not row.pace_steps:
        return None
    if row.status_reason == Reason.STALLED:
        return None
    eta = row.pace_seconds / row.pace_steps * max(0, row.total_steps - row.step)
    return round(eta, 1) if math.isfinite(eta) else None


def measure_pace(row: AnyRun, step: int) -> dict[str, Any]:
    """Return what a report that takes the run to `step` changes in its pace.

    It is measured from the first step that is reported: what came before it (loading a model, the
    past of a trainer that attached late) took a time that nobody has seen.
    """
    if step <= row.start_step:
        return {}
    clock, now = _read_clock()
    last_clock, _, last = (row.pace_clock or "").rpartition(" ")
    changes: dict[str, Any] = {"pace_clock": f"{clock} {now:.6f}"}
    if last_clock == clock and (seconds := now - float(last)) >= 0:
        changes["pace_steps"] = row.pace_steps + max(0, step - row.step)
        changes["pace_seconds"] = row.pace_seconds + seconds
    return changes


def _read_clock() -> tuple[str, float]:
    """Return the name of this machine's monotonic clock, and what it says."""
    return _CLOCK, time.monotonic()


def _name_clock() -> str:
    """Return a name that two processes share if, and only if, they share the monotonic clock."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/time').stat().st_ino}"
    except OSError:  # not Linux, or an old one: then each process has its own
        return secrets.token_hex(8)


_CLOCK = _name_clock()
