"""Responses as types: mypy checks `views` against them, and OpenAPI is made of them.

Nothing is validated with them when a request is answered. Stored JSON text is passed on as it is
(an `orjson.Fragment`), so fields that hold it are `Any` with the schema that clients see.

How to add a field: here; a column of the same name is copied by `views`, anything else is written
there. `examples` shows it by itself. Then the same in app/graphql/types.py.

Here are the answers that several modules share. A resource whose routes are one module has its
answers there; those of trainers and agents are in `trainer_schemas`.
"""

from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypeAlias

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

if TYPE_CHECKING:  # rows hold the enums' values
    CheckpointState: TypeAlias = str
    Reason: TypeAlias = str
    RunStatus: TypeAlias = str
    Priority: TypeAlias = str
    Section: TypeAlias = str
    Directive: TypeAlias = str
    PrincipalKind: TypeAlias = str
    Role: TypeAlias = str
    UserKind: TypeAlias = str
else:
    from app.agent.mailbox import Directive as Directive
    from app.domain.comparison import Section as Section
    from app.domain.lifecycle import CheckpointState, Reason, RunStatus
    from app.domain.permissions import Role as Role
    from app.domain.permissions import UserKind as UserKind
    from app.domain.principals import PrincipalKind
    from app.domain.priority import Priority

Json = Annotated[Any, WithJsonSchema({"additionalProperties": True, "type": "object"})]
Texts = Annotated[Any, WithJsonSchema({"items": {"type": "string"}, "type": "array"})]
_NUMBER = {"anyOf": [{"type": "number"}, {"type": "null"}]}
Numbers = Annotated[Any, WithJsonSchema({"additionalProperties": _NUMBER, "type": "object"})]
JSON_TYPES = (Json, Json | None, Texts, Numbers)
"""Types of fields that are stored as JSON text."""
Time = Annotated[
    str,
    Field(description="UTC, ISO 8601 with offset.", json_schema_extra={"format": "date-time"}),
]


class ExperimentAnswer(TypedDict):
    """An experiment."""

    experiment_id: str
    name: str
    task_type: str
    goal: str | None
    version: str | None
    base_model: str | None
    owner: str | None
    param_config: Json
    tags: Texts
    notes: str | None
    archived_at: Time | None
    created_at: Time
    project_id: str


class CheckpointAnswer(TypedDict):
    """A checkpoint and what the service knows of it."""

    checkpoint_id: str
    experiment_id: str
    run_id: str
    ckpt_path: Annotated[
        str, Field(description="Logical path /ckpts/{experiment_id}/{run_id}/{name}.")
    ]
    state: CheckpointState
    reason: Annotated[
        str | None, Field(description="Reason it is lost, deleted, empty or a fallback.")
    ]
    step: int | None
    size_bytes: int | None
    sha256: Annotated[str | None, Field(description="SHA-256 of the manifest.")]
    stored_as: Annotated[
        str | None,
        Field(description="Id of the checkpoint that this path is an alias of, if any."),
    ]
    tag_type: str | None
    release_tag: str | None
    metrics: Numbers
    healthy: Annotated[
        bool | None,
        Field(description="false if its metrics or weights hold NaN; null: not known."),
    ]
    marked_at: Time | None
    saved_at: Annotated[
        Time | None,
        Field(description="Time of saving: the newest of a run is the one that was saved last."),
    ]
    created_at: Time


class MetricValue(TypedDict):
    """The latest value of a key; null where it is NaN or infinite."""

    value: float | None
    step: int


class RunSummary(TypedDict):
    """A run at a glance."""

    run_id: str
    experiment_id: str
    parent_run_id: str | None
    name: str | None
    tags: Texts
    priority: Priority
    archived_at: Time | None
    model: str
    recipe: str | None
    status: RunStatus
    status_reason: Reason | None
    status_detail: str | None
    attempt: int
    progress: Annotated[
        float | None, Field(description="0 to 1; null while the total is not known.")
    ]
    step: int
    total_steps: int | None
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    next_attempt_at: Annotated[
        Time | None, Field(description="Earliest start of a run that waits for a retry.")
    ]
    metrics: dict[str, MetricValue]


class RunStatusAnswer(RunSummary):
    """The current status of a run."""

    eta_seconds: float | None
    heartbeat_at: Time | None
    last_progress_at: Annotated[Time | None, Field(description="Time of its last step forward.")]
    ckpt_path: Annotated[str | None, Field(description="The newest ready checkpoint.")]


class Override(TypedDict):
    """The receipt of one overridden hyperparameter."""

    requested: Any
    effective: Any
    applied: Annotated[bool | None, Field(description="null until the trainer has reported.")]


