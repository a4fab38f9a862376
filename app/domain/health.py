"""Rules of a recipe over its metrics: NaN, spikes, limits. Pure: points in, findings out.

detector = make_detector(rule)
finding = detector.feed(step, value)      None as long as the metric is well
"""

import math
from collections import deque
from enum import StrEnum
from typing import NamedTuple

from app.domain.reports import SYSTEM

MIN_WINDOW, MAX_WINDOW = 5, 1_000


class HealthRule(StrEnum):
    """A problem that a metric may have."""

    NAN = "nan"
    SPIKE = "spike"
    BELOW = "below"
    ABOVE = "above"


class HealthAction(StrEnum):
    """The action taken when a rule finds a problem."""

    EVENT = "event"
    STOP = "stop"
    RETRY = "retry"


class Rule(NamedTuple):
    """One rule. `metric` None: every metric (of `nan` alone).

    `value`: the limit; of a spike, how many times the usual spread it is above the median of the
    last `window` values.
    """

    rule: HealthRule
    metric: str | None = None
    value: float = 0.0
    window: int = 50
    action: HealthAction = HealthAction.EVENT

    def covers(self, key: str) -> bool:
        """Return True if the rule is about this metric."""
        return is_watched(key) if self.metric is None else self.metric == key


class Finding(NamedTuple):
    """A problem that a rule has found, with one sentence for people."""

    rule: HealthRule
    key: str
    step: int
    value: float
    detail: str


def is_watched(key: str) -> bool:
    """Return True if a NaN of this metric says something: the machine's own may lack values."""
    return not key.startswith(SYSTEM)


def describe_nan(key: str, step: int) -> Finding:
    """Return the finding of a metric that is not a number."""
    return Finding(HealthRule.NAN, key, step, math.nan, f"{key} is NaN at step {step}.")


class Detector:
    """Watches one metric by one rule that is not `nan`."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._values: deque[float] = deque(maxlen=rule.window)

    def feed(self, key: str, step: int, value: float) -> Finding | None:
        """Take in the next value; return a finding if it breaks the rule."""
        kind, limit = self._rule.rule, self._rule.value
        if not math.isfinite(value):
            return None
        if kind is HealthRule.BELOW and value < limit:
            return Finding(kind, key, step, value, f"{key} is {value:g} at step {step}, "
                           f"below {limit:g}.")  # fmt: skip
        if kind is HealthRule.ABOVE and value > limit:
            return Finding(kind, key, step, value, f"{key} is {value:g} at step {step}, "
                           f"above {limit:g}.")  # fmt: skip
        if kind is HealthRule.SPIKE:
            return self._feed_spike(key, step, value)
        return None

    def _feed_spike(self, key: str, step: int, value: float) -> Finding | None:
        """Compare a value with the median and the median deviation of those before it.

        A value that is a spike does not become part of what is usual.
        """
        if len(self._values) >= max(MIN_WINDOW, self._rule.window // 2):
            from statistics import median  # few runs have such a rule

            middle = median(self._values)
            deviation = median(abs(earlier - middle) for earlier in self._values)
            # Of values that hardly differ, or of two that take turns, the deviation is near 0.
            spread = max(1.4826 * deviation, 0.01 * abs(middle), 1e-12)
            if value - middle > self._rule.value * spread:
                detail = (
                    f"{key} is {value:g} at step {step}; the median of the last "
                    f"{len(self._values)} values is {middle:g}."
                )
                return Finding(HealthRule.SPIKE, key, step, value, detail)
        self._values.append(value)
        return None


class HealthWatch:
    """The state kept for one attempt: a detector for each rule, and how far each has read."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = [(rule, Detector(rule)) for rule in rules if rule.rule is not HealthRule.NAN]
        self.next_steps = [0] * len(self.rules)
        self.checked_at: str | None = None
