"""Alert rules of a project: what it wants to be told of, once for each run until it recovers.

A rule about an event fires in that event's transaction (`FIRES`, `RECOVERS`). A rule about the
values of a metric is fed with them, point by point (`MetricWatch`).
"""

from enum import StrEnum
from typing import Annotated, NamedTuple

from pydantic import ConfigDict, Field

from app.domain import health
from app.domain.health import HealthRule
from app.domain.points import MAX_STEP
from app.domain.requests import MetricKey, Name, Number, Request, Slug

MAX_RULES = 100
"""Of a project: each run under way is compared with all of them."""
MAX_POINTS = 1_000


class AlertKind(StrEnum):
    """The kind of event or condition that a rule watches for."""

    RUN_FAILED = "run_failed"
    RUN_FINISHED = "run_finished"
    RUN_STALLED = "run_stalled"
    METRIC_NAN = "metric_nan"
    METRIC_SPIKE = "metric_spike"
    METRIC_THRESHOLD = "metric_threshold"
    CHECKPOINT_RELEASED = "checkpoint_released"


class Direction(StrEnum):
    """The side of a bound on which a metric should not be."""

    ABOVE = "above"
    BELOW = "below"


FIRES: dict[str, frozenset[AlertKind]] = {
    "run.failed": frozenset({AlertKind.RUN_FAILED, AlertKind.RUN_FINISHED}),
    "run.succeeded": frozenset({AlertKind.RUN_FINISHED}),
    "run.cancelled": frozenset({AlertKind.RUN_FINISHED}),
    "run.stalled": frozenset({AlertKind.RUN_STALLED}),
    "run.unhealthy": frozenset({AlertKind.METRIC_NAN}),
    "checkpoint.released": frozenset({AlertKind.CHECKPOINT_RELEASED}),
}
"""The kinds of rules that an event can fire."""
RECOVERS: dict[str, frozenset[AlertKind]] = {
    "run.recovered": frozenset({AlertKind.RUN_STALLED}),
    # A new attempt begins from a good checkpoint.
    "run.running": frozenset({AlertKind.RUN_STALLED, AlertKind.METRIC_NAN}),
}
"""The kinds of rules that recover by an event."""
WATCHED = frozenset({AlertKind.METRIC_SPIKE, AlertKind.METRIC_THRESHOLD})
"""Kinds that are about the values of a metric."""


class AlertRuleRequest(Request):
    """Have a project told of something, once for each run until it recovers."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"kind": "run_failed"},
                {
                    "kind": "metric_threshold",
                    "metric": "val_loss",
                    "direction": "above",
                    "value": 3.0,
                    "points": 5,
                },
                {"kind": "metric_spike", "metric": "loss", "value": 8},
            ]
        }
    )

    project: Slug | None = Field(
        default=None, description="Name of the project; left out: your only one, or the default."
    )
    name: Name | None = None
    kind: AlertKind
    metric: MetricKey | None = Field(
        default=None,
        description="Of a threshold or a spike; of a NaN, left out: every metric.",
    )
    direction: Direction | None = Field(default=None, description="Of a threshold.")
    value: Number | None = Field(
        default=None,
        description="Of a threshold the bound; of a spike, how many times the usual spread it is "
        "above the median of the last 50 values.",
    )
    points: Annotated[int, Field(ge=1, le=MAX_POINTS)] = Field(
        default=1, description="For how many points in a row, before it fires or recovers."
    )

    def find_fault(self) -> tuple[str, str] | None:
        """Return the field that its kind needs or does not have, and a sentence; None if right."""
        is_watched = self.kind in WATCHED
        for name, is_needed, is_allowed in (
            ("metric", is_watched, is_watched or self.kind is AlertKind.METRIC_NAN),
            ("value", is_watched, is_watched),
            ("direction", *(self.kind is AlertKind.METRIC_THRESHOLD,) * 2),
        ):
            if is_needed and getattr(self, name) is None:
                return name, f"A rule of the kind {self.kind} needs {name}."
            if not is_allowed and getattr(self, name) is not None:
                return name, f"A rule of the kind {self.kind} has no {name}."
        if self.points != 1 and not is_watched:
            return "points", f"A rule of the kind {self.kind} has no points."
        if self.kind is AlertKind.METRIC_SPIKE and self.value is not None and self.value <= 0:
            return "value", "The value of a spike must be above 0."
        return None


class AlertRuleUpdate(Request):
    """Change an alert rule, or pause it. Fields that are left out stay."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"paused": True}]})

    name: Name | None = None
    value: Number | None = None
    points: Annotated[int, Field(ge=1, le=MAX_POINTS)] | None = None
    paused: bool | None = None


class Change(NamedTuple):
    """A rule that fires or recovers, at a point of its metric."""

    fired: bool
    step: int
    value: float


class MetricWatch:
    """Follows one metric of one attempt by one rule."""

    def __init__(self, kind: AlertKind, direction: str | None, value: float, points: int) -> None:
        self._kind, self._direction, self._value, self._points = kind, direction, value, points
        self._detector = health.Detector(health.Rule(HealthRule.SPIKE, value=value))
        self._is_firing = False
        self._streak = 0
        self.next_step = 0
        """Of the next point to be fed."""
        self.good: Change | None = None
        """The last point, as a recovery, if it is a good one and no alert fires."""
        self.is_recorded = False
        """An alert that this watch has not seen is known not to fire."""

    def feed(self, step: int, value: float) -> Change | None:
        """Take in the next point; return a change once enough points in a row call for it.

        A value that is not finite counts for neither side.
        """
        self.next_step = min(step + 1, MAX_STEP)
        if value - value != 0:  # NaN or infinite
            return None
        self._streak = self._streak + 1 if self._is_bad(step, value) != self._is_firing else 0
        self.good = None if self._is_firing or self._streak else Change(False, step, value)
        if self._streak < self._points:
            return None
        self._is_firing, self._streak = not self._is_firing, 0
        return Change(self._is_firing, step, value)

    def _is_bad(self, step: int, value: float) -> bool:
        if self._kind is AlertKind.METRIC_SPIKE:
            return self._detector.feed("", step, value) is not None
        return value > self._value if self._direction == Direction.ABOVE else value < self._value


def describe(
    kind: AlertKind, direction: str | None, metric: str | None, bound: float | None
) -> str:
    """Return what a rule is about, in words for people."""
    words = {
        AlertKind.RUN_FAILED: "the run failed",
        AlertKind.RUN_FINISHED: "the run ended",
        AlertKind.RUN_STALLED: "training stands still",
        AlertKind.METRIC_NAN: f"{metric or 'a metric'} is NaN",
        AlertKind.METRIC_SPIKE: f"{metric} has a spike",
        AlertKind.METRIC_THRESHOLD: f"{metric} is {direction} {bound or 0:g}",
        AlertKind.CHECKPOINT_RELEASED: "a checkpoint was released",
    }
    return words[kind]
