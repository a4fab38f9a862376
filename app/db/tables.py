"""The tables. A column is added here, and by one migration in `migrations/versions`.

Three conventions keep what is stored, what SQLite and PostgreSQL answer and what leaves
the service the same bytes, so that nothing is converted on the way:

* Times are text, UTC ISO 8601 with offset, 32 characters: text order is time order.
* JSON is text, written once by `app.db.sql.dump` and passed on as it is.
* Ids are prefixed, time-sortable text (`app.domain.ids`).

The file is long and stays whole: it is the one place that shows the schema with its keys and
indexes, and a table refers to its neighbours.
"""

from typing import Any, cast

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    Text,
    TextClause,
    event,
    text,
)
from sqlmodel import Field

from app.db.objects import Table
from app.domain.permissions import DEFAULT_PROJECT

_QUEUE = text("status = 'queued' AND recipe IS NOT NULL")
LIVE = "status IN ('cancelling', 'running', 'starting')"
_NAMED = text("name IS NOT NULL")
ARCHIVED = text("archived_at IS NOT NULL")
ACTIVE = text("coalesce(archived_at, '') = ''")
"""Runs that are not archived. A list that asks IS NULL is not to take this index of theirs: it has
no order."""
LAUNCHED = text(f"{LIVE} AND recipe IS NOT NULL")
"""Runs of recipes that may have a trainer."""
EXTERNAL = text(f"{LIVE} AND recipe IS NULL")
"""Runs that may have a trainer which somebody else has started."""
SUBMITTED = text("status = 'queued' AND submitted_at IS NOT NULL")
"""Runs that wait in the queue of an engine."""

_REPORTED = text("settled_step IS NULL")
"""Runs that a trainer may report, which are few: lists add them to what no report changes."""
_PENDING = text("state = 'pending'")
_WHERE = "where"
"""Where a partial index notes its condition, for PostgreSQL."""

ENDING = text(
    f"{LIVE} AND recipe IS NULL"
    " AND (finished OR status = 'cancelling' OR termination_reason IS NOT NULL)"
)
"""Those of them that end soon."""

PLACE_OF_END = 27
"""Where the last `SHORTEST_END` characters of a run's id begin, which count from 1."""


def _partial(name: str, *columns: str, where: TextClause) -> Index:
    """Return an index of the rows for which the condition holds."""
    return Index(name, *columns, sqlite_where=where, info={_WHERE: where})


def complete_for_postgresql() -> None:
    """Give the partial indexes their condition on PostgreSQL, too, before tables are made there.

    SQLAlchemy imports a dialect, two dozen modules, as soon as an index has an option of it; a
    service on SQLite would do that at every start.
    """
    for table in Table.metadata.tables.values():
        for index in table.indexes:
            if (where := index.info.get(_WHERE)) is not None:
                index.dialect_options["postgresql"]["where"] = where


def _order(name: str, *columns: str) -> Index:
    """Return an index for an order by what comes later.

    The rows that lack it cost nothing.
    """
    return _partial(name, *columns, where=text(f"{columns[-2]} IS NOT NULL"))


def _known(name: str, *columns: str) -> Index:
    """Return an index of the rows that have the first of these columns."""
    return _partial(name, *columns, where=text(f"{columns[0]} IS NOT NULL"))


def _counted() -> Column[int]:
    """Return a primary key that the database counts up."""
    return Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)


