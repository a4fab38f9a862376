"""Reports of a run's trainer: progress, metrics, checkpoints, the end.

A report is accepted for the run's current attempt only, and each numbered batch once.
The response says if the trainer should stop, and the name under which to save.

ingest    takes in one report: attach → progress → hyperparameters → points → checkpoints
spec      the task of a run's trainer

The contents of a report are in `app.domain.reports`, the process that may send it in `sessions`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Executable, func, select

from app.db.changes import SUPERVISOR
from app.db.sql import Tx, dump, load, query
from app.db.sql import columns as columns_of
from app.db.tables import Checkpoint, Run
from app.domain import hyperparams, paths, points
from app.domain.lifecycle import TERMINAL, CheckpointState, Reason, RunStatus, is_external
from app.domain.points import MAX_STEP
from app.domain.reports import ReportRequest, SavedCheckpoint
from app.domain.requests import check_object
from app.errors import InvalidInput, RunFinished, RunLimit
from app.services import (
    checkpoints,
    events,
    health,
    launches,
    limits,
    metrics,
    progress,
    promises,
    runs,
    saves,
    sessions,
)
from app.storage.base import CheckpointStorage

MAX_PENDING = 200
"""Checkpoints of a run that wait to be verified."""
_checkpoint = columns_of(Checkpoint)


@query(tuple[int])
def _pending(*, run: str) -> Executable:
    return (
        select(func.count())
        .select_from(Checkpoint)
        .where(
            _checkpoint.run_id == run,
            _checkpoint.state == CheckpointState.PENDING.value,
        )
    )


class ReportResponse(NamedTuple):
    """The answer to a report. `batch` is the last one of this attempt that was taken in."""

    run_id: str
    status: str
    attempt: int
    batch: int
    should_stop: bool
    stop_checkpoint: str | None


def ingest(tx: Tx, run_id: str, report: ReportRequest) -> ReportResponse:
    """Record one report. Raises NotFound, StaleAttempt, RunFinished, InvalidInput."""
    run = runs.lock(tx, run_id)
    if RunStatus(run.status) in TERMINAL:
        raise RunFinished(f"The run is {run.status}; nothing more is recorded.")
    belongs = True
    if is_external(run) and report.rank is not None:
        pass  # it is no trainer that attaches
    elif is_external(run):
        run, belongs = sessions.attach(tx, run, report)
    elif report.attempt is None:
        raise InvalidInput(
            "Send the attempt that the trainer was launched as.",
            errors=[{"pointer": "/attempt", "detail": "is required for a run with a recipe"}],
        )
    elif report.attempt != run.attempt or run.status == RunStatus.QUEUED:
        raise sessions.make_stale_error(run)
    if report.rank is not None:
        _take_in_machine(tx, run, report)
    elif belongs and (report.batch is None or report.batch > run.last_batch):
        sessions.check_batch(run, report)
        run = _take_in(tx, run, report)
    stop = run.status == RunStatus.CANCELLING
    return ReportResponse(
        run.id, run.status, run.attempt, run.last_batch, stop,
        _stop_name(tx, run) if stop else None,
    )  # fmt: skip


def _stop_name(tx: Tx, run: Run) -> str | None:
    promised = promises.get(tx, run)
    return paths.parse(promised.ckpt_path).name if promised else None


def _take_in(tx: Tx, run: Run, report: ReportRequest) -> Run:
    columns = report.columns
    if columns and run.attempt > 1 and not metrics.has_begun(tx, run):
        metrics.branch(tx, run)
    run = _record_progress(tx, run, report, columns)
    if report.effective_hyperparams is not None:
        run = _record_effective(tx, run, report.effective_hyperparams)
    if report.source is not None and (source := dump(report.source)) != run.source:
        run = limits.charge(tx, run, limits.ENTRY_BYTES + len(source), "/source")
        run = runs.change(tx, run, source=source)
    metrics.write(tx, run, columns)
    run = health.check_finite(tx, run, columns)
    if report.checkpoints:
        run = record_saved(tx, run, report.checkpoints)
    if report.finished or report.failed is not None:
        tx.notify(SUPERVISOR)
    return run


def _take_in_machine(tx: Tx, run: Run, report: ReportRequest) -> None:
    """Record metrics of another rank's machine: of each key the newest value, at the run's step."""
    begun = run.attempt == 1 or (run.attempt > 1 and metrics.has_begun(tx, run))
    if run.heartbeat_at is None or not begun:
        return
    newest = {
        key: points.Column([run.step], column.values[-1:], column.wall_times[-1:])
        for key, column in report.columns.items()
    }
    metrics.write(tx, run, newest)


def _record_progress(
    tx: Tx, run: Run, report: ReportRequest, columns: dict[str, points.Column]
) -> Run:
    """Record that the trainer lives, and how far it is.

    A step beyond the last one belongs to another axis: its point is stored and it moves nothing.
    """
    changes: dict[str, Any] = {"heartbeat_at": tx.now}
    if report.batch is not None:
        changes["last_batch"] = report.batch
        if run.heartbeat_seconds is not None and not is_external(run):
            changes["heartbeat_seconds"] = None  # a Reporter, whose silence the recipe limits
    total, reached = run.total_steps, run.step
    if report.total_steps is not None:
        total = changes["total_steps"] = report.total_steps or None
        if total is not None and total != run.total_steps and reached > total:
            # It was on another axis, or of a stage that is over.
            reached = run.start_step if run.start_step <= total else 0
    step = _step(report, columns, total)
    if step:
        if run.last_progress_at is None and not _knows_start(tx, run):
            run = _begin_at(tx, run, step, columns)
            reached = min(reached, run.start_step)
        if step > reached or step < run.start_step:
            changes["last_progress_at"] = tx.now
        reached = max(reached, step)
    changes["step"] = reached
    changes |= progress.measure_pace(run, reached)
    if report.finished:
        changes["finished"] = True
    if report.failed is not None and is_external(run) and run.termination_reason is None:
        changes["termination_reason"] = Reason.REPORTED_FAILURE.value
        changes["termination_detail"] = report.failed or "Its trainer reports that it has failed."
    if is_external(run) and report.session is not None:
        changes["session_closed"] = report.closing
    if run.status == RunStatus.STARTING:
        return runs.move(tx, run, RunStatus.RUNNING, **changes)
    return runs.change(tx, run, **changes)


def _step(
    report: ReportRequest, columns: dict[str, points.Column], total: int | None
) -> int | None:
    """Return the step of the training loop that a report tells; None if it tells none.

    That is `step`, or in a report that has none (or one beyond the end) the highest of its points.
    """
    last = MAX_STEP if total is None else total
    if report.step is not None and report.step <= last:
        return report.step
    highest = max((max(column.steps) for column in columns.values()), default=None)
    if highest is None or highest <= last:
        return highest
    within = (step for column in columns.values() for step in column.steps if step <= last)
    return max(within, default=None)


def _knows_start(tx: Tx, run: Run) -> bool:
    """Return True if the service knows which step this attempt goes on from.

    It does not where somebody started an external trainer again, or from a checkpoint whose step
    nobody told. Then the first step that the trainer reports tells.
    """
    if not is_external(run):
        return True
    if run.attempt > 1:
        return False
    if run.source_checkpoint_id is None:
        return True
    return (
        checkpoints.get_stored(tx, checkpoints.get(tx, run.source_checkpoint_id)).step is not None
    )


def _begin_at(tx: Tx, run: Run, step: int, columns: dict[str, points.Column]) -> Run:
    """Let the attempt begin just before its first step of the training loop.

    A report may hold many steps; other axes are those whose key has no point at `step`.
    """
    loop = [column.steps for column in columns.values() if step in column.steps]
    first = min((number for steps in loop for number in steps if number > 0), default=step)
    if first > run.start_step:
        return run
    run = runs.change(tx, run, start_step=first - 1, step=first - 1)
    metrics.branch(tx, run)
    return run


def record_saved(tx: Tx, run: Run, saved: Sequence[SavedCheckpoint]) -> Run:
    """Record what the trainer has saved. Raises RunLimit.

    One that is not announced is verified at the end of its attempt.
    """
    run = limits.charge(tx, run, limits.ENTRY_BYTES * len(saved), "/checkpoints")
    for checkpoint in saved:
        saves.record_saved(
            tx, run, checkpoint.name, elsewhere=is_external(run) and not checkpoint.in_data_dir,
            step=checkpoint.step, size_bytes=checkpoint.size_bytes, sha256=checkpoint.sha256,
        )  # fmt: skip
    row = tx.first(_pending, run=run.id)
    if row is not None and row[0] > MAX_PENDING:
        raise RunLimit(
            f"More than {MAX_PENDING} checkpoints of this run wait to be verified; announce fewer.",
            errors=[{"pointer": "/checkpoints", "detail": "too many wait to be verified"}],
        )
    return run


def spec(tx: Tx, run_id: str, storage: CheckpointStorage) -> dict[str, Any]:
    """Return what the trainer of a run must do. Raises NotFound, RunFinished."""
    run = runs.get(tx, run_id)
    if RunStatus(run.status) in TERMINAL:
        raise RunFinished(f"The run is {run.status}; there is nothing more to do.")
    return launches.get_spec(tx, run_id, storage)


def _record_effective(tx: Tx, run: Run, reported: dict[str, Any]) -> Run:
    """Record what the trainer really uses. Each attempt that ignores overrides has an event."""
    try:
        used = check_object(load(run.effective_hyperparams or "{}") | reported)
    except ValueError as error:
        raise InvalidInput(
            f"What was reported of the hyperparameters until now, and this, {error}.",
            errors=[{"pointer": "/effective_hyperparams", "detail": str(error)}],
        ) from None
    overridden = hyperparams.overrides(load(run.override_hyperparams), used)
    ignored = [override.key for override in overridden if override.applied is False]
    is_known = run.effective_attempt == run.attempt or not ignored
    if dump(used) == run.effective_hyperparams and is_known:
        return run
    run = limits.charge(tx, run, limits.ENTRY_BYTES + len(dump(used)), "/effective_hyperparams")
    run = runs.change(tx, run, effective_hyperparams=dump(used), effective_attempt=run.attempt)
    events.append(
        tx, run.experiment_id, "run.effective_hyperparams", run_id=run.id,
        effective_hyperparams=used, ignored=ignored or None,
        detail=hyperparams.explain_ignored(overridden),
    )  # fmt: skip
    return run
