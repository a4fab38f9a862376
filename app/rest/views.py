"""Rows as the responses of `schemas`, which mypy checks. Stored JSON text is passed on as it is."""

from collections.abc import Iterable

from orjson import Fragment

from app.db.tables import Checkpoint, Event, Experiment, MetricLatest, Run
from app.domain.lifecycle import CheckpointState as State
from app.rest import schemas
from app.services.experiments import Detail
from app.services.progress import eta_seconds, overrides, progress, status_detail
from app.services.runs import Cancelled
from app.services.verification import UNREADABLE, Verified
from app.services.verifications import Progress


def experiment(row: Experiment) -> schemas.ExperimentAnswer:
    """Return `ExperimentAnswer`."""
    return {
        "experiment_id": row.id,
        "name": row.name,
        "task_type": row.task_type,
        "goal": row.goal,
        "version": row.version,
        "base_model": row.base_model,
        "owner": row.owner,
        "param_config": Fragment(row.param_config),
        "tags": Fragment(row.tags),
        "created_at": row.created_at,
    }


def run(row: Run) -> schemas.RunAnswer:
    """Return `RunAnswer`."""
    return {
        "run_id": row.id,
        "experiment_id": row.experiment_id,
        "parent_run_id": row.parent_run_id,
        "root_run_id": row.root_run_id,
        "ckpt_path": row.source_ckpt_path,
        "attempt": row.attempt,
        "status": row.status,
        "status_reason": row.status_reason,
        "status_detail": status_detail(row),
        "created_at": row.created_at,
        "recipe": row.recipe,
        "model": row.model,
        "notes": row.notes,
        "dataset": Fragment(row.dataset),
        "hyperparams": Fragment(row.hyperparams),
        "override_hyperparams": Fragment(row.override_hyperparams),
        "effective_hyperparams": Fragment(row.effective_hyperparams or "null"),
        "overrides": overrides(row),
        "resources": Fragment(row.resources),
    }


def metrics(rows: Iterable[MetricLatest]) -> dict[str, schemas.MetricValue]:
    """Return the latest value of each key, with its step."""
    return {row.key: {"value": row.value, "step": row.step} for row in rows}


def run_summary(row: Run, latest: Iterable[MetricLatest]) -> schemas.RunSummary:
    """Return `RunSummary`."""
    return {
        "run_id": row.id,
        "experiment_id": row.experiment_id,
        "parent_run_id": row.parent_run_id,
        "model": row.model,
        "recipe": row.recipe,
        "status": row.status,
        "status_reason": row.status_reason,
        "status_detail": status_detail(row),
        "attempt": row.attempt,
        "progress": progress(row),
        "step": row.step,
        "total_steps": row.total_steps,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "next_attempt_at": row.next_attempt_at,
        "metrics": metrics(latest),
    }


def run_status(
    row: Run, latest: Iterable[MetricLatest], newest: Checkpoint | None
) -> schemas.RunStatusAnswer:
    """Return `RunStatusAnswer`."""
    return {
        **run_summary(row, latest),
        "eta_seconds": eta_seconds(row),
        "heartbeat_at": row.heartbeat_at,
        "last_progress_at": row.last_progress_at,
        "ckpt_path": newest.ckpt_path if newest else None,
    }


def checkpoint(row: Checkpoint) -> schemas.CheckpointAnswer:
    """Return `CheckpointAnswer`."""
    return {
        "checkpoint_id": row.id,
        "experiment_id": row.experiment_id,
        "run_id": row.run_id,
        "ckpt_path": row.ckpt_path,
        "state": row.state,
        "reason": row.reason,
        "step": row.step,
        "size_bytes": row.size_bytes,
        "sha256": row.sha256,
        "stored_as": row.stored_as_id,
        "tag_type": row.tag_type,
        "release_tag": row.release_tag,
        "metrics": Fragment(row.metrics),
        "marked_at": row.marked_at,
        "saved_at": row.saved_at,
        "created_at": row.created_at,
    }


def verified(results: list[Verified]) -> schemas.VerifyAnswer:
    """Return `VerifyAnswer`."""
    rows = [result.checkpoint for result in results if result.unreadable is None]
    states = [row.state for row in rows]
    return {
        "ready": states.count(State.READY),
        "lost": states.count(State.LOST),
        "checkpoints": [checkpoint(row) for row in rows],
        "unreadable": [
            {"ckpt_path": result.checkpoint.ckpt_path, "reason": result.unreadable.detail}
            for result in results
            if result.unreadable is not None
        ],
    }


def verification(progress: Progress) -> schemas.VerificationAnswer:
    """Return `VerificationAnswer`."""
    row, counts, findings = progress
    return {
        "verification_id": row.id,
        "experiment_id": row.experiment_id,
        "run_id": row.run_id,
        "ckpt_path": row.ckpt_path,
        "total": row.total,
        "verified": sum(counts.values()),
        "ready": counts.get(State.READY, 0),
        "lost": counts.get(State.LOST, 0),
        "unreadable": counts.get(UNREADABLE, 0),
        "findings": [
            {
                "seq": finding.seq,
                "ckpt_path": finding.ckpt_path,
                "outcome": finding.outcome,
                "reason": finding.reason,
                "at": finding.at,
            }
            for finding in findings
        ],
        "created_at": row.created_at,
        "finished_at": row.finished_at,
    }


def surplus(rows: list[Checkpoint]) -> schemas.RetentionAnswer:
    """Return `RetentionAnswer`."""
    return {
        "size_bytes": sum(row.size_bytes or 0 for row in rows),
        "checkpoints": [checkpoint(row) for row in rows],
    }


def cancelled(result: Cancelled) -> schemas.CancelAnswer:
    """Return `CancelAnswer`."""
    return {
        "run_id": result.run.id,
        "status": result.run.status,
        "ckpt_path": result.checkpoint.ckpt_path,
        "checkpoint": checkpoint(result.checkpoint),
    }


def event(row: Event) -> schemas.EventAnswer:
    """Return `EventAnswer`."""
    return {
        "seq": row.seq,
        "type": row.type,
        "at": row.at,
        "run_id": row.run_id,
        "data": Fragment(row.data),
    }


def detail(row: Detail, prefix: str = "") -> schemas.DetailAnswer:
    """Return `DetailAnswer`; `prefix` is the path of the service as its clients see it."""
    path = f"{prefix}/v1/experiments/{row.experiment.id}"
    return {
        "experiment": experiment(row.experiment),
        "totals": row.totals,
        "links": {name: f"{path}/{name}" for name in (*row.totals, "metrics")},
        "runs": [run_summary(each, row.metrics.get(each.id, ())) for each in row.runs],
        "checkpoints": [checkpoint(each) for each in row.checkpoints],
        "events": [event(each) for each in row.events],
    }
