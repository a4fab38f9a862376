"""What a trainer reports of its run: progress, metrics, checkpoints, the end.

A report is accepted for the run's present attempt only, and each numbered batch once.
The answer tells the trainer whether it should stop, and under which name to save.
"""

import math
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from app.domain import paths
from app.domain.lifecycle import TERMINAL, RunStatus
from app.domain.requests import JsonObject, MetricKey, Request
from app.errors import RunFinished, StaleAttempt
from app.services import checkpoints, events, metrics, runs
from app.store.changes import SUPERVISOR
from app.store.sql import Tx, dump
from app.store.tables import Run

MAX_POINTS = 50_000

Step = Annotated[int, Field(ge=0, lt=2**63)]
Value = float | Literal["NaN", "Infinity", "-Infinity"] | None


def _named(name: str) -> str:
    if not paths.is_name(name):
        raise ValueError("must be letters, digits, '.', '_' and '-', not starting with '.'")
    return name


class MetricColumns(Request):
    """Points of one key as equally long columns. Wall times are unix seconds."""

    steps: list[Step]
    values: list[Value]
    wall_times: list[float | None] | None = None

    @model_validator(mode="after")
    def _equally_long(self) -> "MetricColumns":
        if len({len(self.steps), len(self.values), len(self.wall_times or self.steps)}) != 1:
            raise ValueError("steps, values and wall_times must be equally long")
        return self


class MetricRow(Request):
    """One point. Wall time is unix seconds."""

    key: MetricKey
    step: Step
    value: Value
    wall_time: float | None = None


class SavedCheckpoint(Request):
    """A checkpoint that the trainer has committed. `sha256` is its manifest's."""

    name: Annotated[str, AfterValidator(_named)]
    step: Step
    size_bytes: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


class ReportRequest(Request):
    """One report. Every field but `attempt` is optional; an empty one is a heartbeat."""

    attempt: Annotated[int, Field(ge=1, lt=2**31)]
    batch: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    session: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")] | None = None
    step: Step | None = None
    total_steps: Step | None = None
    metrics: Annotated[dict[MetricKey, MetricColumns], Field(max_length=1000)] = Field(
        default_factory=dict
    )
    points: Annotated[list[MetricRow], Field(max_length=MAX_POINTS)] = Field(default_factory=list)
    checkpoints: Annotated[list[SavedCheckpoint], Field(max_length=100)] = Field(
        default_factory=list
    )
    effective_hyperparams: JsonObject | None = None
    finished: bool = False


class Receipt(NamedTuple):
    """The answer to a report."""

    run_id: str
    status: str
    attempt: int
    batch: int | None
    should_stop: bool
    stop_checkpoint: str | None


def ingest(tx: Tx, run_id: str, report: ReportRequest) -> Receipt:
    """Takes in one report. Raises NotFound, StaleAttempt, RunFinished."""
    run = runs.lock(tx, run_id)
    if RunStatus(run.status) in TERMINAL:
        raise RunFinished(f"The run is {run.status}; nothing more is recorded.")
    if run.recipe is None:
        run = _attach(tx, run, report)
    if report.attempt != run.attempt or run.status == RunStatus.QUEUED:
        raise StaleAttempt(
            f"This report is of attempt {report.attempt}; the run is at attempt {run.attempt}.",
            attempt=run.attempt,
        )
    if report.batch is None or report.batch > run.last_batch:
        run = _take_in(tx, run, report)
    stop = run.status == RunStatus.CANCELLING
    return Receipt(
        run.id, run.status, run.attempt, report.batch, stop,
        paths.stop_name(run.attempt) if stop else None,
    )  # fmt: skip


def _attach(tx: Tx, run: Run, report: ReportRequest) -> Run:
    """An external trainer's first report starts the run; a new session is a new attempt."""
    if run.status == RunStatus.QUEUED:
        return runs.move(
            tx, run, RunStatus.STARTING, detail="A trainer attached.", attempt=run.attempt + 1,
            nonce=report.session, last_batch=0, launched_at=tx.now,
        )  # fmt: skip
    return run


def _take_in(tx: Tx, run: Run, report: ReportRequest) -> Run:
    changes: dict[str, Any] = {"heartbeat_at": tx.now}
    if report.batch is not None:
        changes["last_batch"] = report.batch
    if report.total_steps is not None:
        changes["total_steps"] = report.total_steps
    if report.step is not None and report.step > run.step:
        changes["step"] = report.step
    if report.finished:
        changes["finished"] = True
    if report.effective_hyperparams is not None:
        changes["effective_hyperparams"] = dump(report.effective_hyperparams)
    if run.status == RunStatus.STARTING:
        run = runs.move(tx, run, RunStatus.RUNNING, **changes)
    else:
        run = runs.change(tx, run, **changes)
    if report.effective_hyperparams is not None:
        events.append(
            tx, run.experiment_id, "run.effective_hyperparams", run_id=run.id,
            effective_hyperparams=report.effective_hyperparams,
        )  # fmt: skip
    metrics.write(tx, run, _columns(report))
    for saved in report.checkpoints:
        checkpoints.announced(
            tx, run, saved.name, step=saved.step, size_bytes=saved.size_bytes, sha256=saved.sha256
        )
    if report.finished:
        tx.touch(SUPERVISOR)
    return run


def _columns(report: ReportRequest) -> dict[str, metrics.Column]:
    columns = {
        key: metrics.Column(
            given.steps,
            [_number(value) for value in given.values],
            given.wall_times or [None] * len(given.steps),
        )
        for key, given in report.metrics.items()
    }
    rows: dict[str, list[tuple[int, float | None, float | None]]] = {}
    for point in report.points:
        rows.setdefault(point.key, []).append((point.step, _number(point.value), point.wall_time))
    for key, points in rows.items():
        steps, values, wall_times = map(list, zip(*points, strict=True))
        if key in columns:
            steps = [*columns[key].steps, *steps]
            values = [*columns[key].values, *values]
            wall_times = [*columns[key].wall_times, *wall_times]
        columns[key] = metrics.Column(steps, values, wall_times)
    return columns


def _number(value: float | str | None) -> float | None:
    """A stored value: NaN is None, infinities stay."""
    if isinstance(value, str):
        value = float(value)
    return None if value is None or math.isnan(value) else value
