"""Values of a training loop as values of a report.

read_key, read_number    a metric's name, and its value: a number, or what holds one
read_count               a step
to_json                  a hyperparameter as JSON: a number, or readable text

Each raises InvalidValue, and nothing else, for a value that a report cannot hold. The values are
arbitrary objects, so every method of theirs that is called may raise anything.
"""

import enum
import json
import math
import operator
import re
import reprlib
from collections.abc import Mapping
from typing import Any

# The service's bounds (app.domain.requests).
MAX_KEY_LENGTH = 200
MAX_DEPTH = 16
MAX_OBJECT_BYTES = 64 * 1024

NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class InvalidValue(ValueError):
    """A value that a report cannot hold; the message completes the sentence "X: it …"."""


def read_key(key: Any) -> str:
    """Return the name of a metric. Raises InvalidValue."""
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_LENGTH or not key.isprintable():
        raise InvalidValue("a metric's name must be 1 to 200 printable characters")
    return key


def read_number(value: Any) -> float:
    """Return the one number that `value` is or holds (`.item()`). Raises InvalidValue."""
    if type(value) is float:
        return value
    try:
        if isinstance(value, str | bytes | bytearray):
            raise TypeError
        return float(value.item() if hasattr(value, "item") else value)
    except Exception:
        raise InvalidValue(f"it must be one number, not {describe(value)}") from None


def read_count(value: Any) -> int:
    """Return a step, or a number of steps. Raises InvalidValue."""
    if type(value) is int and 0 <= value < 2**63:
        return value
    try:
        if isinstance(value, str | bytes | bytearray):
            raise TypeError
        try:
            count = int(operator.index(value))
        except TypeError:
            number = float(value.item() if hasattr(value, "item") else value)
            count = int(number) if number.is_integer() else -1
    except Exception:
        count = -1
    if not 0 <= count < 2**63:
        raise InvalidValue(f"it must be a whole number from 0, not {describe(value)}")
    return count


def to_json(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a JSON object: numbers as numbers, containers as such, the rest as readable text.

    Raises InvalidValue when that is larger than the service takes of all hyperparameters of a run.
    """
    room = [MAX_OBJECT_BYTES]
    return {_text(str(key)): _to_json(value, 2, room) for key, value in values.items()}


def json_size(value: Any) -> int:
    """Return the bytes of `value` as compact JSON in UTF-8."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def describe(value: Any) -> str:
    """Return one short line that shows `value`, for a warning."""
    try:
        text = " ".join(reprlib.repr(value).split())
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _to_json(value: Any, depth: int, room: list[int]) -> Any:
    """Return a value as JSON. `room` is the number of bytes left, at least one for each value."""
    room[0] -= 1
    if room[0] < 0:
        raise InvalidValue(f"it is larger than {MAX_OBJECT_BYTES:,} bytes")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        value = value.value if isinstance(value.value, str | int | float) else value.name
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else str(int(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else NOT_FINITE[str(float(value))]
    try:
        if depth < MAX_DEPTH:
            if hasattr(type(value), "__dataclass_fields__"):
                value = _fields(value)
            if isinstance(value, Mapping):
                return {
                    _text(str(key)): _to_json(item, depth + 1, room) for key, item in value.items()
                }
            if isinstance(value, set | frozenset):
                value = sorted(value, key=str)
            if isinstance(value, list | tuple):
                return [_to_json(item, depth + 1, room) for item in value]
        if hasattr(value, "item"):
            return _to_json(_shortest(value), depth, room)
        if callable(value) and hasattr(value, "__qualname__"):
            return _text(f"{value.__module__}.{value.__qualname__}")
    except InvalidValue:
        raise
    except Exception:  # noqa: S110 - shown as text, like any other object
        pass
    try:
        # Containers nested too deep, maybe in themselves, are shown as Python shows those.
        return "..." if isinstance(value, list | tuple | Mapping) else _text(str(value))
    except Exception:
        return f"a {type(value).__name__}"


def _fields(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name."""
    import dataclasses  # with `inspect`: a tenth of all that a trainer's start imports

    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _shortest(value: Any) -> Any:
    """Return the number in a NumPy scalar or a tensor of one element.

    NumPy's float32 0.0001 is told as 0.0001 and not as 9.999999747378752e-05.
    """
    number = value.item()
    if isinstance(number, float):
        try:
            return float(str(value))
        except ValueError:
            return number
    if isinstance(number, bool | int | str | bytes):
        return number
    return str(value)


def _text(text: str) -> str:
    return _UNSTORABLE.sub("\ufffd", str.__str__(text))