class RunAnswer(TypedDict):
    """A submitted or resumed run."""

    run_id: str
    experiment_id: str
    parent_run_id: str | None
    root_run_id: str
    ckpt_path: Annotated[str | None, Field(description="The checkpoint that it was resumed from.")]
    attempt: int
    model: str
    recipe: str | None
    dataset: Json
    hyperparams: Json
    override_hyperparams: Json
    effective_hyperparams: Json | None
    source: Annotated[
        Json | None,
        Field(description="Its trainer's commit, command, packages and machine."),
    ]
    overrides: dict[str, Override]
    resources: Json
    notes: str | None
    name: str | None
    tags: Texts
    priority: Priority
    archived_at: Time | None
    log_removed_at: Annotated[
        Time | None, Field(description="Time of its log's removal by retention.")
    ]
    points_thinned_at: Annotated[
        Time | None,
        Field(description="Time of thinning by retention: curves keep their shape and spikes."),
    ]
    points_removed_at: Annotated[
        Time | None,
        Field(description="Time of removal by retention: the latest values stay."),
    ]
    status: RunStatus
    status_reason: Reason | None
    status_detail: str | None
    created_at: Time
    run_token: NotRequired[
        Annotated[
            str | None,
            Field(description="External runs only: may report on this run, nothing else."),
        ]
    ]


class RunDetailAnswer(RunAnswer):
    """All of a run: its request, where it is, and what became of its overrides."""

    progress: float | None
    step: int
    total_steps: int | None
    eta_seconds: float | None
    started_at: Time | None
    finished_at: Time | None
    next_attempt_at: Time | None
    heartbeat_at: Time | None
    last_progress_at: Time | None
    metrics: dict[str, MetricValue]
    newest_ckpt_path: Annotated[str | None, Field(description="The newest ready checkpoint.")]


class RecipeAnswer(TypedDict):
    """A way to train that the operator configured."""

    name: str
    description: str
    launcher: Annotated[str, Field(description="Launcher of its runs: the first choice.")]
    launchers: Annotated[
        list[str], Field(description="Launchers of its runs; the first that has room.")
    ]
    resources: Annotated[Json, Field(description="Default resources of its runs.")]
    max_attempts: int
    grace_seconds: float
    keep_checkpoints: Annotated[int, Field(description="0: all.")]


class RecipesAnswer(TypedDict):
    """The recipes that a new run may name."""

    recipes: list[RecipeAnswer]


class UnreadableCheckpoint(TypedDict):
    """A checkpoint that could not be read now."""

    ckpt_path: str
    reason: str


class VerifyAnswer(TypedDict):
    """The checkpoints whose files were read, as they are now."""

    ready: Annotated[int, Field(description="Number that are whole and unchanged.")]
    lost: Annotated[int, Field(description="Number missing or damaged; `reason` says how.")]
    checkpoints: list[CheckpointAnswer]
    unreadable: Annotated[
        list[UnreadableCheckpoint],
        Field(description="Those that could not be read now; they stay what they were."),
    ]


class FindingAnswer(TypedDict):
    """The result of verifying one checkpoint."""

    seq: int
    ckpt_path: str
    outcome: Annotated[str, Field(description="The checkpoint's state then, or `unreadable`.")]
    reason: str | None
    at: Time


class VerificationAnswer(TypedDict):
    """A verification in the background: its progress, and what it found."""

    verification_id: str
    experiment_id: str
    run_id: str | None
    ckpt_path: str | None
    total: Annotated[int, Field(description="Number of checkpoints at its start.")]
    verified: Annotated[int, Field(description="Number that have a finding.")]
    ready: int
    lost: int
    unreadable: Annotated[
        int, Field(description="Number that could not be read; their states stay.")
    ]
    findings: list[FindingAnswer]
    created_at: Time
    finished_at: Annotated[Time | None, Field(description="null while it is under way.")]


class RetentionAnswer(TypedDict):
    """The checkpoints that retention would delete."""

    size_bytes: Annotated[int, Field(description="Space that would be freed, in bytes.")]
    checkpoints: list[CheckpointAnswer]


class CancelAnswer(TypedDict):
    """202 while the trainer is still saving, 200 once it is done."""

    run_id: str
    status: RunStatus
    ckpt_path: str
    checkpoint: CheckpointAnswer


class Actor(TypedDict):
    """On whose behalf something was done."""

    kind: PrincipalKind
    name: Annotated[str | None, Field(description="Name of the user, or id of the run.")]


class EventAnswer(TypedDict):
    """One entry of the history."""

    seq: int
    type: str
    at: Time
    run_id: str | None
    data: Json
    actor: Annotated[Actor | None, Field(description="Null where it was not kept yet.")]


class DetailAnswer(TypedDict):
    """An experiment with its newest runs, checkpoints and events, each oldest first.

    At most 500 of each, and of runs with hundreds of metrics fewer; `totals` says how many there
    are and `links` where all of them are.
    """

    experiment: ExperimentAnswer
    totals: dict[str, int]
    links: dict[str, str]
    runs: list[RunSummary]
    checkpoints: list[CheckpointAnswer]
    events: list[EventAnswer]