class Project(Table, table=True):
    """The project of a team: its experiments, and who may do what with them."""

    __table_args__ = (Index("ux_project_name", "name", unique=True),)

    id: str = Field(primary_key=True)
    # Never changes: people and scripts name a project by it.
    name: str
    description: str | None = None
    created_at: str
    # What its runs may have at a time (`domain.quotas.Quota`); NULL: as much as there is.
    max_runs: int | None = Field(default=None, sa_type=Integer)
    max_gpus: int | None = Field(default=None, sa_type=Integer)
    max_bytes: int | None = Field(default=None, sa_type=BigInteger)
    # For how long after a run's end its log, all of its points and its curves are kept
    # (`services.expiry`); NULL: as the service is set.
    logs_days: float | None = Field(default=None, sa_type=Float(53))
    points_days: float | None = Field(default=None, sa_type=Float(53))
    curves_days: float | None = Field(default=None, sa_type=Float(53))
    # What its releases need besides what the service wants of all (`domain.gate`); the first is a
    # JSON list of bounds.
    release_metrics: str | None = Field(default=None, sa_type=Text)
    release_verified_hours: float | None = Field(default=None, sa_type=Float(53))
    release_approval: bool | None = None


_DEFAULT_PROJECT = DDL(  # type: ignore[no-untyped-call]
    "INSERT INTO project (id, name, created_at) VALUES "  # noqa: S608
    f"('{DEFAULT_PROJECT}', 'default', '2026-01-01T00:00:00.000000+00:00')"
)
event.listen(cast(Any, Project).__table__, "after_create", _DEFAULT_PROJECT)


class User(Table, table=True):
    """A person or a service that holds tokens. It is disabled, never deleted: events name it."""

    __tablename__ = "account"  # "user" is a word of SQL
    __table_args__ = (
        Index("ux_account_name", "name", unique=True),
        Index("ux_account_subject", "issuer", "subject", unique=True),
    )

    id: str = Field(primary_key=True)
    # Never changes, so that a history that names it stays true.
    name: str
    # `domain.permissions.UserKind`
    kind: str
    email: str | None = None
    # May do everything in every project.
    is_admin: bool = False
    # Who signs in with OpenID Connect: the provider, and its name for the person.
    issuer: str | None = None
    subject: str | None = None
    created_at: str
    disabled_at: str | None = None


class Membership(Table, table=True):
    """The role of a user in a project."""

    __table_args__ = (Index("ix_membership_project", "project_id"),)

    user_id: str = Field(primary_key=True, foreign_key="account.id")
    project_id: str = Field(primary_key=True, foreign_key="project.id")
    role: str
    created_at: str


class ApiToken(Table, table=True):
    """A token of a user. The token itself is shown once and stored nowhere."""

    __tablename__ = "api_token"
    __table_args__ = (
        Index("ux_api_token_sha256", "sha256", unique=True),
        Index("ix_api_token_user", "user_id"),
    )

    id: str = Field(primary_key=True)
    user_id: str = Field(foreign_key="account.id")
    name: str | None = None
    # SHA-256 of 256 random bits: nothing is gained by a slow hash.
    sha256: str
    # The highest role that it may act in, whatever its user's.
    scope: str
    created_at: str
    expires_at: str | None = None
    revoked_at: str | None = None
    # To some minutes: it is not written with every request.
    last_used_at: str | None = None


class Experiment(Table, table=True):
    """A line of work: runs, checkpoints and one gapless event history."""

    __table_args__ = (
        Index("ix_experiment_created", "created_at", "id"),
        Index("ix_experiment_name", "name", "id"),
        Index("ix_experiment_project", "project_id", "created_at", "id"),
    )

    id: str = Field(primary_key=True)
    name: str
    task_type: str
    goal: str | None = None
    version: str | None = None
    base_model: str | None = None
    owner: str | None = None
    param_config: str = Field(sa_type=Text)
    tags: str = Field(sa_type=Text)
    created_at: str
    last_seq: int = Field(sa_type=BigInteger)
    notes: str | None = None
    archived_at: str | None = None
    # No foreign key: SQLite adds none to a table that has rows. Projects are never deleted.
    project_id: str = DEFAULT_PROJECT


class ExperimentTag(Table, table=True):
    """One tag of one experiment, for filters; `Experiment.tags` holds them in order."""

    __tablename__ = "experiment_tag"

    tag: str = Field(primary_key=True)
    experiment_id: str = Field(primary_key=True, foreign_key="experiment.id")


