"""Responses as types: mypy checks `views` against them, and OpenAPI is made of them.

Nothing is validated with them when a request is answered. Stored JSON text is passed on as it is
(an `orjson.Fragment`), so fields that hold it are `Any` with the schema that clients see.

How to add a field: here; a column of the same name is copied by `views`, anything else is written
there. `examples` shows it by itself. Then the same in app/graphql/types.py.
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
    Order: TypeAlias = str
    PrincipalKind: TypeAlias = str
    Role: TypeAlias = str
    UserKind: TypeAlias = str
else:
    from app.agent.mailbox import Order
    from app.domain.comparison import Section
    from app.domain.lifecycle import CheckpointState, Reason, RunStatus
    from app.domain.permissions import Role, UserKind
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
        str | None, Field(description="Why it is lost, deleted, empty or a fallback.")
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
        Field(description="When it was saved: the newest of a run is the one that was saved last."),
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
        Time | None, Field(description="When a run that waits to be tried again may start.")
    ]
    metrics: dict[str, MetricValue]


class RunStatusAnswer(RunSummary):
    """Where a run is now."""

    eta_seconds: float | None
    heartbeat_at: Time | None
    last_progress_at: Annotated[Time | None, Field(description="When it last took a further step.")]
    ckpt_path: Annotated[str | None, Field(description="The newest ready checkpoint.")]


class Override(TypedDict):
    """What became of one overridden hyperparameter."""

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
        Field(description="What its trainer runs: commit, command, packages and machine."),
    ]
    overrides: dict[str, Override]
    resources: Json
    notes: str | None
    name: str | None
    tags: Texts
    priority: Priority
    archived_at: Time | None
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


class CountsAnswer(TypedDict):
    """How many runs are in each status; those with none are left out."""

    counts: dict[RunStatus, int]


class ComparedParam(TypedDict):
    """One parameter of several runs."""

    section: Section
    key: Annotated[str, Field(description="Of a nested object, dotted: `optimizer.betas`.")]
    values: Annotated[
        list[Any], Field(description="In the order of `run_ids`; null where a run lacks it.")
    ]
    differs: bool


class ComparisonAnswer(TypedDict):
    """The parameters of runs side by side."""

    run_ids: list[str]
    params: list[ComparedParam]


class RecipeAnswer(TypedDict):
    """A way to train that the operator configured."""

    name: str
    description: str
    launcher: Annotated[str, Field(description="Where its runs are launched.")]
    resources: Annotated[Json, Field(description="What a run needs that does not say so itself.")]
    max_attempts: int
    grace_seconds: float
    keep_checkpoints: Annotated[int, Field(description="0: all.")]


class RecipesAnswer(TypedDict):
    """The recipes that a new run may name."""

    recipes: list[RecipeAnswer]


class LauncherAnswer(TypedDict):
    """Where runs are launched, and what there is in all; null where only the engine knows."""

    name: str
    cpus: float | None
    memory_gb: float | None
    gpus: Annotated[dict[str, int] | None, Field(description="GPUs by their type.")]
    max_runs: int | None
    active: Annotated[
        int, Field(description="Runs that it has been given and that have not ended.")
    ]


class CapacityAnswer(TypedDict):
    """What runs may get."""

    launchers: list[LauncherAnswer]
    queued: Annotated[int, Field(description="Runs of recipes that wait.")]


class UnreadableCheckpoint(TypedDict):
    """A checkpoint that could not be read now."""

    ckpt_path: str
    reason: str


class VerifyAnswer(TypedDict):
    """The checkpoints whose files were read, as they are now."""

    ready: Annotated[int, Field(description="How many are whole and unchanged.")]
    lost: Annotated[int, Field(description="How many are missing or damaged; `reason` says how.")]
    checkpoints: list[CheckpointAnswer]
    unreadable: Annotated[
        list[UnreadableCheckpoint],
        Field(description="Those that could not be read now; they stay what they were."),
    ]


class FindingAnswer(TypedDict):
    """What a verification found of one checkpoint."""

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
    total: Annotated[int, Field(description="How many checkpoints there were at its start.")]
    verified: Annotated[int, Field(description="How many have a finding.")]
    ready: int
    lost: int
    unreadable: Annotated[
        int, Field(description="How many could not be read; they stay what they were.")
    ]
    findings: list[FindingAnswer]
    created_at: Time
    finished_at: Annotated[Time | None, Field(description="null while it is under way.")]


class RetentionAnswer(TypedDict):
    """What retention would delete."""

    size_bytes: Annotated[int, Field(description="How much space that would free.")]
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


class PageAnswer(TypedDict):
    """One page of a list."""

    next: Annotated[str | None, Field(description="The `after` of the next page, if there is one.")]


class ExperimentsAnswer(PageAnswer):
    """A page of experiments."""

    experiments: list[ExperimentAnswer]


class RunsAnswer(PageAnswer):
    """A page of runs."""

    runs: list[RunSummary]


class CheckpointsAnswer(PageAnswer):
    """A page of checkpoints."""

    checkpoints: list[CheckpointAnswer]


class EventsAnswer(PageAnswer):
    """A page of events."""

    events: list[EventAnswer]


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


class SpecialValue(TypedDict):
    """A value that JSON has no number for."""

    step: int
    value: Annotated[str, Field(description="NaN, Infinity or -Infinity.")]


class SeriesAnswer(TypedDict):
    """Points of one key of one run, as columns, steps ascending."""

    run_id: str
    key: str
    attempt: Annotated[int | None, Field(description="Only with `raw`; null for a run's curve.")]
    steps: list[int]
    values: Annotated[
        list[float | None], Field(description="null where NaN or infinite; see `special`.")
    ]
    wall_times: Annotated[
        list[float | None], Field(description="Unix seconds; null when not given.")
    ]
    downsampled: Annotated[bool, Field(description="Whether `points` left any out.")]
    next_after_step: Annotated[
        int | None, Field(description="There are more: `after_step` for them.")
    ]
    special: list[SpecialValue]


class MetricsAnswer(TypedDict):
    """Curves, run by run and key by key."""

    series: list[SeriesAnswer]


class ReceiptAnswer(TypedDict):
    """The answer to a report."""

    run_id: str
    status: RunStatus
    attempt: int
    batch: Annotated[int, Field(description="The last batch of this attempt that was taken in.")]
    should_stop: bool
    stop_checkpoint: Annotated[
        str | None, Field(description="The name to save under when stopping.")
    ]


class ResumeSpec(TypedDict):
    """Where a resumed run starts."""

    ckpt_path: str
    path: Annotated[str, Field(description="The directory, in the service's DATA_DIR.")]
    step: int | None


class DataDirAnswer(TypedDict):
    """The service's DATA_DIR."""

    path: str
    name: Annotated[str | None, Field(description="What its file `id` says.")]


