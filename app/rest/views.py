"""Rows as the responses of `schemas`.

A field of a response that is a column of the table is copied by its name (`copier`), JSON columns
as the text they are stored as; only what has another name, or is derived, is written here.
"""

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, TypeVar, cast, get_type_hints

from orjson import Fragment
from sqlmodel import SQLModel

from app.db.listing import LatestValue
from app.db.rows import (
    AnyCheckpoint,
    AnyEvent,
    AnyExperiment,
    AnyRun,
    AnyRunSummary,
)
from app.db.tables import Checkpoint, Experiment, Run
from app.domain.lifecycle import CheckpointState as State
from app.domain.priority import Priority
from app.domain.recipes import Recipe
from app.rest import schemas
from app.services.experiments import Detail
from app.services.progress import eta_seconds, overrides, progress, status_detail
from app.services.runs import Cancelled
from app.services.verification import UNREADABLE, Verified
from app.services.verifications import Progress

AnswerT = TypeVar("AnswerT")


def copier(answer: type[AnswerT], table: type[SQLModel], *derived: str) -> Callable[..., AnswerT]:
    """Return a function that makes this answer of a row of `table` and its derived fields.

    Raises TypeError if a field of the answer is neither a column nor among `derived`.
    """
    hints = get_type_hints(answer, include_extras=True)
    copied = tuple(name for name in hints if name in table.model_fields and name not in derived)
    if missing := cast(Any, answer).__required_keys__ - {*copied, *derived}:
        raise TypeError(f"{answer.__name__}: no column and not derived: {sorted(missing)}")
    # A described field has its type within another `Annotated`.
    json = tuple(
        name
        for name in copied
        if {hints[name], getattr(hints[name], "__origin__", None)} & {*schemas.JSON_TYPES}
    )
    values = attrgetter(*copied)

    def make(row: Any, **made: Any) -> AnswerT:
        made.update(zip(copied, values(row), strict=True))
        for name in json:
            made[name] = Fragment(made[name] or "null")
        return cast(AnswerT, made)

    return make


_DERIVED = ("run_id", "status_detail", "progress", "metrics", "priority")
_experiment = copier(schemas.ExperimentAnswer, Experiment, "experiment_id")
_OF_RUN = ("run_id", "ckpt_path", "status_detail", "overrides", "priority")
_run = copier(schemas.RunAnswer, Run, *_OF_RUN)
_run_detail = copier(
    schemas.RunDetailAnswer, Run, *_OF_RUN,
    "progress", "eta_seconds", "metrics", "newest_ckpt_path",
)  # fmt: skip
_run_summary = copier(schemas.RunSummary, Run, *_DERIVED)
SUMMARY_COLUMNS = (
    *(name for name in schemas.RunSummary.__annotations__ if name in Run.model_fields),
    "override_hyperparams", "effective_hyperparams", "effective_attempt",  # of its status_detail
)  # fmt: skip
"""The columns that `run_summary` reads."""
_run_status = copier(schemas.RunStatusAnswer, Run, *_DERIVED, "eta_seconds", "ckpt_path")
_checkpoint = copier(schemas.CheckpointAnswer, Checkpoint, "checkpoint_id", "stored_as", "healthy")

_PRIORITIES = [priority.value for priority in Priority]
"""By the rank that rows hold."""


def experiment(row: AnyExperiment) -> schemas.ExperimentAnswer:
    """Return `ExperimentAnswer`."""
    return _experiment(row, experiment_id=row.id)


def run(row: AnyRun) -> schemas.RunAnswer:
    """Return `RunAnswer`."""
    return _run(
        row, run_id=row.id, ckpt_path=row.source_ckpt_path, status_detail=status_detail(row),
        overrides=overrides(row), priority=_PRIORITIES[row.priority],
    )  # fmt: skip


def metrics(latest: Iterable[LatestValue]) -> dict[str, schemas.MetricValue]:
    """Return the latest value of each key, with its step. orjson writes an infinite one as null."""
    return {key: {"value": value, "step": step} for _, key, step, value, _ in latest}


