"""Types of the fields of `Recipe`: each validates one key of a recipe.

Each raises ValueError with a message for the operator, shown after the file, the table and the
key; Pydantic's own messages would name Python types.
"""

import math
import re
import signal
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, PlainValidator

from app.domain.health import MAX_WINDOW, MIN_WINDOW, HealthAction, HealthRule, Rule
from app.domain.resources import Resources

LONGEST_CONFIGURED_PAUSE = 86_400.0
DEFAULT_RETRY_ON = (
    "exit_code", "signal", "heartbeat_lost", "launcher_error",
    "preempted", "node_failed", "stopped_elsewhere", "lost",
)  # fmt: skip
RETRY_REASONS = (*DEFAULT_RETRY_ON, "unfinished", "out_of_memory")
"""Reasons that `retry_on` may name."""
RESERVED = "LLM_TRAIN_"
"""The service's own variables; its secrets are among them, so none is ever passed on."""
EnumT = TypeVar("EnumT", bound=StrEnum)

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\*?|\*")


def string(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("must be a string without NUL")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list of strings")
    return tuple(string(item) for item in value)


def _whole(least: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"must be a whole number, {least} or more")
        return value

    return parse


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number of seconds")
    if not 0 <= value < math.inf:
        raise ValueError("must be a number of seconds, 0 or more")
    return float(value)


def _pause(value: Any) -> float:
    seconds = _seconds(value)
    if seconds > LONGEST_CONFIGURED_PAUSE:
        raise ValueError(f"must be {LONGEST_CONFIGURED_PAUSE:g} seconds (a day) at most")
    return seconds


def _launchers(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (string(value),)
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("must be the name of a launcher, or a list of names in their order")
    names = _strings(value)
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ValueError(f"{name!r} is named twice")
    return names


def _command(value: Any) -> tuple[str, ...]:
    command = _strings(value)
    if not command or not command[0]:
        raise ValueError("must name a program in its first word")
    return command


def _stop_signal(value: Any) -> signal.Signals | None:
    if value is None or value == "none":
        return None
    if isinstance(value, signal.Signals):
        return value
    wanted = signal.Signals.__members__.get(string(value))
    if wanted is None or wanted.name in ("SIGKILL", "SIGSTOP"):
        raise ValueError(
            f"{value!r} is no signal that a trainer can catch, like 'SIGTERM', nor 'none'"
        )
    return wanted


def _environment(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("must be a table of strings")
    for name in value:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a variable")
        if name.startswith(RESERVED):
            raise ValueError(f"{name}: {RESERVED}* belongs to the service")
    return {name: string(item) for name, item in value.items()}


def _patterns(value: Any) -> tuple[str, ...]:
    patterns = _strings(value)
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise ValueError(f"{pattern!r} is neither a name nor a name that ends in one *")
        if pattern.startswith(RESERVED):
            raise ValueError(f"{pattern}: {RESERVED}* is never passed on")
    return patterns


def _retry_on(value: Any) -> tuple[str, ...]:
    reasons = _strings(value)
    for reason in reasons:
        if reason not in RETRY_REASONS:
            raise ValueError(f"{reason!r} is unknown; known are {', '.join(RETRY_REASONS)}")
    return reasons


def _health(value: Any) -> tuple[Rule, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(v, dict | Rule) for v in value):
        raise ValueError("must be a list of tables")
    return tuple(item if isinstance(item, Rule) else _health_rule(item) for item in value)


def _health_rule(table: dict[str, Any]) -> Rule:
    """Check one rule. Raises ValueError."""
    known = {"rule", "metric", "value", "window", "action"}
    if unknown := table.keys() - known:
        raise ValueError(f"{min(unknown)}: unknown; known are {', '.join(sorted(known))}")
    try:
        rule, action = HealthRule(table.get("rule", "")), HealthAction(table.get("action", "event"))
    except ValueError as error:
        raise ValueError(
            f"{error}; rule is one of {', '.join(HealthRule)}, action of {', '.join(HealthAction)}"
        ) from None
    metric = string(table["metric"]) if "metric" in table else None
    if metric is None and rule is not HealthRule.NAN:
        raise ValueError(f"a rule {rule.value!r} needs its metric")
    value = table.get("value", 8.0 if rule is HealthRule.SPIKE else None)
    if rule is HealthRule.NAN:
        value = 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a rule {rule.value!r} needs its value, a number")
    if rule is HealthRule.SPIKE and value <= 0:
        raise ValueError("the value of a spike must be more than 0")
    window = _whole(MIN_WINDOW)(table.get("window", 50))
    if window > MAX_WINDOW:
        raise ValueError(f"window: must be {MAX_WINDOW:,} at most")
    return Rule(rule, metric, float(value), window, action)


def _folders(value: Any) -> str:
    pattern = string(value)
    if not pattern:
        return ""
    parts = pattern.split("/")
    fits = all(part and part not in (".", "..") for part in parts)
    if len(pattern) > 200 or not fits or any("**" in part and part != "**" for part in parts):
        raise ValueError("must be a folder of the run's directory, such as 'runs' or 'runs/**'")
    return pattern


def _path(value: Any) -> Path | None:
    return value if value is None or isinstance(value, Path) else Path(string(value))


def _table(value: Any) -> Any:
    if not isinstance(value, dict | Resources):
        raise ValueError("must be a table")
    return value


def one_of(choices: type[EnumT]) -> Callable[[Any], EnumT]:
    """Return the validator of a text that is one of an enum's."""

    def parse(value: Any) -> EnumT:
        try:
            return choices(string(value))
        except ValueError:
            raise ValueError(f"must be one of {', '.join(choices)}") from None

    return parse


Text = Annotated[str, PlainValidator(string)]
Flag = Annotated[bool, PlainValidator(_boolean)]
Seconds = Annotated[float, PlainValidator(_seconds)]
Pause = Annotated[float, PlainValidator(_pause)]
AtLeastOne = Annotated[int, PlainValidator(_whole(1))]
Number = Annotated[int, PlainValidator(_whole(0))]
Command = Annotated[tuple[str, ...], PlainValidator(_command)]
Launchers = Annotated[tuple[str, ...], PlainValidator(_launchers)]
StopSignal = Annotated[signal.Signals | None, PlainValidator(_stop_signal)]
Environment = Annotated[Mapping[str, str], PlainValidator(_environment)]
Patterns = Annotated[tuple[str, ...], PlainValidator(_patterns)]
RetryReasons = Annotated[tuple[str, ...], PlainValidator(_retry_on)]
HealthRules = Annotated[tuple[Rule, ...], PlainValidator(_health)]
Folders = Annotated[str, PlainValidator(_folders)]
OptionalPath = Annotated[Path | None, PlainValidator(_path)]
Needs = Annotated[Resources, BeforeValidator(_table)]
