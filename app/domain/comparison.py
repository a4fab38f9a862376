"""The parameters of several runs side by side, as rows to read."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from app.domain.hyperparams import is_same

MISSING = object()
"""Stands for a parameter that a run does not have; JSON's null is a value."""


class Section(StrEnum):
    """The part of a run that a parameter is in."""

    RUN = "run"
    HYPERPARAMS = "hyperparams"
    DATASET = "dataset"
    RESOURCES = "resources"
    SOURCE = "source"


class Parameter(NamedTuple):
    """One parameter of every run, in the order of the runs; MISSING where one lacks it."""

    section: Section
    key: str
    values: list[Any]
    differs: bool


Parameters = Mapping[Section, Mapping[str, Any]]


def compare(runs: Sequence[Parameters]) -> Iterator[Parameter]:
    """Yield every parameter that any of the runs has: by section, then as the runs name them.

    A nested object is several parameters: `optimizer.betas`.
    """
    for section in Section:
        flat = [dict(flatten(run.get(section, {}))) for run in runs]
        for key in dict.fromkeys(key for run in flat for key in run):
            values = [run.get(key, MISSING) for run in flat]
            yield Parameter(section, key, values, _differ(values))


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested objects under dotted names; an empty object is a leaf."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _differ(values: Sequence[Any]) -> bool:
    first = values[0]
    return any(
        value is not first and (MISSING in (value, first) or not is_same(first, value))
        for value in values[1:]
    )
