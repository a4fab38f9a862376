"""What a trainer may report: points as columns or as rows, checkpoints, its progress, its end."""

from typing import Annotated, Literal, NotRequired, TypeVar

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
    with_config,
)
from typing_extensions import TypedDict

from app.domain import paths
from app.domain.requests import JsonObject, MetricKey, Request
from app.domain.text import clean

MAX_POINTS = 50_000
SYSTEM = "system/"
"""Prefix of the metrics of the machine."""

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

    `source` says what the trainer runs: its commit, command, packages and machine, without secrets.
    The newest replaces the one before.

    `batch` counts the reports of one attempt; a batch that was taken in already changes nothing.
    On an external run a report with `batch` has a `session`, and no batch is more than a million
    ahead of the last one. Without `session` and `batch`, a single report (by hand) is added to
    what the present trainer reports.

    `rank`: the report is of another rank than 0, and holds metrics `system/…` of its machine alone.
    They are recorded at the run's step. Such a report proves no life of the trainer and moves no
    progress; it is answered and not recorded before the trainer's first report.

    `finished`: the training loop has reached its end. `failed`: the trainer of an external run
    gives up, in one sentence why; the run fails with `reported_failure`. How the trainer of a
    recipe ends is known by itself.
    """

    attempt: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    batch: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    session: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")] | None = None
    rank: Annotated[int, Field(ge=1, lt=2**31)] | None = None
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
    source: JsonObject | None = None
    finished: bool = False
    failed: Annotated[str, StringConstraints(max_length=2000), AfterValidator(clean)] | None = None

    @model_validator(mode="after")
    def _not_too_many(self) -> "ReportRequest":
        if sum(len(series.steps) for series in self.metrics.values()) > MAX_POINTS:
            raise ValueError(f"a report holds at most {MAX_POINTS:,} points; send several")
        return self

    @model_validator(mode="after")
    def _machine_alone(self) -> "ReportRequest":
        if self.rank is None:
            return self
        if self.model_fields_set - {"rank", "attempt", "metrics"}:
            raise ValueError("a report with a rank holds attempt and metrics, and nothing else")
        if not all(key.startswith(SYSTEM) for key in self.metrics):
            raise ValueError(f"a report with a rank holds metrics {SYSTEM}…, and no others")
        return self