class SpecAnswer(TypedDict):
    """What the trainer of a run shall do."""

    format: int
    run_id: str
    experiment_id: str
    recipe: str | None
    model: str
    dataset: Json
    hyperparams: Json
    resources: Json
    notes: str
    checkpoint_dir: Annotated[str, Field(description="Where the service looks for checkpoints.")]
    resume: ResumeSpec | None
    data_dir: DataDirAnswer
    store: Annotated[
        bool, Field(description="Checkpoints go into an object store, by signed URLs.")
    ]


class LaunchAnswer(TypedDict):
    """How to start the trainer."""

    argv: Annotated[
        list[str], Field(description="`{python}` stands for the agent's own interpreter.")
    ]
    env: Annotated[dict[str, str], Field(description="Beside the machine's own environment.")]
    cwd: str | None
    nonce: str
    stop_signal: Annotated[int, Field(description="0: none.")]
    grace_seconds: float
    max_log_bytes: int
    failpoints: dict[str, str]


class ClaimAnswer(TypedDict):
    """A claimed attempt."""

    run_id: str
    attempt: int
    token: Annotated[str, Field(description="For everything else of this attempt.")]
    config: LaunchAnswer
    spec: Annotated[Json, Field(description="What the trainer shall do.")]
    log_offset: Annotated[int, Field(description="How much of the attempt's output has arrived.")]
    pulse_seconds: float


