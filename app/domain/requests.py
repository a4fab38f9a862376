"""Requests, validated once for REST and GraphQL.

Every request is a closed Pydantic model: unknown fields, wrong types and numbers that
JSON cannot carry are refused. Free-form objects (`param_config`, `dataset`, …) have caps
on size, depth and integer range, so that whatever is accepted can be stored and answered.
"""

import json
import math
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from app.domain.ids import PATTERN
from app.domain.priority import Priority
from app.domain.resources import Resources
from app.domain.text import clean

EXPERIMENT_ID = "exp_0cc4q1wv6a2gkx8m3r5t7z9bdf"
RUN_ID = "run_0cc4q1x3h7p2n4s6v8y0c1e3gj"
VERIFICATION_ID = "vfy_0cc4q1zt8b3k5m7p9s1v3x5z7a"
"""Ids of the documented examples."""

MAX_OBJECT_BYTES = 64 * 1024
MAX_DEPTH = 16
_MOST_A_BYTE = 25
"""A byte that `_check` counts is at most so many: it counts one for a float."""
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_TOO_LARGE = f"must not be larger than {MAX_OBJECT_BYTES} bytes as JSON"


def _check(value: Any, depth: int, room: int) -> int:
    """Return what the JSON of `value` leaves of `room` bytes, at most: escapes are not counted.

    Raises ValueError outside of the caps. That ends the walk early for large objects, which are
    then never encoded.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"must not be nested deeper than {MAX_DEPTH} levels")
    match value:
        case None | bool():
            room -= 4
        case str():
            room -= len(clean(value).encode()) + 2
        case int():
            if not -(2**63) <= value < 2**63:
                raise ValueError("integers must fit in 64 bits")
            room -= 1
        case float():
            if not math.isfinite(value):
                raise ValueError("numbers must be finite")
            room -= 1
        case list():
            room -= 1
            for item in value:
                room = _check(item, depth + 1, room - 1)
        case dict():
            room -= 1
            for key, item in value.items():
                room = _check(item, depth + 1, _check(key, depth + 1, room - 2))
        case _:
            raise ValueError(f"{type(value).__name__} is not a JSON value")
    if room < 0:
        raise ValueError(_TOO_LARGE)
    return room


def check_object(value: dict[str, Any]) -> dict[str, Any]:
    """Return the same object. Raises ValueError when it is outside of the caps.

    Its size is that of its compact JSON in UTF-8, as trainers measure it, too.
    """
    least = MAX_OBJECT_BYTES - _check(value, 1, MAX_OBJECT_BYTES)
    # The encoder of the trainers' side: others write some floats in more or fewer bytes.
    if least * _MOST_A_BYTE > MAX_OBJECT_BYTES and len(_encode(value).encode()) > MAX_OBJECT_BYTES:
        raise ValueError(_TOO_LARGE)
    return value


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable: no line break, tab or other control character")
    return text


JsonObject = Annotated[
    dict[str, Any],
    AfterValidator(check_object),
    Field(description=f"At most {MAX_OBJECT_BYTES} bytes as JSON and {MAX_DEPTH} levels deep."),
]
MAX_NAME = 200
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME), AfterValidator(clean)]
Text = Annotated[str, StringConstraints(max_length=10_000), AfterValidator(clean)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
ReleaseTag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
MAX_METRIC_KEY = 200
MetricKey = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_METRIC_KEY), AfterValidator(_printable)
]
"""The same names as those that the Reporter sends."""


Tags = Annotated[list[Name], Field(max_length=50)]


class Request(BaseModel):
    """A closed request: unknown fields are an error, and nothing is coerced."""

    # Its validator is built by the first request for it, not at every start.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


class ExperimentRequest(Request):
    """Create an experiment."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "qwen-sft-zh",
                    "task_type": "sft",
                    "goal": "Instruction following in Chinese",
                    "version": "v1",
                    "base_model": "Qwen2.5-7B",
                    "owner": "alice",
                    "param_config": {"learning_rate": 2e-5, "epochs": 3},
                    "tags": ["sft", "zh"],
                }
            ]
        }
    )

    name: Name
    task_type: Name
    goal: Text | None = None
    version: Name | None = None
    base_model: Name | None = None
    owner: Name | None = None
    param_config: JsonObject = Field(default_factory=dict)
    tags: Tags = Field(default_factory=list)
    notes: Text | None = None
    project: Slug | None = Field(
        default=None, description="Name of its project; left out: your only one, or the default."
    )


