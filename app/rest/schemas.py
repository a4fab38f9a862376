"""The documented answers, as Pydantic models for OpenAPI; `views` builds the bytes."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.agent.mailbox import Order
from app.domain.lifecycle import CheckpointState, Reason, RunStatus

Time = Annotated[
    str,
    Field(description="UTC, ISO 8601 with offset.", json_schema_extra={"format": "date-time"}),
]


class Answer(BaseModel):
    """What these have in common: nobody validates with them, so no validator is built."""

    model_config = ConfigDict(defer_build=True)


class ExperimentAnswer(Answer):
    """An experiment."""

    experiment_id: str
    name: str
    task_type: str
    goal: str | None
    version: str | None
    base_model: str | None
    owner: str | None
    param_config: dict[str, Any]
    tags: list[str]
    created_at: Time


class CheckpointAnswer(Answer):
    """A checkpoint and what the service knows of it."""

    checkpoint_id: str
    experiment_id: str
    run_id: str
    ckpt_path: str = Field(description="Logical path /ckpts/{experiment_id}/{run_id}/{name}.")
    state: CheckpointState
    reason: str | None = Field(description="Why it is lost, deleted, empty or a fallback.")
    step: int | None
    size_bytes: int | None
    sha256: str | None = Field(description="SHA-256 of the manifest.")
    stored_as: str | None = Field(
        description="Id of the checkpoint whose files this path stands for, if not its own."
    )
    tag_type: str | None
    release_tag: str | None
    metrics: dict[str, float | None]
    marked_at: Time | None
    saved_at: Time | None = Field(
        description="When it was saved: the newest of a run is the one that was saved last."
    )
    created_at: Time


class MetricValue(Answer):
    """The latest value of a key; null where it is NaN or infinite."""

    value: float | None
    step: int


class RunSummary(Answer):
    """A run at a glance."""

    run_id: str
    experiment_id: str
    parent_run_id: str | None
    model: str
    recipe: str | None
    status: RunStatus
    status_reason: Reason | None
    status_detail: str | None
    attempt: int
    progress: float | None = Field(description="0 to 1; null while the total is not known.")
    step: int
    total_steps: int | None
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    next_attempt_at: Time | None = Field(
        description="When a run that waits to be tried again may start."
    )
    metrics: dict[str, MetricValue]


class RunStatusAnswer(RunSummary):
    """Where a run is now."""

    eta_seconds: float | None
    heartbeat_at: Time | None
    last_progress_at: Time | None = Field(description="When it last took a further step.")
    ckpt_path: str | None = Field(description="The newest ready checkpoint.")


class Override(Answer):
    """What became of one overridden hyperparameter."""

    requested: Any
    effective: Any
    applied: bool | None = Field(description="null until the trainer has reported.")


class RunAnswer(Answer):
    """A submitted or resumed run."""

    run_id: str
    experiment_id: str
    parent_run_id: str | None
    root_run_id: str
    ckpt_path: str | None = Field(description="The checkpoint that it was resumed from.")
    attempt: int
    model: str
    recipe: str | None
    dataset: dict[str, Any]
    hyperparams: dict[str, Any]
    override_hyperparams: dict[str, Any]
    effective_hyperparams: dict[str, Any] | None
    overrides: dict[str, Override]
    resources: dict[str, Any]
    notes: str | None
    status: RunStatus
    status_reason: Reason | None
    status_detail: str | None
    created_at: Time
    run_token: str | None = Field(
        default=None, description="External runs only: may report on this run, nothing else."
    )


class UnreadableCheckpoint(Answer):
    """A checkpoint that could not be read now."""

    ckpt_path: str
    reason: str


class VerifyAnswer(Answer):
    """The checkpoints whose files were read, as they are now."""

    ready: int = Field(description="How many are whole and unchanged.")
    lost: int = Field(description="How many are missing or damaged; `reason` says how.")
    checkpoints: list[CheckpointAnswer]
    unreadable: list[UnreadableCheckpoint] = Field(
        description="Those that could not be read now; they stay what they were."
    )


class FindingAnswer(Answer):
    """What a verification found of one checkpoint."""

    seq: int
    ckpt_path: str
    outcome: str = Field(description="The checkpoint's state then, or `unreadable`.")
    reason: str | None
    at: Time


class VerificationAnswer(Answer):
    """A verification in the background: its progress, and what it found."""

    verification_id: str
    experiment_id: str
    run_id: str | None
    ckpt_path: str | None
    total: int = Field(description="How many checkpoints there were at its start.")
    verified: int = Field(description="How many have a finding.")
    ready: int
    lost: int
    unreadable: int = Field(description="How many could not be read; they stay what they were.")
    findings: list[FindingAnswer]
    created_at: Time
    finished_at: Time | None = Field(description="null while it is under way.")


class RetentionAnswer(Answer):
    """What retention would delete."""

    size_bytes: int = Field(description="How much space that would free.")
    checkpoints: list[CheckpointAnswer]


class CancelAnswer(Answer):
    """202 while the trainer is still saving, 200 once it is done."""

    run_id: str
    status: RunStatus
    ckpt_path: str
    checkpoint: CheckpointAnswer


class EventAnswer(Answer):
    """One entry of the history."""

    seq: int
    type: str
    at: Time
    run_id: str | None
    data: dict[str, Any]


class PageAnswer(Answer):
    """One page of a list."""

    next: str | None = Field(description="The `after` of the next page, if there is one.")


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


class DetailAnswer(Answer):
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


class SpecialValue(Answer):
    """A value that JSON has no number for."""

    step: int
    value: str = Field(description="NaN, Infinity or -Infinity.")


class SeriesAnswer(Answer):
    """Points of one key of one run, as columns, steps ascending."""

    run_id: str
    key: str
    attempt: int | None = Field(description="Only with `raw`; null for a run's curve.")
    steps: list[int]
    values: list[float | None] = Field(description="null where NaN or infinite; see `special`.")
    wall_times: list[float | None] = Field(description="Unix seconds; null when not given.")
    downsampled: bool = Field(description="Whether `points` left any out.")
    next_after_step: int | None = Field(description="There are more: `after_step` for them.")
    special: list[SpecialValue]


class MetricsAnswer(Answer):
    """Curves, run by run and key by key."""

    series: list[SeriesAnswer]


class ReceiptAnswer(Answer):
    """The answer to a report."""

    run_id: str
    status: RunStatus
    attempt: int
    batch: int = Field(description="The last batch of this attempt that was taken in.")
    should_stop: bool
    stop_checkpoint: str | None = Field(description="The name to save under when stopping.")


class ResumeSpec(Answer):
    """Where a resumed run starts."""

    ckpt_path: str
    path: str = Field(description="The directory, in the service's DATA_DIR.")
    step: int | None


class DataDirAnswer(Answer):
    """The service's DATA_DIR."""

    path: str
    name: str | None = Field(description="What its file `id` says.")


