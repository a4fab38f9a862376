"""Filters and orders of lists as GraphQL inputs.

The fields, their types and limits are those of `app.domain.filters`, which validates the values;
`get_conditions` and `order` translate an input for `app.db.keyset`.
"""

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import Any, TypeVar

import strawberry
from pydantic import BaseModel, ValidationError
from strawberry.utils.str_converters import to_camel_case

from app.db.cursors import Order
from app.db.list_statements import Listing
from app.db.listing import EVENTS
from app.domain import filters
from app.domain.lifecycle import CheckpointState, RunStatus
from app.errors import InvalidInput
from app.graphql.describe import attribute, enum, input, optional
from app.graphql.scalars import DateTime

M = TypeVar("M", bound=BaseModel)

for _enum, _description in (
    (RunStatus, "Status of a run."),
    (CheckpointState, "State of a checkpoint."),
):
    strawberry.enum(_enum, description=_description)


@enum
class OrderDirection(Enum):
    """Sort direction."""

    ASC = "asc"
    DESC = "desc"


@input
class MetricRange:
    """The latest value of a metric lies in a range, ends included. NaN lies in none."""

    key: str = attribute("The metric's key.")
    min: float | None = optional("Smallest value.")
    max: float | None = optional("Largest value.")


@input
class ParamRange:
    """The number of a hyperparameter lies in a range, ends included."""

    key: str = attribute("Its name; of a nested object, dotted: `optimizer.lr`.")
    min: float | None = optional("Smallest value.")
    max: float | None = optional("Largest value.")


def _archived() -> Any:
    return strawberry.field(description="Archived, or not; null for both.", default=False)


@input
class ExperimentFilter:
    """Conditions on experiments; all that are given must hold."""

    task_type: str | None = optional("Exactly this task type.")
    owner: str | None = optional("Exactly this owner.")
    base_model: str | None = optional("Exactly this base model.")
    project_id: strawberry.ID | None = optional("Of this project.")
    tags: list[str] | None = optional("Has every one of these tags.")
    search: str | None = optional("The id, or text in what describes it; at most 200 characters.")
    created_after: DateTime | None = optional("Created at this time or later.")
    created_before: DateTime | None = optional("Created before this time.")
    archived: bool | None = _archived()


@input
class RunFilter:
    """Conditions on runs; all that are given must hold."""

    experiment_id: strawberry.ID | None = optional("Of this experiment.")
    ids: list[strawberry.ID] | None = optional("One of these runs, at most 500.")
    id_ends: str | None = optional("Its id ends with these 4 to 26 characters.")
    name: str | None = optional("Of exactly this name.")
    status: list[RunStatus] | None = optional("In one of these statuses.")
    model: str | None = optional("Of exactly this model.")
    recipe: str | None = optional("Of exactly this recipe.")
    parent_run_id: strawberry.ID | None = optional("Resumed from this run.")
    root_run_id: strawberry.ID | None = optional("In the lineage that began with this run.")
    tags: list[str] | None = optional("The run or its experiment has every one of these tags.")
    task_type: str | None = optional("The experiment has exactly this task type.")
    owner: str | None = optional("The experiment has exactly this owner.")
    project_id: strawberry.ID | None = optional("The experiment is of this project.")
    search: str | None = optional(
        "The id, or text in the model, recipe, name, tags or notes: 1 to 200 characters."
    )
    created_after: DateTime | None = optional("Created at this time or later.")
    created_before: DateTime | None = optional("Created before this time.")
    metric: MetricRange | None = optional("The latest value of one metric.")
    hyperparam: ParamRange | None = optional("The number of one hyperparameter.")
    archived: bool | None = _archived()


@input
class CheckpointFilter:
    """Conditions on checkpoints; all that are given must hold."""

    experiment_id: strawberry.ID | None = optional("Of this experiment.")
    run_id: strawberry.ID | None = optional("Of this run.")
    state: list[CheckpointState] | None = optional("In one of these states.")
    tag_type: str | None = optional("Marked with exactly this tag.")
    release_tag: str | None = optional("Marked with exactly this release tag.")
    marked: bool | None = optional("Marked, or not marked.")


