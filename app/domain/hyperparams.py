"""Overrides of a resumed run, compared with the hyperparameters that took effect."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Override(NamedTuple):
    """One overridden hyperparameter. `applied` is None until the trainer reports it."""

    key: str
    requested: Any
    effective: Any
    applied: bool | None


def overrides(requested: Mapping[str, Any], effective: Mapping[str, Any] | None) -> list[Override]:
    """Return each requested override beside the value that the trainer reported to use."""
    used = effective or {}
    return [
        Override(key, value, used.get(key), is_same(value, used[key]) if key in used else None)
        for key, value in requested.items()
    ]


def explain_ignored(overridden: Iterable[Override]) -> str | None:
    """Return what the trainer made of overrides that it ignored; None if it ignored none."""
    ignored = [
        f"{override.key} = {_as_json(override.requested)} and uses {_as_json(override.effective)}"
        for override in overridden
        if override.applied is False
    ]
    return f"The trainer ignored {'; '.join(ignored)}." if ignored else None


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def is_same(value: Any, other: Any) -> bool:
    """Return True if two JSON values mean the same: 1 and 1.0 do, 1 and true do not.

    A number may differ from a fraction by what a 32-bit float loses; two integers may not, or
    another seed would be the same.
    """
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, int) and isinstance(other, int):
        return value == other
    if isinstance(value, int | float) and isinstance(other, int | float):
        return value == other or math.isclose(value, other, rel_tol=1e-6)
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(is_same, value, other))
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(
            is_same(value[key], other[key]) for key in value
        )
    return bool(value == other)
