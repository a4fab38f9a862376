"""Filters of lists, defined once for REST and GraphQL: their names, types and limits.

REST reads them from the query string (`app/rest/lists.py` adds the page and the order), GraphQL
from an input with the same fields (`app/graphql/filters.py`). `get_conditions` turns either into
the conditions of `app.db.keyset`. `tests/unit/test_filters.py` compares the three.

How to add a filter:
1. add a field with a description here;
2. add a condition with the same name to the listing in `app/db/listing.py`;
3. add the field to the input in `app/graphql/filters.py` and export the schema.
"""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from app.domain.ids import SHORTEST_END, parse_timestamp
from app.domain.lifecycle import CheckpointState, RunStatus
from app.domain.requests import MAX_NAME, MetricKey, Name, Number
from app.domain.text import clean

MAX_VALUES = 50
"""Values of one filter: an experiment has no more tags."""
MAX_IDS = 500
"""Ids in one filter."""
MAX_KEYS = 200
"""Metrics named in one request."""
MIN_POINTS, MAX_POINTS = 10, 20_000
"""Points of a downsampled series."""
MAX_BUCKETS = 5_000
"""Buckets of a curve's bands."""
MAX_LATEST = 20_000
"""Latest metric values read at once."""

Search = Annotated[str, StringConstraints(max_length=MAX_NAME), AfterValidator(clean)]
Moment = Annotated[
    str,
    BeforeValidator(parse_timestamp),
    Field(
        description="ISO 8601 with an offset; in a URL write `Z`, or `%2B` for a plus.",
        json_schema_extra={"format": "date-time"},
    ),
]
Tags = Annotated[list[Name], Field(max_length=MAX_VALUES)]


RANGES = ("metric", "hyperparam")
"""Filters by a key and the range of its value."""
IdEnd = Annotated[str, StringConstraints(pattern=f"^[0-9a-hjkmnp-tv-z]{{{SHORTEST_END},26}}$")]
ParamName = Annotated[str, StringConstraints(pattern=r'^[^\x00-\x1f"\\]{1,200}$')]
"""No quotes: SQLite's paths cannot name a key with one."""
Archived = Annotated[bool | None, BeforeValidator(lambda value: None if value == "any" else value)]
_ARCHIVED = "Archived, or not; `any` for both."


class Filter(BaseModel):
    """Conditions on the rows of a list; all that are given must hold."""

    # Its validator is built by the first list that is asked, not at every start.
    model_config = ConfigDict(extra="forbid", defer_build=True)


class ExperimentFilter(Filter):
    """Conditions on experiments."""

    task_type: Name | None = Field(None, description="Exactly this task type.")
    owner: Name | None = Field(None, description="Exactly this owner.")
    base_model: Name | None = Field(None, description="Exactly this base model.")
    project_id: Name | None = Field(None, description="Of this project.")
    tags: Tags = Field(default_factory=list, description="Every one of these tags; repeatable.")
    search: Search | None = Field(None, description="The id, or text in any descriptive field.")
    created_after: Moment | None = Field(None, description="Created at this time or later.")
    created_before: Moment | None = Field(None, description="Created before this time.")
    archived: Archived = Field(False, description=_ARCHIVED)


class RunFilter(Filter):
    """Conditions on the runs of an experiment."""

    ids: Annotated[list[Name], Field(max_length=MAX_IDS)] = Field(
        default_factory=list, description="One of these runs; repeatable."
    )
    id_ends: IdEnd | None = Field(None, description="Its id ends with this text.")
    name: Name | None = Field(None, description="Exactly this name.")
    status: Annotated[list[RunStatus], Field(max_length=MAX_VALUES)] = Field(
        default_factory=list, description="One of these statuses; repeatable."
    )
    model: Name | None = Field(None, description="Exactly this model.")
    recipe: Name | None = Field(None, description="Exactly this recipe.")
    parent_run_id: Name | None = Field(None, description="Resumed from this run.")
    root_run_id: Name | None = Field(None, description="In the lineage that began with this run.")
    tags: Tags = Field(
        default_factory=list,
        description="The run or its experiment has every one of these tags; repeatable.",
    )
    task_type: Name | None = Field(None, description="The experiment has exactly this task type.")
    owner: Name | None = Field(None, description="The experiment has exactly this owner.")
    project_id: Name | None = Field(None, description="The experiment is of this project.")
    search: Search | None = Field(
        None, description="The id, or text in the model, recipe, name, tags or notes."
    )
    created_after: Moment | None = Field(None, description="Created at this time or later.")
    created_before: Moment | None = Field(None, description="Created before this time.")
    metric: MetricKey | None = Field(
        None, description="Key of the metric whose latest value is within the given range."
    )
    metric_min: Number | None = Field(None, description="Smallest latest value of `metric`.")
    metric_max: Number | None = Field(None, description="Largest latest value of `metric`.")
    hyperparam: ParamName | None = Field(
        None,
        description="Name of the hyperparameter whose number is within the given range; of a "
        "nested object, dotted: `optimizer.lr`.",
    )
    hyperparam_min: Number | None = Field(None, description="Smallest value of `hyperparam`.")
    hyperparam_max: Number | None = Field(None, description="Largest value of `hyperparam`.")
    archived: Archived = Field(False, description=_ARCHIVED)

    @field_validator("metric_min", "metric_max", "hyperparam_min", "hyperparam_max")
    @classmethod
    def _check_range(cls, bound: float | None, info: ValidationInfo) -> float | None:
        name = str(info.field_name).rpartition("_")[0]
        if bound is not None and info.data.get(name) is None:
            raise ValueError(f"goes with `{name}`")
        return bound


class CheckpointFilter(Filter):
    """Conditions on the checkpoints of an experiment."""

    run_id: Name | None = Field(None, description="Of this run.")
    state: Annotated[list[CheckpointState], Field(max_length=MAX_VALUES)] = Field(
        default_factory=list, description="One of these states; repeatable."
    )
    tag_type: Name | None = Field(None, description="Marked with exactly this tag.")
    release_tag: Name | None = Field(None, description="Marked with exactly this release tag.")
    marked: bool | None = Field(None, description="Marked, or not marked.")


class EventFilter(Filter):
    """Conditions on the events of an experiment."""

    run_id: Name | None = Field(None, description="Of this run.")
    type: Name | None = Field(None, description="Exactly this type.")


class AnyRunFilter(RunFilter):
    """Conditions on the runs of all experiments."""

    experiment_id: Name | None = Field(None, description="Of this experiment.")


class AnyCheckpointFilter(CheckpointFilter):
    """Conditions on the checkpoints of all experiments."""

    experiment_id: Name | None = Field(None, description="Of this experiment.")


def get_conditions(kind: type[Filter], values: Filter) -> dict[str, Any]:
    """Return the conditions that were given, by the names that `app.db.listing` knows.

    Args:
        kind: the filter; `values` may have more fields, such as a page.
        values: where an empty list and an empty search are no condition.
    """
    fields = values.model_dump(mode="json", include=set(kind.model_fields), exclude_none=True)
    for field in RANGES:
        key, low, high = (fields.pop(field + end, None) for end in ("", "_min", "_max"))
        if key is not None:
            fields[field] = (key, low, high)
    # Two conditions with an index each, in the place of one with a value.
    if (archived := fields.pop("archived", None)) is not None:
        fields["archived" if archived else "active"] = True
    return {name: value for name, value in fields.items() if value not in ([], "")}