class SpecAnswer(Answer):
    """What the trainer of a run shall do."""

    format: int
    run_id: str
    experiment_id: str
    recipe: str | None
    model: str
    dataset: dict[str, Any]
    hyperparams: dict[str, Any]
    resources: dict[str, Any]
    notes: str
    checkpoint_dir: str = Field(description="Where the service looks for checkpoints.")
    resume: ResumeSpec | None
    data_dir: DataDirAnswer


class LaunchAnswer(Answer):
    """How to start the trainer."""

    argv: list[str] = Field(description="`{python}` stands for the agent's own interpreter.")
    env: dict[str, str] = Field(description="Beside the machine's own environment.")
    cwd: str | None
    nonce: str
    stop_signal: int = Field(description="0: none.")
    grace_seconds: float
    max_log_bytes: int
    failpoints: dict[str, str]


class ClaimAnswer(Answer):
    """A claimed attempt."""

    run_id: str
    attempt: int
    token: str = Field(description="For everything else of this attempt.")
    config: LaunchAnswer
    spec: dict[str, Any] = Field(description="What the trainer shall do.")
    log_offset: int = Field(description="How much of the attempt's output has arrived.")
    pulse_seconds: float


class PulseAnswer(Answer):
    """What the agent shall do."""

    order: Order


class LogAnswer(Answer):
    """How much of the attempt's output has arrived."""

    offset: int


class ExitAnswer(Answer):
    """How the attempt ended, as it is on record."""

    run_id: str
    attempt: int
    record: dict[str, Any]


class FileAnswer(Answer):
    """A file that has arrived."""

    path: str
    size: int


class CommitAnswer(Answer):
    """A checkpoint that stands."""

    ckpt_path: str
    name: str


class HealthAnswer(Answer):
    """`ok` of the process, `ready` of the service."""

    status: str


class ServiceAnswer(Answer):
    """What this service is and where its faces are."""

    name: str
    version: str
    docs: str
    openapi: str
    graphql: str
    health: str