class PulseAnswer(TypedDict):
    """What the agent shall do."""

    order: Order


class LogAnswer(TypedDict):
    """How much of the attempt's output has arrived."""

    offset: int


class ExitAnswer(TypedDict):
    """How the attempt ended, as it is on record."""

    run_id: str
    attempt: int
    record: Json


class FileAnswer(TypedDict):
    """A file that has arrived."""

    path: str
    size: int


class CommitAnswer(TypedDict):
    """A checkpoint that stands."""

    ckpt_path: str
    name: str


class TransferAnswer(TypedDict):
    """A piece of a file and its URL."""

    file: str
    offset: int
    size: int
    url: str


class UploadsAnswer(TypedDict):
    """What is missing of a checkpoint; null: the storage has no URLs."""

    uploads: list[TransferAnswer] | None
    headers: Annotated[dict[str, str], Field(description="To send with each PUT.")]
    expires_seconds: float


class ResumeAnswer(TypedDict):
    """The files of the checkpoint that a run starts from; `manifest` is its manifest.json."""

    ckpt_path: str
    sha256: str
    manifest: str
    downloads: list[TransferAnswer]
    expires_seconds: float


class HealthAnswer(TypedDict):
    """`ok` of the process, `ready` of the service."""

    status: str


class ServiceAnswer(TypedDict):
    """What this service is, and the addresses of its APIs."""

    name: str
    version: str
    docs: str
    openapi: str
    graphql: str
    health: str


class ReleaseAnswer(TypedDict):
    """A checkpoint that is, or was, a release."""

    release_tag: str
    ckpt_path: str
    checkpoint_id: str
    run_id: str
    tag_type: str
    metrics: Annotated[dict[str, float], Field(description="As it was marked with.")]
    released_at: Annotated[Time, Field(description="When it got this tag.")]


class ReleasesAnswer(TypedDict):
    """The releases of an experiment."""

    at: Annotated[Time | None, Field(description="The time that was asked for; null: now.")]
    releases: list[ReleaseAnswer]


class RedactedAnswer(TypedDict):
    """What was redacted: the run, and the runs of its experiment that were looked through."""

    experiment_id: str
    run_id: str
    run_ids: list[str]


class DeletionAnswer(TypedDict):
    """A run or an experiment that was deleted."""

    deletion_id: str
    experiment_id: str
    run_id: Annotated[str | None, Field(description="Null: the experiment, with all its runs.")]
    name: Annotated[str | None, Field(description="Its name; a run without one: its model.")]
    runs: int
    checkpoints: Annotated[int, Field(description="Those that were ready.")]
    size_bytes: Annotated[int, Field(description="Of these checkpoints.")]
    requested_at: Time
    finished_at: Annotated[
        Time | None, Field(description="When its points and files were gone; null until then.")
    ]


class DeletionsAnswer(TypedDict):
    """One page of deletions, newest first."""

    deletions: list[DeletionAnswer]
    next: Annotated[str | None, Field(description="`after` of the next page.")]


class WebhookAnswer(TypedDict):
    """A URL that is told of events."""

    webhook_id: str
    url: str
    name: str | None
    types: Annotated[list[str], Field(description="The events to tell of; empty: all.")]
    experiment_id: Annotated[str | None, Field(description="Only its events; null: those of all.")]
    format: str
    created_at: Time
    paused_at: Annotated[Time | None, Field(description="Nothing is sent while it is paused.")]
    paused_reason: str | None
    failing_since: Annotated[
        Time | None, Field(description="Since when nothing was received; null while all is well.")
    ]


class NewWebhookAnswer(WebhookAnswer):
    """A new webhook, with the secret that its messages are signed with."""

    signing_secret: str


class WebhooksAnswer(TypedDict):
    """All webhooks."""

    webhooks: list[WebhookAnswer]


