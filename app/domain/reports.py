"""Reports of a trainer: points as columns or as rows, checkpoints, its progress, its end.

`ReportRequest` is the model of a report. `read_plain` reads one of plain numbers without it: an
object for each of a thousand rows costs three times as much as their JSON.
"""

import math
import struct
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from operator import itemgetter
from types import NoneType
from typing import Annotated, Any, Literal, NotRequired, TypeVar, cast

import orjson
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    model_validator,
    with_config,
)
from typing_extensions import TypedDict

from app.domain import paths
from app.domain.points import Column, join_columns
from app.domain.requests import MAX_METRIC_KEY, JsonObject, MetricKey, Request
from app.domain.text import clean

MAX_POINTS = 50_000
MAX_KEYS = 1_000
"""Metrics in one report as columns."""
SYSTEM = "system/"
"""Prefix of the metrics of the machine."""

T = TypeVar("T")

Step = Annotated[int, Field(ge=0, lt=2**63)]
Value = float | Literal["NaN", "Infinity", "-Infinity"] | None
END_OF_TIME = 253_402_300_800
WallTime = Annotated[float, Field(ge=0, lt=END_OF_TIME)]
"""Unix seconds, up to the year 9999."""


def _check_name(name: str) -> str:
    if not paths.is_name(name):
        raise ValueError("must be letters, digits, '.', '_' and '-', not starting with '.'")
    return name


# The first wrong item is told and no other: to list millions of them would take a minute.
Items = Annotated[list[T], Field(fail_fast=True)]


class MetricColumns(Request):
    """Points of one key as equally long columns. Wall times are unix seconds."""

    steps: Items[Step]
    values: Items[Value]
    wall_times: Items[WallTime | None] | None = None

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

    name: Annotated[str, AfterValidator(_check_name)]
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
    metrics: Annotated[dict[MetricKey, MetricColumns], Field(max_length=MAX_KEYS)] = Field(
        default_factory=dict
    )
    points: Annotated[Items[MetricRow], Field(max_length=MAX_POINTS)] = Field(default_factory=list)
    checkpoints: Annotated[list[SavedCheckpoint], Field(max_length=100)] = Field(
        default_factory=list
    )
    effective_hyperparams: JsonObject | None = None
    source: JsonObject | None = None
    finished: bool = False
    failed: Annotated[str, StringConstraints(max_length=2000), AfterValidator(clean)] | None = None
    _columns: dict[str, Column] | None = PrivateAttr(default=None)

    @property
    def columns(self) -> dict[str, Column]:
        """The points by key, rows after columns."""
        if self._columns is None:
            self._columns = _columns(self)
        return self._columns

    @model_validator(mode="after")
    def _check_point_count(self) -> "ReportRequest":
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


def _columns(report: ReportRequest) -> dict[str, Column]:
    parts: dict[str, list[Column]] = defaultdict(list)
    for key, reported in report.metrics.items():
        if reported.steps:
            wall_times = reported.wall_times or [None] * len(reported.steps)
            parts[key].append(
                Column(reported.steps, _numbers(reported.values), _numbers(wall_times))
            )
    rows: dict[str, list[MetricRow]] = defaultdict(list)
    for row in report.points:
        rows[row["key"]].append(row)
    for key, own in rows.items():
        values = _numbers([row["value"] for row in own])
        times = _numbers([row.get("wall_time") for row in own])
        parts[key].append(Column([row["step"] for row in own], values, times))
    return {key: own[0] if len(own) == 1 else join_columns(own) for key, own in parts.items()}


def _numbers(values: Sequence[float | str | None]) -> Sequence[float]:
    """Return the same numbers as floats; a missing one is NaN."""
    try:
        return array("d", cast(Sequence[float], values))
    except TypeError:  # one is missing, or named
        return array("d", [math.nan if value is None else float(value) for value in values])


_PLAIN = {"attempt", "batch", "session", "step", "total_steps"}
_COLUMNS = {"steps", "values"}
_TIMED = _COLUMNS | {"wall_times"}
_get_step, _get_value, _get_wall_time = map(itemgetter, ("step", "value", "wall_time"))
_LISTS = {list, NoneType}
_NUMBERS = {float, int}
_BOOLEAN = 1
"""The highest number that `true` or `false` may pass for: `struct` takes them for 1 and 0."""


def read_plain(body: bytes) -> ReportRequest | None:
    """Return a report of points that are plain numbers, as columns or as rows.

    None: the model has to read it, or to say what is wrong. All that the model would check is
    checked, but by whole columns: `struct` refuses what is no number, or no int64.
    """
    try:
        document = orjson.loads(body)
        rows, metrics = document.pop("points", []), document.pop("metrics", {})
        if not document.keys() <= _PLAIN or type(rows) is not list or type(metrics) is not dict:
            return None
        if rows and metrics:
            return None
        columns = dict(_of_rows(rows) if rows else _of_metrics(metrics))
        if sum(len(column.steps) for column in columns.values()) > MAX_POINTS:
            return None
        report = ReportRequest.model_validate(document)
    except (AttributeError, LookupError, TypeError, ValueError, struct.error):
        return None
    report._columns = columns
    return report


def _of_rows(rows: list[Any]) -> Iterator[tuple[str, Column]]:
    """Yield the columns of rows that all have a wall time, or none. Raises for other rows."""
    size = len(rows[0])
    if size not in (3, 4) or set(map(len, rows)) != {size}:
        raise ValueError
    by_key: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        by_key[row["key"]].append(row)
    for key, own in by_key.items():
        wall_times = list(map(_get_wall_time, own)) if size == 4 else None
        yield _column(key, list(map(_get_step, own)), list(map(_get_value, own)), wall_times)


def _of_metrics(metrics: dict[str, Any]) -> Iterator[tuple[str, Column]]:
    if len(metrics) > MAX_KEYS:
        raise ValueError
    for key, own in metrics.items():
        if own.keys() != _COLUMNS and own.keys() != _TIMED:
            raise ValueError
        yield _column(key, own["steps"], own["values"], own.get("wall_times"))


def _column(key: Any, steps: Any, values: Any, wall_times: Any) -> tuple[str, Column]:
    """Return a key and its column. Raises for whatever the model would not take, or has to see."""
    if not type(steps) is type(values) is list or type(wall_times) not in _LISTS:
        raise ValueError
    count = len(steps)
    if len(values) != count or not (1 <= len(key) <= MAX_METRIC_KEY and key.isprintable()):
        raise ValueError
    # Of numbers that rise already, `sorted` is faster than `min`.
    lowest = sorted(steps)[0]
    if lowest <= _BOOLEAN and (lowest < 0 or set(map(type, steps)) != {int}):
        raise ValueError
    if not set(map(type, values)) <= _NUMBERS:
        raise ValueError
    if wall_times is not None:
        rising = sorted(wall_times)
        if len(rising) != count or rising[0] <= _BOOLEAN or rising[-1] >= END_OF_TIME:
            raise ValueError
    times = _pack("d", wall_times or [math.nan] * count)
    return key, Column(_pack("q", steps), _pack("d", values), times)


def _pack(code: str, numbers: list[Any]) -> "array[Any]":
    """Return an array, in a third of the time that `array` takes. Raises struct.error."""
    packed = array(code)
    packed.frombytes(struct.pack(f"{len(numbers)}{code}", *numbers))
    return packed