class Run(Table, table=True):
    """One training run: what was asked, where it is, what it reported last.

    A new run has the defaults here (`objects.Table`).
    """

    __table_args__ = (
        Index("ix_run_experiment", "experiment_id", "created_at", "id"),
        Index("ix_run_experiment_status", "experiment_id", "status", "created_at", "id"),
        # Only what the supervisor may launch: thousands of external runs may wait beside it.
        _partial("ix_run_queue", "status", "priority", "id", where=_QUEUE),
        _partial("ix_run_name", "name", "created_at", "id", where=_NAMED),
        _partial("ix_run_archived", "experiment_id", "status", "created_at", "id", where=ARCHIVED),
        _partial("ix_run_active", "experiment_id", "id", where=ACTIVE),
        _partial("ix_run_launched", "status", "id", where=LAUNCHED),
        _partial("ix_run_submitted", "status", "id", where=SUBMITTED),
        _partial("ix_run_ending", "status", "id", where=ENDING),
        Index("ix_run_status", "status", "created_at", "id"),
        Index("ix_run_created", "created_at", "id"),
        _order("ix_run_experiment_started", "experiment_id", "started_at", "id"),
        _order("ix_run_experiment_finished", "experiment_id", "finished_at", "id"),
        _order("ix_run_started", "started_at", "id"),
        _order("ix_run_finished", "finished_at", "id"),
        _partial("ix_run_reported", "experiment_id", "id", where=_REPORTED),
        _order("ix_run_experiment_step", "experiment_id", "settled_step", "id"),
        _order("ix_run_step", "settled_step", "id"),
        # The filter `id_ends`. Random bits: however many runs there are, few have the same ones.
        Index("ix_run_end", text(f"substr(id, {PLACE_OF_END})")),
        Index("ix_run_parent", "parent_run_id"),
        Index("ix_run_root", "root_run_id"),
    )

    id: str = Field(primary_key=True)
    experiment_id: str = Field(foreign_key="experiment.id")
    parent_run_id: str | None = Field(default=None, foreign_key="run.id")
    root_run_id: str
    # The checkpoint this run was resumed from, and its logical path.
    source_checkpoint_id: str | None = None
    source_ckpt_path: str | None = None
    # The attempt that saved it: its points, and not those of later ones, lead to this run.
    source_attempt: int | None = None

    model: str
    recipe: str | None = None
    dataset: str = Field(sa_type=Text)
    hyperparams: str = Field(sa_type=Text)
    override_hyperparams: str = Field(default="{}", sa_type=Text)
    effective_hyperparams: str | None = Field(default=None, sa_type=Text)
    # What its trainer runs, as that reports it: commit, command, packages, machine.
    source: str | None = Field(default=None, sa_type=Text)
    # The attempt that last reported them.
    effective_attempt: int | None = None
    resources: str = Field(sa_type=Text)
    notes: str | None = None
    name: str | None = None
    # JSON list; `RunTag` holds them for filters.
    tags: str = Field(default="[]", sa_type=Text)
    archived_at: str | None = None
    # Its rank in the queue (`domain.priority`): the lower starts first.
    priority: int = Field(default=1, sa_type=Integer)

    status: str = "queued"
    status_reason: str | None = None
    status_detail: str | None = None
    # Launches so far, which is also the number that fences reports.
    attempt: int = 0
    # How many of these were preempted: they do not count for the recipe's max_attempts.
    preemptions: int = Field(default=0, sa_type=Integer)
    # The step that the current attempt started from.
    start_step: int = Field(default=0, sa_type=BigInteger)
    step: int = Field(default=0, sa_type=BigInteger)
    # The same while no trainer reports, for lists in this order; NULL while one may: an index that
    # each report changes would cost PostgreSQL an entry in every index of the run besides.
    settled_step: int | None = Field(default=0, sa_type=BigInteger)
    total_steps: int | None = Field(default=None, sa_type=BigInteger)
    # The last batch of reports of this attempt; the same one again changes nothing.
    last_batch: int = Field(default=0, sa_type=BigInteger)
    # The trainer said that its training loop reached its own end.
    finished: bool = False
    # JSON list of the GPUs this run holds while it is launched.
    gpus: str = "[]"
    # How many that are: of those on an engine's machines the service knows no names. NULL: as many
    # as it asked for.
    gpus_held: int | None = Field(default=None, sa_type=Integer)
    # Random, in the environment of this attempt's processes; NULL for an external run.
    nonce: str | None = None
    # JSON list of the sessions of an external run's trainers, newest last.
    sessions: str = Field(default="[]", sa_type=Text)
    # The newest of them has said that it sends nothing more.
    session_closed: bool = False
    # About how much its trainers have added to the experiment's history.
    history_bytes: int = Field(default=0, sa_type=BigInteger)
    # The machine whose GPUs these are; NULL while the run is not launched.
    host: str | None = None
    # Where this attempt runs: the launcher's name, and its engine's id of the job.
    launcher: str | None = None
    engine_id: str | None = None
    # When the attempt was given to the launcher, and when its agent claimed it.
    submitted_at: str | None = None
    claimed_at: str | None = None
    # Why the service is about to end this attempt's trainer, from its decision to the end.
    termination_reason: str | None = None
    termination_detail: str | None = None
    # Steps and seconds of this attempt that were measured, by which monotonic clock, and what
    # that said at the last report.
    pace_steps: int = Field(default=0, sa_type=BigInteger)
    pace_seconds: float = Field(default=0.0, sa_type=Float(53))
    pace_clock: str | None = None
    # When a run that waits to be tried again may start.
    next_attempt_at: str | None = None
    # The checkpoint that the answer to a cancel named.
    promised_checkpoint_id: str | None = None
    # The longest silence of its trainer; NULL: the recipe's, or for an external run the setting's;
    # 0: any, also where a recipe's trainer reports with clients that send no heartbeats.
    heartbeat_seconds: float | None = Field(default=None, sa_type=Float(53))
    # When the step last moved; NULL while this attempt has not made one.
    last_progress_at: str | None = None
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    heartbeat_at: str | None = None
    launched_at: str | None = None
    cancel_requested_at: str | None = None
    # When retention decided to remove its log, to thin its points, and to remove them.
    log_removed_at: str | None = None
    points_thinned_at: str | None = None
    points_removed_at: str | None = None


