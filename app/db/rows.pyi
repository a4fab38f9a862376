"""Written by `python -m tests.support.rows` from the tables; not to be edited."""

from typing import NamedTuple, TypeAlias, TypedDict

from app.db.tables import Checkpoint, Event, Experiment, MetricLatest, Project, Run

class ExperimentRow(NamedTuple):
    id: str
    name: str
    task_type: str
    goal: str | None
    version: str | None
    base_model: str | None
    owner: str | None
    param_config: str
    tags: str
    created_at: str
    last_seq: int
    notes: str | None
    archived_at: str | None
    project_id: str

class RunRow(NamedTuple):
    id: str
    experiment_id: str
    parent_run_id: str | None
    root_run_id: str
    source_checkpoint_id: str | None
    source_ckpt_path: str | None
    source_attempt: int | None
    model: str
    recipe: str | None
    dataset: str
    hyperparams: str
    override_hyperparams: str
    effective_hyperparams: str | None
    source: str | None
    effective_attempt: int | None
    resources: str
    notes: str | None
    name: str | None
    tags: str
    archived_at: str | None
    priority: int
    status: str
    status_reason: str | None
    status_detail: str | None
    attempt: int
    preemptions: int
    start_step: int
    step: int
    settled_step: int | None
    total_steps: int | None
    last_batch: int
    finished: bool
    gpus: str
    gpus_held: int | None
    nonce: str | None
    sessions: str
    session_closed: bool
    history_bytes: int
    host: str | None
    launcher: str | None
    engine_id: str | None
    submitted_at: str | None
    claimed_at: str | None
    termination_reason: str | None
    termination_detail: str | None
    pace_steps: int
    pace_seconds: float
    pace_clock: str | None
    next_attempt_at: str | None
    promised_checkpoint_id: str | None
    heartbeat_seconds: float | None
    last_progress_at: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    heartbeat_at: str | None
    launched_at: str | None
    cancel_requested_at: str | None
    log_removed_at: str | None
    points_thinned_at: str | None
    points_removed_at: str | None

class RunSummaryRow(NamedTuple):
    id: str
    experiment_id: str
    parent_run_id: str | None
    model: str
    recipe: str | None
    override_hyperparams: str
    effective_hyperparams: str | None
    effective_attempt: int | None
    name: str | None
    tags: str
    archived_at: str | None
    priority: int
    status: str
    status_reason: str | None
    status_detail: str | None
    attempt: int
    step: int
    total_steps: int | None
    pace_steps: int
    pace_seconds: float
    next_attempt_at: str | None
    last_progress_at: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    heartbeat_at: str | None

class CheckpointRow(NamedTuple):
    id: str
    experiment_id: str
    run_id: str
    ckpt_path: str
    attempt: int | None
    state: str
    reason: str | None
    step: int | None
    size_bytes: int | None
    sha256: str | None
    stored_as_id: str | None
    tag_type: str | None
    release_tag: str | None
    metrics: str
    healthy: bool | None
    marked_at: str | None
    saved_at: str | None
    files_removed_at: str | None
    created_at: str

class EventRow(NamedTuple):
    experiment_id: str
    seq: int
    type: str
    at: str
    run_id: str | None
    data: str
    actor_kind: str | None
    actor_name: str | None

class MetricLatestRow(NamedTuple):
    run_id: str
    key: str
    step: int
    value: float | None
    wall_time: float | None

class ProjectRow(NamedTuple):
    id: str
    name: str
    description: str | None
    created_at: str
    max_runs: int | None
    max_gpus: int | None
    max_bytes: int | None
    logs_days: float | None
    points_days: float | None
    curves_days: float | None
    release_metrics: str | None
    release_verified_hours: float | None
    release_approval: bool | None

class ExperimentChanges(TypedDict, total=False):
    id: str
    name: str
    task_type: str
    goal: str | None
    version: str | None
    base_model: str | None
    owner: str | None
    param_config: str
    tags: str
    created_at: str
    last_seq: int
    notes: str | None
    archived_at: str | None
    project_id: str

class RunChanges(TypedDict, total=False):
    id: str
    experiment_id: str
    parent_run_id: str | None
    root_run_id: str
    source_checkpoint_id: str | None
    source_ckpt_path: str | None
    source_attempt: int | None
    model: str
    recipe: str | None
    dataset: str
    hyperparams: str
    override_hyperparams: str
    effective_hyperparams: str | None
    source: str | None
    effective_attempt: int | None
    resources: str
    notes: str | None
    name: str | None
    tags: str
    archived_at: str | None
    priority: int
    status: str
    status_reason: str | None
    status_detail: str | None
    attempt: int
    preemptions: int
    start_step: int
    step: int
    settled_step: int | None
    total_steps: int | None
    last_batch: int
    finished: bool
    gpus: str
    gpus_held: int | None
    nonce: str | None
    sessions: str
    session_closed: bool
    history_bytes: int
    host: str | None
    launcher: str | None
    engine_id: str | None
    submitted_at: str | None
    claimed_at: str | None
    termination_reason: str | None
    termination_detail: str | None
    pace_steps: int
    pace_seconds: float
    pace_clock: str | None
    next_attempt_at: str | None
    promised_checkpoint_id: str | None
    heartbeat_seconds: float | None
    last_progress_at: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    heartbeat_at: str | None
    launched_at: str | None
    cancel_requested_at: str | None
    log_removed_at: str | None
    points_thinned_at: str | None
    points_removed_at: str | None

class CheckpointChanges(TypedDict, total=False):
    id: str
    experiment_id: str
    run_id: str
    ckpt_path: str
    attempt: int | None
    state: str
    reason: str | None
    step: int | None
    size_bytes: int | None
    sha256: str | None
    stored_as_id: str | None
    tag_type: str | None
    release_tag: str | None
    metrics: str
    healthy: bool | None
    marked_at: str | None
    saved_at: str | None
    files_removed_at: str | None
    created_at: str

class AttemptChanges(TypedDict, total=False):
    run_id: str
    number: int
    spec: str
    resume_path: str | None
    claim_sha256: str
    agent: str | None
    host: str | None
    claimed_at: str | None
    pulse_at: str | None
    ran_seconds: float
    stop: str | None
    exit: str | None
    nodes: str | None
    reason: str | None

class WebhookChanges(TypedDict, total=False):
    id: str
    url: str
    name: str | None
    types: str
    experiment_id: str | None
    project_id: str | None
    format: str
    created_at: str
    paused_at: str | None
    paused_reason: str | None
    failing_since: str | None

class WebhookDeliveryChanges(TypedDict, total=False):
    id: str
    webhook_id: str
    type: str
    body: str
    state: str
    attempts: int
    next_attempt_at: str
    last_attempt_at: str | None
    last_status: int | None
    last_error: str | None
    created_at: str

class LoggedModelChanges(TypedDict, total=False):
    id: str
    experiment_id: str
    run_id: str | None
    name: str
    model_type: str | None
    state: str
    params: str
    metrics: str
    created_at: str
    updated_at: str

AnyExperiment: TypeAlias = Experiment | ExperimentRow

AnyRun: TypeAlias = Run | RunRow

AnyCheckpoint: TypeAlias = Checkpoint | CheckpointRow

AnyEvent: TypeAlias = Event | EventRow

AnyMetricLatest: TypeAlias = MetricLatest | MetricLatestRow

AnyProject: TypeAlias = Project | ProjectRow

AnyRunSummary: TypeAlias = AnyRun | RunSummaryRow
