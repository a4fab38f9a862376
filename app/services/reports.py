"""What a trainer reports of its run: progress, metrics, checkpoints, the end.

A report is accepted for the run's present attempt only, and each numbered batch once.
The answer tells the trainer whether it should stop, and under which name to save.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypeVar, cast

from pydantic import AfterValidator, ConfigDict, Field, model_validator, with_config
from sqlalchemy import bindparam, func, select
from typing_extensions import TypedDict

from app.domain import hyperparams, paths, points
from app.domain.ids import seconds_between
from app.domain.lifecycle import TERMINAL, CheckpointState, RunStatus
from app.domain.points import MAX_STEP
from app.domain.requests import JsonObject, MetricKey, Request, bounded
from app.errors import InvalidInput, RunFinished, RunLimit, SessionActive, StaleAttempt
from app.services import checkpoints, events, launches, metrics, progress, runs
from app.store.changes import SUPERVISOR
from app.store.sql import Statement, Tx, dump, load
from app.store.sql import columns as columns_of
from app.store.tables import Checkpoint, Run

MAX_POINTS = 50_000
MAX_SESSIONS = 50
MAX_BATCHES_AHEAD = 1_000_000
QUIET_SECONDS = 15.0
"""Without a report for so long, an external run's trainer is replaced by the next that attaches."""
MAX_HISTORY_BYTES = 16 * 1024 * 1024
"""What the trainers of a run may add to its experiment's history, apart from points."""
ENTRY_BYTES = 1024
"""What a checkpoint counts there, or an event."""
MAX_PENDING = 200
"""Checkpoints of a run that wait to be verified."""
_STARTED = time.monotonic()

_checkpoint = columns_of(Checkpoint)
_PENDING = Statement[tuple[int]](
    select(func.count())
    .select_from(Checkpoint)
    .where(
        _checkpoint.run_id == bindparam("run"),
        _checkpoint.state == CheckpointState.PENDING.value,
    )
)

T = TypeVar("T")