class RunTag(Table, table=True):
    """One tag of one run, for filters; `Run.tags` holds them in order."""

    __tablename__ = "run_tag"
    __table_args__ = (Index("ix_run_tag_run", "run_id"),)

    tag: str = Field(primary_key=True)
    run_id: str = Field(primary_key=True, foreign_key="run.id")


class ExperimentSearch(Table, table=True):
    """The text that an experiment is found by, folded (`app.db.search`)."""

    __tablename__ = "experiment_search"
    __table_args__ = (Index("ux_experiment_search", "id", unique=True),)

    # The index refers to it. Not a rowid of SQLite's own, which VACUUM may change.
    number: int | None = Field(default=None, sa_column=_counted())
    id: str
    text: str = Field(sa_type=Text)


class RunSearch(Table, table=True):
    """The text that a run is found by, folded (`app.db.search`)."""

    __tablename__ = "run_search"
    __table_args__ = (Index("ux_run_search", "id", unique=True),)

    number: int | None = Field(default=None, sa_column=_counted())
    id: str
    text: str = Field(sa_type=Text)


class Checkpoint(Table, table=True):
    """A checkpoint under its logical path, and what the service knows of it."""

    __table_args__ = (
        Index("ix_checkpoint_run", "run_id", "created_at", "id"),
        Index("ix_checkpoint_experiment", "experiment_id", "created_at", "id"),
        Index("ix_checkpoint_experiment_state", "experiment_id", "state", "created_at", "id"),
        Index("ux_checkpoint_path", "ckpt_path", unique=True),
        Index("ux_checkpoint_release", "experiment_id", "release_tag", unique=True),
        Index("ix_checkpoint_state", "state", "created_at", "id"),
        Index("ix_checkpoint_created", "created_at", "id"),
        _order("ix_checkpoint_experiment_marked", "experiment_id", "marked_at", "id"),
        Index("ix_checkpoint_stored_as", "stored_as_id"),
        Index("ix_checkpoint_run_saved", "run_id", "saved_at", "id"),
    )

    id: str = Field(primary_key=True)
    experiment_id: str = Field(foreign_key="experiment.id")
    run_id: str = Field(foreign_key="run.id")
    ckpt_path: str
    # The attempt of the run that saved it, or promised it.
    attempt: int | None = None
    state: str
    # Why it is lost, deleted, empty or a fallback, in one sentence for people.
    reason: str | None = None
    step: int | None = Field(default=None, sa_type=BigInteger)
    size_bytes: int | None = Field(default=None, sa_type=BigInteger)
    sha256: str | None = None
    # A promise that fell back: the checkpoint that this path is an alias of.
    stored_as_id: str | None = None
    tag_type: str | None = None
    release_tag: str | None = None
    metrics: str = Field(default="{}", sa_type=Text)
    # False if its metrics or weights hold NaN or an infinity; NULL: nobody has looked.
    healthy: bool | None = None
    marked_at: str | None = None
    # When its files were committed, as far as the service knows: what "newest" means.
    saved_at: str | None = None
    # When retention removed the files of a deleted checkpoint; NULL until they are gone.
    files_removed_at: str | None = None
    created_at: str


