"""Values of tracking clients (MLflow, W&B), converted to this service's.

Their parameters are texts, their clock is milliseconds, and a metric on an axis of its own
(`system/…`, or without a step) says nothing about the training loop.
"""

import ast
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app.domain.reports import SYSTEM
from app.domain.requests import check_object

MAX_LABELS = 1_000
"""Labels of one experiment, run or model."""
MAX_LABEL_KEY = 250
MAX_LABEL = 8_000
MAX_LINKS = 1_000
"""Data sets and models of one run."""
NAME_LABEL = "mlflow.runName"
"""The label that is a run's name."""
_WORDS = {"True": True, "False": False, "None": None}


def parse_parameter(text: str, requested: Any = None) -> Any:
    """Return the value that a parameter was before its client made a text of it.

    Args:
        requested: the hyperparameter of the same name; where that is a text, this stays one.
    """
    if isinstance(requested, str):
        return text
    if text in _WORDS:
        return _WORDS[text]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = _literal(text)
    return text if _is_not_json(value) else value


def fit_hyperparams(
    known: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return what of a client's config can be kept beside what is known, and names of the rest.

    A config may hold a model's whole configuration: where it is too large, the largest values go.
    A number that JSON does not have is kept as a text.
    """
    values = {key: _finite(value) for key, value in config.items()}
    left_out = [key for key, value in values.items() if not _fits({key: value})]
    fitting = {key: value for key, value in values.items() if key not in set(left_out)}
    sizes = {key: len(json.dumps(fitting[key])) for key in fitting}
    while fitting and not _fits({**known, **fitting}):
        largest = max(fitting, key=lambda key: sizes[key])
        del fitting[largest]
        left_out.append(largest)
    return fitting, [key for key in left_out if key.isprintable()]


def _fits(values: dict[str, Any]) -> bool:
    try:
        check_object(values)
    except ValueError:
        return False
    return True


def _finite(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case list():
            return [_finite(item) for item in value]
        case dict():
            return {key: _finite(item) for key, item in value.items()}
    return value


def _literal(text: str) -> Any:
    """Return the list or dictionary that Python has printed, or the text."""
    if text[:1] not in "[({":
        return text
    try:
        value = ast.literal_eval(text)
        # As it would be stored: a tuple is a list, and a set is no value.
        return json.loads(json.dumps(value, allow_nan=False))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text


def _is_not_json(value: Any) -> bool:
    """Return True for a number that JSON or 64 bits do not have, also inside of a value."""
    match value:
        case float():
            return not math.isfinite(value)
        case bool():
            return False
        case int():
            return not -(2**63) <= value < 2**63
        case list():
            return any(map(_is_not_json, value))
        case dict():
            return any(map(_is_not_json, value.values()))
    return False


def as_text(value: Any) -> str:
    """Return a parameter as its client has sent it, or might have."""
    return value if isinstance(value, str) else str(value)


def wire_number(value: float | None) -> float | str:
    """Return a metric's value in protobuf's JSON: what is no finite number is a text."""
    if value is None or math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def milliseconds(moment: str) -> int:
    """Return a timestamp as milliseconds since 1970."""
    return int(datetime.fromisoformat(moment).timestamp() * 1000)


def moment(milliseconds: int | float | None) -> datetime | None:
    """Return a client's milliseconds since 1970 as a time; None for one that is no time."""
    try:
        return None if not milliseconds else datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def wall_time(milliseconds: int | None) -> float | None:
    """Return a client's milliseconds as unix seconds; None for what is out of range."""
    if milliseconds is None or not 0 <= milliseconds < 253_402_300_800_000:
        return None
    return milliseconds / 1000


def moves_progress(key: str, step: int) -> bool:
    """Return True if a metric tells a step of the training loop.

    A client that gives no step sends 0 each time.
    """
    return step > 0 and not key.startswith(SYSTEM)