class ResourcesRequest(Resources):
    """Resources that a run needs."""


class RunRequest(Request):
    """Submit a training run. Without a recipe it waits for a trainer that attaches."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "Qwen2.5-7B",
                    "dataset": {"name": "alpaca-zh", "split": "train"},
                    "hyperparams": {"learning_rate": 2e-5, "batch_size": 16},
                    "resources": {"gpu_type": "A100", "count": 4},
                    "notes": "first try",
                },
                {"model": "char-lm", "recipe": "demo", "hyperparams": {"steps": 400}},
            ]
        }
    )

    model: Name
    recipe: Slug | None = None
    dataset: JsonObject = Field(default_factory=dict)
    hyperparams: JsonObject = Field(default_factory=dict)
    resources: ResourcesRequest = Field(default_factory=ResourcesRequest)
    notes: Text | None = None
    name: Name | None = None
    tags: Tags = Field(default_factory=list)
    priority: Priority = Priority.NORMAL


class CancelRequest(Request):
    """Cancel a run; no fields."""


class EmptyRequest(Request):
    """No fields."""


class RerunRequest(Request):
    """Submit the same run again; no fields."""


class ResumeRequest(Request):
    """Resume a run from a checkpoint: a child run with the parent's data, overridden."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "ckpt_path": f"/ckpts/{EXPERIMENT_ID}/{RUN_ID}/step-000100",
                    "override_hyperparams": {"learning_rate": 1e-5},
                    "notes": "lower learning rate",
                }
            ]
        }
    )

    ckpt_path: Text | None = None
    override_hyperparams: JsonObject = Field(default_factory=dict)
    resources: ResourcesRequest | None = Field(
        default=None, description="Values given here override the resources of the resumed run."
    )
    notes: Text | None = None
    name: Name | None = None
    tags: Tags | None = Field(default=None, description="Left out: those of the resumed run.")
    priority: Priority | None = Field(
        default=None, description="Left out: that of the resumed run."
    )


class UpdateRunRequest(Request):
    """Change what describes a run. What is left out stays; null removes."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "baseline", "tags": ["paper"]}]}
    )

    name: Name | None = None
    notes: Text | None = None
    tags: Tags = Field(default_factory=list)
    priority: Priority = Field(
        default_factory=lambda: Priority.NORMAL,
        description="Its place in the queue; for a run that is queued.",
    )
    archived: bool = Field(
        default_factory=bool, description="Kept out of lists; only a run that has ended."
    )


class UpdateExperimentRequest(Request):
    """Change what describes an experiment. What is left out stays; null removes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"notes": "superseded by v2"}]})

    name: Name = Field(default_factory=str)
    goal: Text | None = None
    owner: Name | None = None
    notes: Text | None = None
    tags: Tags = Field(default_factory=list)
    archived: bool = Field(
        default_factory=bool,
        description="Kept out of lists, together with its runs that have ended.",
    )


class RedactRequest(Request):
    """Take out of a run what should never have been sent, everywhere it was copied."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"hyperparams": ["api_key"]}]})

    hyperparams: Annotated[list[Name], Field(max_length=50)] = Field(default_factory=list)
    metrics: Annotated[list[MetricKey], Field(max_length=50)] = Field(default_factory=list)
    notes: bool = False

    @model_validator(mode="after")
    def _check_any(self) -> "RedactRequest":
        if not (self.hyperparams or self.metrics or self.notes):
            raise ValueError("name hyperparams or metrics, or set notes")
        return self


class MarkRequest(Request):
    """Put a tag, a release tag and metrics onto a checkpoint."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "run_id": RUN_ID,
                    "ckpt_path": f"/ckpts/{EXPERIMENT_ID}/{RUN_ID}/step-000100",
                    "tag_type": "release",
                    "release_tag": "v1.0.0",
                    "metrics": {"val_loss": 1.83},
                }
            ]
        }
    )

    run_id: Annotated[str, StringConstraints(pattern=PATTERN.format("run"))]
    ckpt_path: Text
    tag_type: Slug
    release_tag: ReleaseTag | None = None
    metrics: Annotated[dict[MetricKey, Number], Field(max_length=200)] = Field(default_factory=dict)


class VerifyRequest(Request):
    """Read checkpoints again, every byte: one, those of a run, or all of an experiment."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"run_id": RUN_ID}]})

    run_id: Text | None = None
    ckpt_path: Text | None = None