class Tally(Table, table=True):
    """A change of how many runs, or checkpoints, of an experiment are in a state (`db.tally`).

    Kept by triggers, and added up.
    """

    __table_args__ = (Index("ix_tally", "experiment_id", "listed", "state", "archived", "number"),)

    id: int | None = Field(default=None, sa_column=_counted())
    # The table of what is counted.
    listed: str
    experiment_id: str
    state: str
    archived: int = Field(sa_type=Integer)
    number: int = Field(sa_type=Integer)


class Attempt(Table, table=True):
    """An attempt whose agent does not share the service's files: its mailbox over HTTP."""

    __table_args__ = (_known("ix_attempt_failed", "reason", "claimed_at"),)

    run_id: str = Field(primary_key=True, foreign_key="run.id")
    number: int = Field(primary_key=True, sa_type=Integer)
    # What the trainer must do, without anything secret.
    spec: str = Field(sa_type=Text)
    # The logical path of the checkpoint whose files it starts from.
    resume_path: str | None = None
    # SHA-256 of the code that its job carries through the engine.
    claim_sha256: str
    # The random name of the agent that claimed it, where that runs, and when its last pulse came.
    agent: str | None = None
    host: str | None = None
    claimed_at: str | None = None
    pulse_at: str | None = None
    # How long it has run by the agent's monotonic clock, at the last pulse.
    ran_seconds: float = Field(default=0.0, sa_type=Float(53))
    # What the service asked of the agent: NULL, stop or kill.
    stop: str | None = None
    # The exit record, as JSON.
    exit: str | None = Field(default=None, sa_type=Text)
    # The engine's names of the machines that it ran on, as a JSON list, and why it failed.
    nodes: str | None = Field(default=None, sa_type=Text)
    reason: str | None = None


class Verification(Table, table=True):
    """A verification of many checkpoints, which the leading server works off in the background."""

    __table_args__ = (Index("ix_verification_finished", "finished_at", "id"),)

    id: str = Field(primary_key=True)
    experiment_id: str = Field(foreign_key="experiment.id")
    # Which checkpoints: those of a run, or the one of a path; neither: all of the experiment.
    run_id: str | None = None
    ckpt_path: str | None = None
    # How many there were at its start.
    total: int
    created_at: str
    finished_at: str | None = None


