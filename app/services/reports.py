"""What a trainer reports of its run: progress, metrics, checkpoints, the end.

A report is accepted for the run's present attempt only, and each numbered batch once.
The answer tells the trainer whether it should stop, and under which name to save.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypeVar, cast

from pydantic import AfterValidator, ConfigDict, Field, model_validator, with_config
from typing_extensions import TypedDict

from app.domain import hyperparams, paths, points
from app.domain.lifecycle import TERMINAL, RunStatus
from app.domain.requests import JsonObject, MetricKey, Request, bounded
from app.errors import InvalidInput, RunFinished, StaleAttempt
from app.services import checkpoints, events, metrics, runs
from app.store.changes import SUPERVISOR
from app.store.sql import Tx, dump, load
from app.store.tables import Run

MAX_POINTS = 50_000
MAX_SESSIONS = 50
_IGNORED = "The trainer ignored "

T = TypeVar("T")

Step = Annotated[int, Field(ge=0, lt=2**63)]
Value = float | Literal["NaN", "Infinity", "-Infinity"] | None


def _named(name: str) -> str:
    if not paths.is_name(name):
        raise ValueError("must be letters, digits, '.', '_' and '-', not starting with '.'")
    return name


# The first wrong item is told and no other: to list millions of them would take a minute.
Column = Annotated[list[T], Field(fail_fast=True)]


class MetricColumns(Request):
    """Points of one key as equally long columns. Wall times are unix seconds."""

    steps: Column[Step]
    values: Column[Value]
    wall_times: Column[float | None] | None = None

    @model_validator(mode="after")
    def _equally_long(self) -> "MetricColumns":
        wall_times = self.steps if self.wall_times is None else self.wall_times
        if not len(self.steps) == len(self.values) == len(wall_times):
            raise ValueError("steps, values and wall_times must be equally long")
        return self


# A TypedDict, since a thousand model objects for a thousand points cost three times as much.
@with_config(ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class MetricRow(TypedDict):
    """One point. Wall time is unix seconds."""

    key: MetricKey
    step: Step
    value: Value
    wall_time: NotRequired[float | None]


class SavedCheckpoint(Request):
    """A checkpoint that the trainer has committed. `sha256` is its manifest's.

    `in_data_dir`: an external trainer that has the same files has saved it where the service
    verifies it.
    """

    name: Annotated[str, AfterValidator(_named)]
    step: Step
    size_bytes: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    in_data_dir: bool = False


class ReportRequest(Request):
    """One report; every field is optional, and an empty report is a heartbeat.

    `attempt` is the one that the trainer was launched as. The trainer of an external run
    sends `session`, a random name of its process, and learns its attempt from the answer.
    """

    attempt: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    batch: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    session: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")] | None = None
    step: Step | None = None
    total_steps: Step | None = None
    metrics: Annotated[dict[MetricKey, MetricColumns], Field(max_length=1000)] = Field(
        default_factory=dict
    )
    points: Annotated[Column[MetricRow], Field(max_length=MAX_POINTS)] = Field(default_factory=list)
    checkpoints: Annotated[list[SavedCheckpoint], Field(max_length=100)] = Field(
        default_factory=list
    )
    effective_hyperparams: JsonObject | None = None
    finished: bool = False

    @model_validator(mode="after")
    def _not_too_many(self) -> "ReportRequest":
        if sum(len(each.steps) for each in self.metrics.values()) > MAX_POINTS:
            raise ValueError(f"a report holds at most {MAX_POINTS:,} points; send several")
        return self


class Receipt(NamedTuple):
    """The answer to a report. `batch` is the last one of this attempt that was taken in."""

    run_id: str
    status: str
    attempt: int
    batch: int
    should_stop: bool
    stop_checkpoint: str | None


def ingest(tx: Tx, run_id: str, report: ReportRequest) -> Receipt:
    """Takes in one report. Raises NotFound, StaleAttempt, RunFinished, InvalidInput."""
    run = runs.lock(tx, run_id)
    if RunStatus(run.status) in TERMINAL:
        raise RunFinished(f"The run is {run.status}; nothing more is recorded.")
    if run.recipe is None:
        run = _attach(tx, run, report)
    elif report.attempt is None:
        raise InvalidInput(
            "Send the attempt that the trainer was launched as.",
            errors=[{"pointer": "/attempt", "detail": "is required for a run with a recipe"}],
        )
    elif report.attempt != run.attempt or run.status == RunStatus.QUEUED:
        raise _stale(run)
    if report.batch is None or report.batch > run.last_batch:
        run = _take_in(tx, run, report)
    stop = run.status == RunStatus.CANCELLING
    return Receipt(
        run.id, run.status, run.attempt, run.last_batch, stop,
        paths.stop_name(run.attempt) if stop else None,
    )  # fmt: skip


def _stale(run: Run) -> StaleAttempt:
    return StaleAttempt(
        f"This report is not of the run's present attempt, {run.attempt}.", attempt=run.attempt
    )


def _attach(tx: Tx, run: Run, report: ReportRequest) -> Run:
    """The first report of an external trainer starts an attempt.

    So does the first one of a trainer that was started again by hand: it has a new session.
    The run keeps the sessions it has seen, newest last, to know those it has replaced.
    """
    seen = run.nonce.split() if run.nonce else []
    queued = run.status == RunStatus.QUEUED
    # Who has sent no session may begin to, unless it has numbered its batches: those of another
    # process, which begin at 1 again, would be taken for them and thrown away.
    unnamed = not seen and run.last_batch == 0
    known = queued or unnamed or report.session in (None, *seen[-1:])
    if report.attempt not in (None, run.attempt + queued) or (not known and report.session in seen):
        raise _stale(run)
    if queued:
        detail, (start, source_attempt) = "A trainer attached.", _start(tx, run)
    elif known and unnamed and report.session is not None:
        return runs.change(tx, run, nonce=report.session)
    elif known or run.status == RunStatus.CANCELLING:  # a new one is told to stop, too
        return run
    else:
        detail, start, source_attempt = "Another trainer attached.", run.step, run.source_attempt
        run = runs.move(tx, run, RunStatus.QUEUED, detail="The trainer was started again.")
    return runs.move(
        tx, run, RunStatus.STARTING, detail=detail, attempt=run.attempt + 1, last_batch=0,
        start_step=start, step=start, source_attempt=source_attempt, finished=False,
        launched_at=tx.now,
        nonce=" ".join([*seen, report.session or ""][-MAX_SESSIONS:]),
    )  # fmt: skip


def _start(tx: Tx, run: Run) -> tuple[int, int | None]:
    """The highest step that the first attempt of an external run can go on from, and of which
    attempt."""
    if run.source_checkpoint_id is None:
        return 0, None
    held = checkpoints.stored(tx, checkpoints.get(tx, run.source_checkpoint_id))
    step = runs.get(tx, held.run_id).step if held.step is None else held.step
    return step, held.attempt or run.source_attempt


def _take_in(tx: Tx, run: Run, report: ReportRequest) -> Run:
    columns = _columns(report)
    if columns and (run.attempt > 1 or run.start_step > 0) and not metrics.begun(tx, run):
        run = _go_on(tx, run, min(min(column.steps) for column in columns.values()))
    run = _progress(tx, run, report, columns)
    if report.effective_hyperparams is not None:
        run = _effective(tx, run, report.effective_hyperparams)
    metrics.write(tx, run, columns)
    for saved in report.checkpoints:
        checkpoints.announced(
            tx, run, saved.name, elsewhere=run.recipe is None and not saved.in_data_dir,
            step=saved.step, size_bytes=saved.size_bytes, sha256=saved.sha256,
        )  # fmt: skip
    if report.finished:
        tx.touch(SUPERVISOR)
    return run


def _go_on(tx: Tx, run: Run, first: int) -> Run:
    """The first points of an attempt that goes on from an earlier step; `first` is the lowest."""
    if first < run.start_step or (run.recipe is None and first == run.start_step):
        # Only the trainer knows where it really went on from: just before its first point.
        start = max(0, first - 1)
        run = runs.change(tx, run, start_step=start, step=start)
    metrics.rewind(tx, run)
    return run


def _progress(tx: Tx, run: Run, report: ReportRequest, columns: dict[str, points.Column]) -> Run:
    changes: dict[str, Any] = {"heartbeat_at": tx.now}
    if report.batch is not None:
        changes["last_batch"] = report.batch
    if report.total_steps is not None:
        changes["total_steps"] = report.total_steps
    step = report.step
    if step is None and columns:
        step = max(max(column.steps) for column in columns.values())
    if step is not None and step > run.step:
        changes["step"] = step
    if report.finished:
        changes["finished"] = True
    if run.status == RunStatus.STARTING:
        return runs.move(tx, run, RunStatus.RUNNING, **changes)
    return runs.change(tx, run, **changes)


def _effective(tx: Tx, run: Run, reported: dict[str, Any]) -> Run:
    """Records what the trainer really uses, and says so when that is not what was asked."""
    try:
        used = bounded(load(run.effective_hyperparams or "{}") | reported)
    except ValueError as error:
        raise InvalidInput(
            f"What was reported of the hyperparameters until now, and this, {error}.",
            errors=[{"pointer": "/effective_hyperparams", "detail": str(error)}],
        ) from None
    ignored = [
        override for override in hyperparams.overrides(load(run.override_hyperparams), used)
        if override.applied is False
    ]  # fmt: skip
    told = [
        f"{each.key} = {dump(each.requested)} and uses {dump(each.effective)}" for each in ignored
    ]
    sentence = f"{_IGNORED}{'; '.join(told)}." if told else None
    # What was said before of how this attempt began stays; of hyperparameters, only the last.
    before = (run.status_detail or "").partition(_IGNORED)[0].strip()
    detail = " ".join(filter(None, (before, sentence))) or None
    if (dump(used), detail) == (run.effective_hyperparams, run.status_detail):
        return run
    run = runs.change(tx, run, effective_hyperparams=dump(used), status_detail=detail)
    events.append(
        tx, run.experiment_id, "run.effective_hyperparams", run_id=run.id,
        effective_hyperparams=used, ignored=[each.key for each in ignored] or None,
        detail=sentence,
    )  # fmt: skip
    return run


def _columns(report: ReportRequest) -> dict[str, points.Column]:
    """The points of a report by key, rows after columns."""
    found: dict[str, list[points.Column]] = {}
    for key, given in report.metrics.items():
        if given.steps:
            wall_times = given.wall_times or [None] * len(given.steps)
            column = points.Column(given.steps, _numbers(given.values), _numbers(wall_times))
            found[key] = [column]
    rows: dict[str, list[MetricRow]] = {}
    for row in report.points:
        key = row["key"]
        if key in rows:
            rows[key].append(row)
        else:
            rows[key] = [row]
    for key, own in rows.items():
        values = _numbers([row["value"] for row in own])
        times = _numbers([row.get("wall_time") for row in own])
        column = points.Column([row["step"] for row in own], values, times)
        found.setdefault(key, []).append(column)
    return {
        key: parts[0] if len(parts) == 1 else points.joined(parts) for key, parts in found.items()
    }


def _numbers(values: Sequence[float | str | None]) -> Sequence[float]:
    """The same numbers as floats; what is missing is NaN."""
    if set(map(type, values)) == {float}:
        return cast(Sequence[float], values)
    return [math.nan if value is None else float(value) for value in values]