def run_summary(row: AnyRunSummary, latest: Iterable[LatestValue]) -> schemas.RunSummary:
    """Return `RunSummary`."""
    return _run_summary(
        row, run_id=row.id, status_detail=status_detail(row), progress=progress(row),
        metrics=metrics(latest), priority=_PRIORITIES[row.priority],
    )  # fmt: skip


def run_status(
    row: AnyRunSummary, latest: Iterable[LatestValue], newest: AnyCheckpoint | None
) -> schemas.RunStatusAnswer:
    """Return `RunStatusAnswer`."""
    return _run_status(
        row, run_id=row.id, status_detail=status_detail(row), progress=progress(row),
        metrics=metrics(latest), priority=_PRIORITIES[row.priority],
        eta_seconds=eta_seconds(row), ckpt_path=newest.ckpt_path if newest else None,
    )  # fmt: skip


def run_detail(
    row: AnyRun, latest: Iterable[LatestValue], newest: AnyCheckpoint | None
) -> schemas.RunDetailAnswer:
    """Return `RunDetailAnswer`."""
    return _run_detail(
        row, run_id=row.id, ckpt_path=row.source_ckpt_path, status_detail=status_detail(row),
        overrides=overrides(row), priority=_PRIORITIES[row.priority], progress=progress(row),
        eta_seconds=eta_seconds(row), metrics=metrics(latest),
        newest_ckpt_path=newest.ckpt_path if newest else None,
    )  # fmt: skip


def recipe(row: Recipe) -> schemas.RecipeAnswer:
    """Return `RecipeAnswer`."""
    return {
        "name": row.name,
        "description": row.description,
        "launcher": row.launcher[0],
        "launchers": list(row.launcher),
        "resources": row.resources.model_dump(exclude_none=True),
        "max_attempts": row.max_attempts,
        "grace_seconds": row.grace_seconds,
        "keep_checkpoints": row.keep_checkpoints,
    }


def checkpoint(row: AnyCheckpoint) -> schemas.CheckpointAnswer:
    """Return `CheckpointAnswer`."""
    healthy = None if row.healthy is None else bool(row.healthy)  # SQLite has numbers
    return _checkpoint(row, checkpoint_id=row.id, stored_as=row.stored_as_id, healthy=healthy)


def verifications(results: list[Verified]) -> schemas.VerifyAnswer:
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


def prunable(rows: list[AnyCheckpoint]) -> schemas.RetentionAnswer:
    """Return `RetentionAnswer`."""
    return {
        "size_bytes": sum(row.size_bytes or 0 for row in rows),
        "checkpoints": [checkpoint(row) for row in rows],
    }


def cancellation(result: Cancelled) -> schemas.CancelAnswer:
    """Return `CancelAnswer`."""
    return {
        "run_id": result.run.id,
        "status": result.run.status,
        "ckpt_path": result.checkpoint.ckpt_path,
        "checkpoint": checkpoint(result.checkpoint),
    }


def event(row: AnyEvent) -> schemas.EventAnswer:
    """Return `EventAnswer`."""
    return {
        "seq": row.seq,
        "type": row.type,
        "at": row.at,
        "run_id": row.run_id,
        "data": Fragment(row.data),
        "actor": actor(row.actor_kind, row.actor_name),
    }


def actor(kind: str | None, name: str | None) -> schemas.Actor | None:
    """Return `Actor`; None where it was not kept."""
    return None if kind is None else {"kind": kind, "name": name}


def detail(row: Detail, prefix: str = "") -> schemas.DetailAnswer:
    """Return `DetailAnswer`; `prefix` is the path of the service as its clients see it."""
    path = f"{prefix}/v1/experiments/{row.experiment.id}"
    return {
        "experiment": experiment(row.experiment),
        "totals": row.totals,
        "links": {name: f"{path}/{name}" for name in (*row.totals, "metrics")},
        "runs": [run_summary(summary, row.metrics.get(summary.id, ())) for summary in row.runs],
        "checkpoints": [checkpoint(saved) for saved in row.checkpoints],
        "events": [event(entry) for entry in row.events],
    }