class VerificationFinding(Table, table=True):
    """The result of verifying one checkpoint, recorded as soon as its files were read."""

    __tablename__ = "verification_finding"
    __table_args__ = (Index("ix_verification_finding_checkpoint", "checkpoint_id"),)

    verification_id: str = Field(primary_key=True, foreign_key="verification.id")
    seq: int = Field(primary_key=True)
    checkpoint_id: str = Field(foreign_key="checkpoint.id")
    ckpt_path: str
    # The checkpoint's state then, or `unreadable`.
    outcome: str
    reason: str | None = None
    at: str


class Event(Table, table=True):
    """One entry of an experiment's append-only history; `seq` has no gaps."""

    __table_args__ = (Index("ix_event_run", "run_id", "seq"),)

    experiment_id: str = Field(primary_key=True, foreign_key="experiment.id")
    seq: int = Field(primary_key=True, sa_type=BigInteger)
    type: str
    at: str
    run_id: str | None = None
    data: str = Field(sa_type=Text)
    # On whose behalf (`domain.principals`); NULL where it was written before that was kept.
    actor_kind: str | None = None
    actor_name: str | None = None


class AuditEntry(Table, table=True):
    """One write of a user, or one sign-in that was refused."""

    __tablename__ = "audit_entry"
    __table_args__ = (
        Index("ix_audit_entry_actor", "actor_name", "id"),
        Index("ix_audit_entry_target", "target_id", "id"),
    )

    id: str = Field(primary_key=True)
    at: str
    actor_kind: str
    actor_name: str | None = None
    token_id: str | None = None
    # The operation's name, as in the API.
    action: str
    target_id: str | None = None
    # done or refused
    outcome: str
    # Of a sign-in that was refused: where it came from.
    address: str | None = None


class AttemptUsage(Table, table=True):
    """The usage of one attempt, recorded when it ended (`services.usage` says what is counted).

    It has no foreign keys: the record stays when the run is deleted.
    """

    __tablename__ = "attempt_usage"
    __table_args__ = (
        Index("ix_attempt_usage_experiment", "experiment_id", "ended_at"),
        Index("ix_attempt_usage_ended", "ended_at"),
    )

    run_id: str = Field(primary_key=True)
    attempt: int = Field(primary_key=True, sa_type=Integer)
    experiment_id: str
    ended_at: str
    # The status to which the run went: queued, if it was tried again.
    outcome: str
    gpus: int
    used_seconds: float = Field(sa_type=Float(53))
    wasted_seconds: float = Field(sa_type=Float(53))
    waited_seconds: float = Field(sa_type=Float(53))
    saved_seconds: float = Field(sa_type=Float(53))


class Webhook(Table, table=True):
    """A URL that receives events."""

    id: str = Field(primary_key=True)
    url: str
    name: str | None = None
    # JSON list of the event types to tell of; empty: all.
    types: str = Field(sa_type=Text)
    # Only events of this experiment; NULL: of all.
    experiment_id: str | None = Field(default=None, foreign_key="experiment.id")
    # Only events of this project's experiments. No foreign key: SQLite adds none later.
    project_id: str | None = None
    format: str
    created_at: str
    # Nothing is sent while it is paused, and why it is.
    paused_at: str | None = None
    paused_reason: str | None = None
    # Since when nothing was received; NULL while the last attempt was.
    failing_since: str | None = None