Step = Annotated[int, Field(ge=0, lt=2**63)]
Value = float | Literal["NaN", "Infinity", "-Infinity"] | None
WallTime = Annotated[float, Field(ge=0, lt=253_402_300_800)]
"""Unix seconds, up to the year 9999."""


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
    wall_times: Column[WallTime | None] | None = None

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
    wall_time: NotRequired[WallTime | None]


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

    The trainer of a recipe sends `attempt`, the one that it was launched as.

    The trainer of an external run sends `session`, a random name of its process, and learns its
    attempt from the answer. One session at a time reports on a run. The report of a new session
    is accepted, as a new attempt, if

    * no trainer has attached yet,
    * the former session has sent `closing`, or nothing for 15 seconds, or
    * it has `take_over`; the former session then gets 409 `stale_attempt`.

    Otherwise it gets 429 `session_active` with `Retry-After`: a second process with the same
    run token (a spawned worker, an evaluation script) changes nothing. A session that was
    replaced never returns, with `take_over` neither. `take_over` may be sent with each report
    of a session; it has no effect once the session is the run's.

    `step` is the highest step of the training loop since the last report. One beyond
    `total_steps` moves no progress, so leave out steps of other axes (tokens, evaluation).
    A report without `step` tells the highest of its points that is not beyond `total_steps`;
    `total_steps` 0 means that it is not known.

    Besides points a run may hold about 16,000 checkpoints (200 not yet verified), 4,000
    attempts, or 16 MiB of `effective_hyperparams` that changed, and 10,000 metric keys. What
    exceeds that gets 422 `run_limit`; the pointer names the part to leave out.

    `batch` counts the reports of one attempt; a batch that was taken in already changes nothing.
    On an external run a report with `batch` has a `session`, and no batch is more than a million
    ahead of the last one. Without `session` and `batch`, a single report (by hand) is added to
    what the present trainer reports.
    """

    attempt: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    batch: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    session: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")] | None = None
    take_over: bool = False
    closing: bool = False
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
    belongs = True
    if run.recipe is None:
        run, belongs = _attach(tx, run, report)
    elif report.attempt is None:
        raise InvalidInput(
            "Send the attempt that the trainer was launched as.",
            errors=[{"pointer": "/attempt", "detail": "is required for a run with a recipe"}],
        )
    elif report.attempt != run.attempt or run.status == RunStatus.QUEUED:
        raise _stale(run)
    if belongs and (report.batch is None or report.batch > run.last_batch):
        _check_batch(run, report)
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


def _check_batch(run: Run, report: ReportRequest) -> None:
    """Refuse a batch number that would make the next ones look like old ones."""
    if report.batch is not None and report.batch - run.last_batch > MAX_BATCHES_AHEAD:
        raise InvalidInput(
            f"Batches are counted one by one; the last one was {run.last_batch}.",
            errors=[{"pointer": "/batch", "detail": "is too far ahead of the last batch"}],
        )


def _attach(tx: Tx, run: Run, report: ReportRequest) -> tuple[Run, bool]:
    """Return the run with the attempt that a report of an external run belongs to.

    False: the report is only answered. It is of another session than the one that saves what a
    cancel promised. Raises StaleAttempt, SessionActive, InvalidInput.
    """
    queued = run.status == RunStatus.QUEUED
    sessions: list[str] = load(run.sessions)
    current = sessions[-1] if sessions else None
    if report.attempt not in (None, run.attempt + queued):
        raise _stale(run)
    if queued:
        start, source_attempt = _start(tx, run)
        run = runs.change(tx, run, source_attempt=source_attempt)
        return _begin(tx, run, report.session, start, "A trainer attached."), True
    if report.session == current:
        return run, True
    if report.session is None:
        if report.batch is not None:
            raise InvalidInput(
                "A batch is counted by the session that sends it; send the session, or no batch.",
                errors=[{"pointer": "/session", "detail": "is required with a batch"}],
            )
        return run, True
    if report.session in sessions:
        raise _stale(run)
    # A trainer without a session may begin to send one, unless it has counted its batches.
    if current is None and run.last_batch == 0:
        return runs.change(tx, run, sessions=dump([report.session])), True
    wait = 0 if report.take_over or run.session_closed else QUIET_SECONDS - _silence(tx, run)
    cancelling = run.status == RunStatus.CANCELLING
    if wait > 0 and not cancelling:
        raise SessionActive(
            "Another trainer reports on this run. Try again when it has been silent for "
            f"{QUIET_SECONDS:g} seconds, or send take_over to replace it.",
            retry_after=max(1, math.ceil(min(wait, QUIET_SECONDS))),
        )
    if cancelling:  # told to stop, too; a cancelling run begins no attempt
        return run if wait > 0 else _seat(tx, run, report.session), wait <= 0
    run = runs.move(tx, run, RunStatus.QUEUED, detail="The trainer was started again.")
    return _begin(tx, run, report.session, run.step, "Another trainer attached."), True


def _begin(tx: Tx, run: Run, session: str | None, start: int, detail: str) -> Run:
    """Start the next attempt of an external run."""
    run = _charge(tx, _seat(tx, run, session), 4 * ENTRY_BYTES, "/session")
    return runs.move(
        tx, run, RunStatus.STARTING, detail=detail, attempt=run.attempt + 1,
        start_step=start, step=start, finished=False, launched_at=tx.now,
    )  # fmt: skip


def _seat(tx: Tx, run: Run, session: str | None) -> Run:
    """Make a session the one that reports on the run. Its batches begin at 1."""
    sessions = [*load(run.sessions), *([session] if session else [])][-MAX_SESSIONS:]
    return runs.change(tx, run, sessions=dump(sessions), session_closed=False, last_batch=0)


def _silence(tx: Tx, run: Run) -> float:
    """Return for how many seconds a run's trainer could report and did not.

    A trainer may need some seconds to find a server that was started again.
    """
    last = run.heartbeat_at or run.launched_at or run.created_at
    return min(seconds_between(last, tx.now), time.monotonic() - _STARTED)


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
    if columns and run.attempt > 1 and not metrics.begun(tx, run):
        metrics.branch(tx, run)
    run = _progress(tx, run, report, columns)
    if report.effective_hyperparams is not None:
        run = _effective(tx, run, report.effective_hyperparams)
    metrics.write(tx, run, columns)
    if report.checkpoints:
        run = _announce(tx, run, report.checkpoints)
    if report.finished:
        tx.touch(SUPERVISOR)
    return run


def _progress(tx: Tx, run: Run, report: ReportRequest, columns: dict[str, points.Column]) -> Run:
    """Record that the trainer lives, and how far it is.

    A step beyond the last one belongs to another axis: its point is stored and it moves nothing.
    """
    changes: dict[str, Any] = {"heartbeat_at": tx.now}
    if report.batch is not None:
        changes["last_batch"] = report.batch
    total, reached = run.total_steps, run.step
    if report.total_steps is not None:
        total = changes["total_steps"] = report.total_steps or None
        if total is not None and total != run.total_steps and reached > total:
            # It was on another axis, or of a stage that is over.
            reached = run.start_step if run.start_step <= total else 0
    step = _step(report, columns, total)
    if step:
        if run.last_progress_at is None and not _knows_start(tx, run):
            run = _go_on(tx, run, step, columns)
            reached = min(reached, run.start_step)
        if step > reached or step < run.start_step:
            changes["last_progress_at"] = tx.now
        reached = max(reached, step)
    changes["step"] = reached
    changes |= progress.measure_pace(run, reached)
    if report.finished:
        changes["finished"] = True
    if run.recipe is None and report.session is not None:
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
    if run.recipe is not None:
        return True
    if run.attempt > 1:
        return False
    if run.source_checkpoint_id is None:
        return True
    return checkpoints.stored(tx, checkpoints.get(tx, run.source_checkpoint_id)).step is not None


def _go_on(tx: Tx, run: Run, step: int, columns: dict[str, points.Column]) -> Run:
    """Let the attempt begin just before its first step of the training loop.

    A report may hold many steps; other axes are those whose key has no point at `step`.
    """
    loop = [column.steps for column in columns.values() if step in column.steps]
    first = min((each for steps in loop for each in steps if each > 0), default=step)
    if first > run.start_step:
        return run
    run = runs.change(tx, run, start_step=first - 1, step=first - 1)
    metrics.branch(tx, run)
    return run


def _announce(tx: Tx, run: Run, saved: Sequence[SavedCheckpoint]) -> Run:
    """Record what the trainer has saved. Raises RunLimit.

    One that is not announced is verified at the end of its attempt.
    """
    run = _charge(tx, run, ENTRY_BYTES * len(saved), "/checkpoints")
    for each in saved:
        checkpoints.announced(
            tx, run, each.name, elsewhere=run.recipe is None and not each.in_data_dir,
            step=each.step, size_bytes=each.size_bytes, sha256=each.sha256,
        )  # fmt: skip
    row = tx.first(_PENDING, run=run.id)
    if row is not None and row[0] > MAX_PENDING:
        raise RunLimit(
            f"More than {MAX_PENDING} checkpoints of this run wait to be verified; announce fewer.",
            errors=[{"pointer": "/checkpoints", "detail": "too many wait to be verified"}],
        )
    return run


def _charge(tx: Tx, run: Run, size: int, pointer: str) -> Run:
    """Count what a report adds to the history. Raises RunLimit."""
    if run.history_bytes + size > MAX_HISTORY_BYTES:
        raise RunLimit(
            "The trainers of this run have reported as many checkpoints, hyperparameters and "
            "starts as one run may hold; training can go on without this one.",
            errors=[{"pointer": pointer, "detail": "is more than one run may hold"}],
        )
    return runs.change(tx, run, history_bytes=run.history_bytes + size)


def spec(tx: Tx, run_id: str, data_dir: Path) -> dict[str, Any]:
    """Return what the trainer of a run shall do. Raises NotFound, RunFinished."""
    run = runs.get(tx, run_id)
    if RunStatus(run.status) in TERMINAL:
        raise RunFinished(f"The run is {run.status}; there is nothing more to do.")
    return launches.spec(tx, run_id, data_dir)


def _effective(tx: Tx, run: Run, reported: dict[str, Any]) -> Run:
    """Record what the trainer really uses. Each attempt that ignores overrides has an event."""
    try:
        used = bounded(load(run.effective_hyperparams or "{}") | reported)
    except ValueError as error:
        raise InvalidInput(
            f"What was reported of the hyperparameters until now, and this, {error}.",
            errors=[{"pointer": "/effective_hyperparams", "detail": str(error)}],
        ) from None
    overridden = hyperparams.overrides(load(run.override_hyperparams), used)
    ignored = [each.key for each in overridden if each.applied is False]
    told = run.effective_attempt == run.attempt or not ignored
    if dump(used) == run.effective_hyperparams and told:
        return run
    run = _charge(tx, run, ENTRY_BYTES + len(dump(used)), "/effective_hyperparams")
    run = runs.change(tx, run, effective_hyperparams=dump(used), effective_attempt=run.attempt)
    events.append(
        tx, run.experiment_id, "run.effective_hyperparams", run_id=run.id,
        effective_hyperparams=used, ignored=ignored or None,
        detail=hyperparams.ignored_sentence(overridden),
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
