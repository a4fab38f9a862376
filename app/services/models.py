"""Logged models: what a tracking client says of a model whose files are artifacts."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from sqlalchemy import Executable

from app.db.json_lists import one_of
from app.db.objects import replace
from app.db.rows import LoggedModelChanges
from app.db.sql import Tx, by_id, changing, columns, dump, load, query, select_all
from app.db.tables import LoggedModel
from app.domain.permissions import Permission
from app.domain.tracking import MAX_LINKS
from app.errors import NotFound, RunLimit
from app.services import audit, experiments, labels, runs
from app.services.audit import Action

MAX_METRICS = 1_000
MAX_LISTED = 1_000
STATES = {
    "LOGGED_MODEL_PENDING": "pending",
    "LOGGED_MODEL_READY": "ready",
    "LOGGED_MODEL_UPLOAD_FAILED": "failed",
}

_model = columns(LoggedModel)
_by_id = by_id(LoggedModel)


@query(LoggedModel)
def _lock_query(*, id: str) -> Executable:
    return select_all(LoggedModel).where(_model.id == id).with_for_update()


@query(LoggedModel)
def _of_runs(*, runs: str) -> Executable:
    return (
        select_all(LoggedModel)
        .where(one_of(_model.run_id, runs))
        .order_by(_model.created_at, _model.id)
    )


@query(LoggedModel)
def _of_experiments(*, most: int, experiments: str) -> Executable:
    return (
        select_all(LoggedModel)
        .where(one_of(_model.experiment_id, experiments))
        .order_by(_model.created_at.desc(), _model.id.desc())
        .limit(most)
    )


def create(
    tx: Tx, experiment_id: str, run_id: str | None, name: str, model_type: str | None,
    params: Mapping[str, str], labelled: Mapping[str, str],
) -> LoggedModel:  # fmt: skip
    """Create a model whose files are about to come. Raises NotFound, RunLimit."""
    experiments.get(tx, experiment_id)
    tx.require(Permission.WRITE, experiment_id)
    if run_id is not None:
        runs.get(tx, run_id, experiment_id)
        if len(list_of_runs(tx, [run_id])[run_id]) >= MAX_LINKS:
            raise RunLimit(f"A run may log at most {MAX_LINKS:,} models.")
    model = LoggedModel(
        id=f"m-{secrets.token_hex(16)}", experiment_id=experiment_id, run_id=run_id, name=name,
        model_type=model_type, state="pending", params=dump(dict(params)), metrics="[]",
        created_at=tx.now, updated_at=tx.now,
    )  # fmt: skip
    tx.insert(model)
    labels.set_labels(tx, model.id, labelled)
    audit.record(tx, Action("create_model", model.id))
    _notify(tx, model)
    return model


def get(tx: Tx, model_id: str) -> LoggedModel:
    """Return the model. Raises NotFound."""
    model = tx.first(_by_id, model_id)
    if model is None:
        raise NotFound(f"There is no logged model {model_id!r:.80}.")
    return model


def set_state(tx: Tx, model_id: str, state: str) -> LoggedModel:
    """Record what its client says of a model: ready or failed. Raises NotFound."""
    audit.record(tx, Action("update_model", model_id))
    return _change(tx, _lock(tx, model_id), state=state)


def add_params(tx: Tx, model_id: str, params: Mapping[str, str]) -> LoggedModel:
    """Add parameters to a model. Raises NotFound, RunLimit."""
    model = _lock(tx, model_id)
    merged = load(model.params) | dict(params)
    if len(merged) > MAX_METRICS:
        raise RunLimit(f"A model may have at most {MAX_METRICS:,} parameters.")
    return _change(tx, model, params=dump(merged))


def add_metrics(tx: Tx, model_id: str, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Record metrics of a model; of each key and data set the newest is kept.

    Raises NotFound, RunLimit.
    """
    model = _lock(tx, model_id)
    newest = {_metric_key(metric): metric for metric in load(model.metrics)}
    newest |= {_metric_key(metric): metric for metric in metrics}
    if len(newest) > MAX_METRICS:
        raise RunLimit(f"A model may have at most {MAX_METRICS:,} metrics.")
    _change(tx, model, metrics=dump(list(newest.values())))


def _metric_key(metric: Mapping[str, Any]) -> tuple[Any, ...]:
    return metric["key"], metric.get("dataset_name"), metric.get("dataset_digest")


def list_of_runs(tx: Tx, run_ids: Sequence[str]) -> dict[str, list[LoggedModel]]:
    """Return the models that each of these runs has logged, oldest first."""
    by_run: dict[str, list[LoggedModel]] = {run_id: [] for run_id in run_ids}
    for model in tx.all(_of_runs, runs=dump(list(run_ids))):
        by_run[model.run_id or ""].append(model)
    return by_run


def list_of_experiments(tx: Tx, experiment_ids: Sequence[str]) -> list[LoggedModel]:
    """Return the newest models of these experiments."""
    return tx.all(_of_experiments, experiments=dump(list(experiment_ids)), most=MAX_LISTED)


def _lock(tx: Tx, model_id: str) -> LoggedModel:
    model = tx.first(_lock_query, id=model_id)
    return get(tx, model_id) if model is None else model


def _change(tx: Tx, model: LoggedModel, **changes: Unpack[LoggedModelChanges]) -> LoggedModel:
    changes["updated_at"] = tx.now
    tx.run(changing(LoggedModel, frozenset(changes)), key=model.id, **changes)
    _notify(tx, model)
    return replace(model, **changes)


def _notify(tx: Tx, model: LoggedModel) -> None:
    tx.notify(model.experiment_id, *([model.run_id] if model.run_id else []))