class WebhookDelivery(Table, table=True):
    """One message to one webhook, from its event to its end."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        Index("ix_webhook_delivery", "webhook_id", "id"),
        _partial(
            "ix_webhook_delivery_due", "webhook_id", "next_attempt_at", "id", where=_PENDING
        ),
        Index("ix_webhook_delivery_created", "created_at"),
    )  # fmt: skip

    id: str = Field(primary_key=True)
    webhook_id: str = Field(foreign_key="webhook.id")
    type: str
    body: str = Field(sa_type=Text)
    state: str
    attempts: int
    next_attempt_at: str
    last_attempt_at: str | None = None
    # The HTTP status of the last attempt's answer, and why it was not received.
    last_status: int | None = None
    last_error: str | None = None
    created_at: str


class AlertRule(Table, table=True):
    """Rule of a project that raises an alert (`domain.alerts`)."""

    __tablename__ = "alert_rule"
    __table_args__ = (Index("ix_alert_rule_project", "project_id"),)

    id: str = Field(primary_key=True)
    project_id: str = Field(foreign_key="project.id")
    name: str | None = None
    kind: str
    # Of rules about a metric: which one, the side of its bound, the bound, and for how many points.
    metric: str | None = None
    direction: str | None = None
    value: float | None = Field(default=None, sa_type=Float(53))
    points: int
    created_at: str
    paused_at: str | None = None


class Alert(Table, table=True):
    """The last firing of a rule for one run or one released checkpoint."""

    __table_args__ = (Index("ix_alert_run", "run_id"), Index("ix_alert_fired", "fired_at"))

    rule_id: str = Field(primary_key=True, foreign_key="alert_rule.id")
    # The run's id, or the checkpoint's path.
    subject: str = Field(primary_key=True)
    experiment_id: str
    run_id: str = Field(foreign_key="run.id")
    attempt: int
    # Of a metric: the step and value at which it fired, or recovered.
    step: int | None = Field(default=None, sa_type=BigInteger)
    value: float | None = Field(default=None, sa_type=Float(53))
    fired_at: str
    # NULL while it is firing.
    recovered_at: str | None = None


class Deletion(Table, table=True):
    """A run or an experiment that was deleted: what stays of it."""

    __table_args__ = (Index("ix_deletion_run", "run_id"), Index("ix_deletion_of", "experiment_id"))

    id: str = Field(primary_key=True)
    project_id: str
    experiment_id: str
    # NULL: the experiment, with all of its runs.
    run_id: str | None = None
    # The name that it had for people.
    name: str | None = None
    runs: int
    checkpoints: int
    size_bytes: int = Field(sa_type=BigInteger)
    requested_at: str
    # When its points and files were gone.
    finished_at: str | None = None


class Removal(Table, table=True):
    """A deleted run or logged model whose points and files are not yet gone."""

    owner_id: str = Field(primary_key=True)
    experiment_id: str
    deletion_id: str = Field(foreign_key="deletion.id", index=True)


class Expiration(Table, table=True):
    """A decision not carried out yet: to remove a log, or to remove or thin points.

    No foreign key: a run may be deleted meanwhile.
    """

    run_id: str = Field(primary_key=True)
    # `services.expiry.Part`
    part: str = Field(primary_key=True)


class DataDir(Table, table=True):
    """The data directory in which the runs are launched: one row, made by the first leader."""

    __tablename__ = "data_dir"

    id: int = Field(primary_key=True, sa_type=Integer)
    # Random, as in its file `id`; and where the server saw it that wrote this.
    name: str
    path: str


class Alias(Table, table=True):
    """The name under which a tracking client knows an experiment or a run, unique in its scope."""

    scope: str = Field(primary_key=True)
    name: str = Field(primary_key=True, sa_type=Text)
    target_id: str


class Label(Table, table=True):
    """A key and a value that a tracking client has put onto an experiment, a run or a model."""

    owner_id: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    value: str = Field(sa_type=Text)


class LoggedModel(Table, table=True):
    """A model that a tracking client has logged; its files are artifacts of its own."""

    __tablename__ = "logged_model"
    __table_args__ = (
        Index("ix_logged_model_experiment", "experiment_id", "created_at", "id"),
        Index("ix_logged_model_run", "run_id"),
    )

    id: str = Field(primary_key=True)
    experiment_id: str = Field(foreign_key="experiment.id")
    # The run that made it.
    run_id: str | None = Field(default=None, foreign_key="run.id")
    name: str
    model_type: str | None = None
    # What its client says of it: pending, ready or failed.
    state: str
    params: str = Field(sa_type=Text)
    # JSON list of its newest metrics, as they were logged.
    metrics: str = Field(sa_type=Text)
    created_at: str
    updated_at: str


class HealthFinding(Table, table=True):
    """A problem that a health rule has found with one metric of one attempt, recorded once."""

    __tablename__ = "health_finding"

    run_id: str = Field(primary_key=True, foreign_key="run.id")
    attempt: int = Field(primary_key=True, sa_type=Integer)
    rule: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    step: int = Field(sa_type=BigInteger)
    # event; or what is being done about it: stop, retry
    action: str


class RunLink(Table, table=True):
    """A data set that a run has read, or a model that it has read or made."""

    __tablename__ = "run_link"

    run_id: str = Field(primary_key=True, foreign_key="run.id")
    # dataset, model_input or model_output
    kind: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    content: str = Field(sa_type=Text)


class AccessEpoch(Table, table=True):
    """The name of the present state of what decides who may do what: one row, by triggers.

    On PostgreSQL alone (`app.db.rights`).
    """

    __tablename__ = "access_epoch"

    id: int = Field(primary_key=True, sa_type=Integer)
    name: str


class ServiceSecret(Table, table=True):
    """The secret from which run tokens are derived: one row, made by the first server."""

    __tablename__ = "service_secret"

    id: int = Field(primary_key=True, sa_type=Integer)
    secret: str


class IdempotencyKey(Table, table=True):
    """The first answer to a request that came with an Idempotency-Key."""

    __tablename__ = "idempotency_key"
    __table_args__ = (Index("ix_idempotency_created", "created_at"),)

    # Caller, method and route: the same key elsewhere is another key.
    scope: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    request_sha256: str
    status: int
    body: str = Field(sa_type=Text)
    created_at: str


class MetricSeries(Table, table=True):
    """One key of one attempt of one run; points refer to it by a small integer.

    No foreign key: the series of a deleted run are removed after it, bit by bit.
    """

    __tablename__ = "metric_series"
    __table_args__ = (Index("ux_metric_series", "run_id", "attempt", "key", unique=True),)

    id: int | None = Field(default=None, sa_column=_counted())
    run_id: str
    attempt: int
    key: str
    # Points of earlier attempts (or of the parent) past this step are superseded.
    start_step: int = Field(sa_type=BigInteger)


class MetricChunk(Table, table=True):
    """Up to 1,024 points of a series with strictly increasing steps, packed (`domain.points`).

    One row for many points: a hundred times less is written, fetched and turned into Python
    objects than with a row for each. Chunks of a series never overlap. `sketch` holds the points
    of the chunk that stay when a long series is thinned; empty: all of its points.
    """

    __tablename__ = "metric_chunk"
    __table_args__ = ({"sqlite_with_rowid": False},)

    series_id: int = Field(
        sa_column=Column(BigInteger, ForeignKey("metric_series.id"), primary_key=True)
    )
    first_step: int = Field(sa_column=Column(BigInteger, primary_key=True))
    last_step: int = Field(sa_type=BigInteger)
    count: int
    sketch: bytes
    data: bytes


class MetricLatest(Table, table=True):
    """The value at the highest step of each key of a run that is not superseded.

    NULL is NaN, and in rows of older versions an infinity. Wall time is unix seconds, NULL when
    not given. `experiment_id` is that of the run, and NULL while a trainer may report: a second
    index that each report changes would cost it a twentieth.
    """

    __tablename__ = "metric_latest"
    __table_args__ = (
        Index("ix_metric_latest_value", "key", "value", "run_id"),
        _known("ix_metric_latest_experiment", "experiment_id", "key", "value", "run_id"),
        {"sqlite_with_rowid": False},
    )

    run_id: str = Field(primary_key=True, foreign_key="run.id")
    key: str = Field(primary_key=True)
    step: int = Field(sa_type=BigInteger)
    value: float | None = Field(default=None, sa_type=Float(53))
    wall_time: float | None = Field(default=None, sa_type=Float(53))
    experiment_id: str | None = None