@input
class EventFilter:
    """Conditions on events; all that are given must hold."""

    run_id: strawberry.ID | None = optional("Of this run.")
    type: str | None = optional("Of exactly this type.")


@enum
class ExperimentOrderField(Enum):
    """Sort fields of experiments."""

    CREATED_AT = "created_at"
    NAME = "name"


@enum
class RunOrderField(Enum):
    """Sort fields of runs."""

    CREATED_AT = "created_at"
    STARTED_AT = "started_at"
    FINISHED_AT = "finished_at"
    STEP = "step"
    METRIC = "metric"


@enum
class CheckpointOrderField(Enum):
    """Sort fields of checkpoints; by `STEP` the whole list is read for each page."""

    CREATED_AT = "created_at"
    MARKED_AT = "marked_at"
    STEP = "step"


def _direction() -> Any:
    return strawberry.field(
        description="Sort direction; rows without a value come last in either.",
        default=OrderDirection.DESC,
    )


@input
class ExperimentOrder:
    """Order of experiments; newest first if left out."""

    field: ExperimentOrderField = attribute("Sort field.")
    direction: OrderDirection = _direction()


@input
class RunOrder:
    """Order of runs; newest first if left out."""

    field: RunOrderField = attribute("Sort field.")
    direction: OrderDirection = _direction()
    metric_key: str | None = optional("Key of the metric, for the field METRIC.")


@input
class CheckpointOrder:
    """Order of checkpoints; newest first if left out."""

    field: CheckpointOrderField = attribute("Sort field.")
    direction: OrderDirection = _direction()


def get_given(values: Any) -> dict[str, Any]:
    """Return the fields of an input that were given."""
    if values is None:
        return {}
    chosen = {}
    for field in fields(values):
        value = getattr(values, field.name)
        # In a field that null clears, what was left out is UNSET.
        if value is not (strawberry.UNSET if field.default is strawberry.UNSET else None):
            chosen[field.name] = value
    return chosen


def check_text(text: str) -> str:
    """Return a text to look up. Raises InvalidInput for NUL, which PostgreSQL rejects."""
    if "\0" in text:
        raise InvalidInput("A text must not hold NUL.")
    return text


def get_conditions(chosen: Any) -> dict[str, Any]:
    """Return a filter input as the conditions of a listing. Raises InvalidInput."""
    if chosen is None:
        return {}
    kind, values = _KINDS[type(chosen)], get_given(chosen)
    if hasattr(chosen, "archived"):
        values["archived"] = chosen.archived
    for name in filters.RANGES:
        if (wanted := values.pop(name, None)) is not None:
            values |= {name: wanted.key, f"{name}_min": wanted.min, f"{name}_max": wanted.max}
    return filters.get_conditions(kind, validate(kind, values, "filter"))


def validate(model: type[M], values: Mapping[str, Any], *path: str) -> M:
    """Return arguments as an object. Raises InvalidInput, which names one by its path."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join([*path, *(to_camel_case(str(part)) for part in first["loc"])])
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"`{name}`: {message}.") from None


def get_default_conditions(listed: Listing[Any]) -> dict[str, Any]:
    """Return the conditions of a list without a filter."""
    return {"active": True} if "active" in listed.filters else {}


_KINDS: dict[type, type[filters.Filter]] = {
    ExperimentFilter: filters.ExperimentFilter,
    RunFilter: filters.AnyRunFilter,
    CheckpointFilter: filters.AnyCheckpointFilter,
    EventFilter: filters.EventFilter,
}


def order(chosen: Any, listed: Listing[Any]) -> Order:
    """Return an order input as the order of a listing. Raises InvalidInput."""
    if chosen is None:
        return Order("seq", descending=False) if listed is EVENTS else Order("created_at")
    metric_key = get_given(chosen).get("metric_key")
    check_text(metric_key or "")
    if (chosen.field.value == "metric") != (metric_key is not None):
        raise InvalidInput("`metricKey` goes with the field METRIC, and METRIC with `metricKey`.")
    return Order(chosen.field.value, chosen.direction is OrderDirection.DESC, metric_key)