class DeliveryAnswer(TypedDict):
    """One message to one webhook."""

    delivery_id: Annotated[str, Field(description="Also `webhook-id` of each attempt.")]
    webhook_id: str
    type: str
    state: str
    attempts: int
    next_attempt_at: Time | None
    last_attempt_at: Time | None
    last_status: Annotated[int | None, Field(description="HTTP status of the last answer.")]
    last_error: Annotated[str | None, Field(description="Why it was not received.")]
    created_at: Time
    message: Json


class DeliveriesAnswer(TypedDict):
    """One page of messages, newest first."""

    deliveries: list[DeliveryAnswer]
    next: Annotated[str | None, Field(description="`after` of the next page.")]


class Usage(TypedDict):
    """What ended attempts took, summed over a run, an experiment or a month."""

    group: Annotated[str, Field(description="Id of the run or experiment, or month (2026-01).")]
    attempts: int
    used_seconds: float
    wasted_seconds: Annotated[
        float, Field(description="Work after the last good checkpoint of attempts that failed.")
    ]
    waited_seconds: Annotated[float, Field(description="In the queue, before each attempt.")]
    saved_seconds: Annotated[
        float, Field(description="What steps before a checkpoint would have taken once more.")
    ]
    gpu_hours_used: float
    gpu_hours_wasted: float
    gpu_hours_saved: float
    goodput: Annotated[float | None, Field(description="Share of the time that was not wasted.")]


class UsageAnswer(TypedDict):
    """One page of sums."""

    usage: list[Usage]
    next: Annotated[str | None, Field(description="`after` of the next page.")]


class ProjectAnswer(TypedDict):
    """A project: what a team shares."""

    project_id: str
    name: str
    description: str | None
    created_at: Time


class ProjectsAnswer(TypedDict):
    """The projects that the caller sees."""

    projects: list[ProjectAnswer]


class MemberAnswer(TypedDict):
    """A user, and its role in a project."""

    user_id: str
    user: str
    role: Role
    created_at: Time


class MembersAnswer(TypedDict):
    """The members of a project."""

    members: list[MemberAnswer]


class UserAnswer(TypedDict):
    """A user or a service account."""

    user_id: str
    name: str
    kind: UserKind
    email: str | None
    is_admin: bool
    created_at: Time
    disabled_at: Time | None


class UsersAnswer(TypedDict):
    """All users."""

    users: list[UserAnswer]


class TokenAnswer(TypedDict):
    """A token, without the token itself."""

    token_id: str
    user_id: str
    user: str
    name: str | None
    scope: Annotated[Role, Field(description="The highest role that it may act in.")]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    last_used_at: Annotated[Time | None, Field(description="To some minutes.")]


class NewTokenAnswer(TokenAnswer):
    """A new token, and the token itself."""

    token: Annotated[str | None, Field(description="Shown once: a replay has null.")]


class TokensAnswer(TypedDict):
    """Tokens, newest first."""

    tokens: list[TokenAnswer]


class RoleAnswer(TypedDict):
    """A role in a project."""

    project_id: str
    project: str
    role: Role


class MeAnswer(TypedDict):
    """Who asks."""

    kind: PrincipalKind
    name: str | None
    user_id: str | None
    scope: Role
    is_admin: bool
    projects: list[RoleAnswer]


class AuditEntryAnswer(TypedDict):
    """One write of a user or of the operator's token, or one sign-in that was refused."""

    entry_id: str
    at: Time
    actor: Actor
    token_id: str | None
    action: Annotated[str, Field(description="Name of the operation, or `sign_in`.")]
    target_id: Annotated[str | None, Field(description="Id of what it was about.")]
    outcome: Annotated[str, Field(description="`done` or `refused`.")]
    address: Annotated[str | None, Field(description="Where a refused sign-in came from.")]


class AuditAnswer(TypedDict):
    """One page of the audit, newest first."""

    entries: list[AuditEntryAnswer]
    next: Annotated[str | None, Field(description="`after` of the next page.")]
