"""Rows in MLflow's words: int64 as JSON numbers, NaN and infinities as texts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.db.listing import latest_metrics
from app.db.rows import AnyExperiment, AnyMetricLatest, AnyRun
from app.db.sql import Tx, load
from app.db.tables import LoggedModel, RunLink
from app.domain.artifacts import artifact_root
from app.domain.lifecycle import TERMINAL, Reason, RunStatus, is_external
from app.domain.tracking import NAME_LABEL, as_text, milliseconds, wire_number
from app.services import curves, labels
from app.services.models import STATES

View = dict[str, Any]

MAX_EXACT = 20
"""Metrics of one run that are looked up because they may be infinite."""

STATUS = {
    "queued": "SCHEDULED",
    "starting": "RUNNING",
    "running": "RUNNING",
    "cancelling": "RUNNING",
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "cancelled": "KILLED",
}
_MODEL_STATUS = {state: status for status, state in STATES.items()}


def pairs(values: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return tags or parameters as MLflow lists them."""
    return [{"key": key, "value": as_text(value)} for key, value in values.items()]


def experiment(row: AnyExperiment, labelled: Mapping[str, str], name: str | None = None) -> View:
    """Return an `Experiment`; a caller that knows it by another name gets that."""
    created = milliseconds(row.created_at)
    return {
        "experiment_id": row.id,
        "name": name or row.name,
        "artifact_location": f"mlflow-artifacts:/{row.id}",
        "lifecycle_stage": "active",
        "creation_time": created,
        "last_update_time": created,
        "tags": pairs(labelled),
    }


def run_info(row: AnyRun, labelled: Mapping[str, str]) -> View:
    """Return a `RunInfo`. The status is this service's own."""
    info = {
        "run_id": row.id,
        "run_uuid": row.id,
        "experiment_id": row.experiment_id,
        "run_name": labelled.get(NAME_LABEL) or row.name or row.model,
        "user_id": labelled.get("mlflow.user", ""),
        "status": _status(row),
        "start_time": milliseconds(row.started_at or row.created_at),
        "lifecycle_stage": "active",
        "artifact_uri": f"mlflow-artifacts:/{artifact_root(row.experiment_id, row.id)}",
    }
    if row.finished_at is not None:
        info["end_time"] = milliseconds(row.finished_at)
    return info


def _status(row: AnyRun) -> str:
    """Return the status; that of an external run whose end is told, and not yet recorded."""
    if is_external(row) and row.status not in TERMINAL:
        has_failed = row.termination_reason == Reason.REPORTED_FAILURE
        if has_failed or row.finished:
            if row.status == RunStatus.CANCELLING:
                return "KILLED"
            return "FAILED" if has_failed else "FINISHED"
    return STATUS[row.status]


def params(row: AnyRun) -> dict[str, Any]:
    """Return the parameters of a run: what was requested, and what its trainer uses instead."""
    requested: dict[str, Any] = load(row.hyperparams)
    used: dict[str, Any] = load(row.effective_hyperparams or "{}")
    return requested | used


def metric(row: AnyMetricLatest, exact: Mapping[str, float]) -> View:
    """Return a `Metric`; `exact` holds values that the row cannot."""
    return {
        "key": row.key,
        "value": wire_number(exact.get(row.key, row.value)),
        "step": row.step,
        "timestamp": int((row.wall_time or 0) * 1000),
    }


def _exact(tx: Tx, latest: Iterable[AnyMetricLatest]) -> dict[str, float]:
    """Return infinite values of a run's metrics by key, where an older version wrote NULL."""
    exact: dict[str, float] = {}
    for row in [row for row in latest if row.value is None][:MAX_EXACT]:
        window = curves.Window(row.step, row.step, None, 1)
        for series in curves.read(tx, [row.run_id], [row.key], window):
            exact.update((row.key, value) for value in series.values if math.isinf(value))
    return exact


def runs(tx: Tx, rows: Sequence[AnyRun]) -> list[View]:
    """Return each `Run` with its metrics, parameters, tags, data sets and models."""
    ids = [row.id for row in rows]
    if not ids:
        return []
    newest = latest_metrics(tx, ids)
    labelled, linked = labels.list_labels(tx, ids), labels.list_links(tx, ids)
    return [
        {
            "info": run_info(row, labelled[row.id]),
            "data": {
                "metrics": [metric(metric_row, exact) for metric_row in latest],
                "params": pairs(params(row)),
                "tags": pairs(labelled[row.id]),
            },
            **_links(linked[row.id]),
        }
        for row, latest in zip(rows, newest, strict=True)
        for exact in [_exact(tx, latest)]
    ]


def _links(links: Iterable[RunLink]) -> View:
    linked: dict[str, list[Any]] = {"dataset": [], "model_input": [], "model_output": []}
    for link in links:
        linked[link.kind].append(labels.content_of(link))
    inputs = {"dataset_inputs": linked["dataset"], "model_inputs": linked["model_input"]}
    return {"inputs": inputs, "outputs": {"model_outputs": linked["model_output"]}}


def model(row: LoggedModel, labelled: Mapping[str, str]) -> View:
    """Return a `LoggedModel`."""
    return {
        "info": {
            "model_id": row.id,
            "experiment_id": row.experiment_id,
            "name": row.name,
            "model_type": row.model_type or "",
            "creation_timestamp_ms": milliseconds(row.created_at),
            "last_updated_timestamp_ms": milliseconds(row.updated_at),
            "artifact_uri": f"mlflow-artifacts:/{artifact_root(row.experiment_id, row.id)}",
            "status": _MODEL_STATUS[row.state],
            "source_run_id": row.run_id or "",
            "tags": pairs(labelled),
        },
        "data": {"params": pairs(load(row.params)), "metrics": load(row.metrics)},
    }
