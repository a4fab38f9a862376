"""Experiment, Run, Checkpoint, Event: rows as GraphQL objects, and the edges between them.

Resolvers hand rows on as they are: a plain field is the row's attribute of that name.
"""

from functools import partial
from typing import Annotated, Any, Optional, cast

import strawberry

from app.db import tables
from app.db.database import Effort
from app.db.sql import dump, load
from app.domain.filters import MAX_BUCKETS, MAX_KEYS, MAX_POINTS, MIN_POINTS
from app.domain.lifecycle import CheckpointState, RunStatus
from app.domain.principals import PrincipalKind
from app.domain.priority import Priority
from app.domain.resources import Resources as StoredResources
from app.graphql import curves, logs, summaries
from app.graphql.connections import Connection, Node
from app.graphql.describe import Info, attribute, each, edge, field, output
from app.graphql.edges import checkpoints, events, one, runs
from app.graphql.logs import LOG_TAIL, MAX_LOG
from app.graphql.scalars import DateTime, Json, Long
from app.graphql.team import Actor, Project
from app.graphql.tracking import Artifact, LoggedModel, artifacts_of, labels_of, models_of
from app.graphql.values import (
    HyperparamOverride,
    LogPart,
    Metric,
    MetricBand,
    MetricSeries,
    Resources,
    StatusCount,
)
from app.services import progress

_KEYS = f"Metrics, at most {MAX_KEYS}; all if left out."


@output
class Experiment(Node):
    """A line of work: runs, checkpoints and one gapless event history."""

    name: str = attribute("Name for people.")
    task_type: str = attribute("Kind of training, such as `pretrain` or `sft`.")
    goal: str | None = attribute("Purpose.")
    version: str | None = attribute("The experiment's own version.")
    base_model: str | None = attribute("The model it starts from.")
    owner: str | None = attribute("Person or team that owns it.")
    param_config: Json = attribute("Parameters common to its runs, as given.")
    notes: str | None = attribute("Free text.")
    archived_at: DateTime | None = attribute("Time at which it was archived.")
    created_at: DateTime = attribute("Time of creation.")
    last_seq: Long = attribute("The number of its last event; `afterSeq` of a subscription.")

    @field
    def tags(self) -> list[str]:
        """Tags, in the order given."""
        tags: list[str] = load(self.tags)
        return tags

    project: Project = one(tables.Project, "project_id", "Its project.")
    labels: Json = labels_of("id", "it")
    runs: Connection["Run"] = runs("experiment_id", "Its runs, newest first.")
    checkpoints: Connection["Checkpoint"] = checkpoints(
        "experiment_id", "The checkpoints of its runs, newest first."
    )
    events: Connection["Event"] = events("experiment_id", "Its history, oldest first.")

    @edge
    async def run_counts(self, info: Info) -> list[StatusCount]:
        """Number of its runs in each status; those with none are left out."""
        counts: list[StatusCount] = await each(self, partial(summaries.count_runs_of, info.context))
        return counts


@output
class Run(Node):
    """One training run: its request, its status and its reports."""

    model: str = attribute("The model to train.")
    recipe: str | None = attribute("Recipe that the service executes; null for an external run.")
    dataset: Json = attribute("The data, as given.")
    hyperparams: Json = attribute("Requested hyperparameters: the parent's, overridden.")
    override_hyperparams: Json = attribute("Hyperparameters that a resume overrides.")
    effective_hyperparams: Json | None = attribute(
        "Hyperparameters that the trainer reports to use."
    )
    source: Json | None = attribute("Its trainer's commit, command, packages and machine.")
    notes: str | None = attribute("Free text.")
    name: str | None = attribute("Name for people.")
    archived_at: DateTime | None = attribute("Time at which it was archived.")
    status: RunStatus = attribute("Status.")
    status_reason: str | None = attribute(
        "Reason of the status: a stable code such as `waiting_for_resources`."
    )
    attempt: int = attribute("Number of launches.")
    step: Long = attribute("Last reported step.")
    total_steps: Long | None = attribute("Total number of steps, once known.")
    created_at: DateTime = attribute("Time of submission.")
    started_at: DateTime | None = attribute("Time of its first start.")
    finished_at: DateTime | None = attribute("Time of its end.")
    next_attempt_at: DateTime | None = attribute("Earliest new start, if it waits for a retry.")
    heartbeat_at: DateTime | None = attribute("Last heartbeat of the trainer.")
    last_progress_at: DateTime | None = attribute("Time of its last progress.")
    cancel_requested_at: DateTime | None = attribute("Time of the cancel request.")
    log_removed_at: DateTime | None = attribute("Time at which retention removed its log.")
    points_thinned_at: DateTime | None = attribute(
        "Time at which retention thinned its points: its curves keep their shape and every spike."
    )
    points_removed_at: DateTime | None = attribute(
        "Time at which retention removed its points: the latest values stay."
    )

    @field
    def tags(self) -> list[str]:
        """Tags, in the order given."""
        tags: list[str] = load(self.tags)
        return tags

    @field
    def priority(self) -> Priority:
        """Its place in the queue."""
        return Priority.of_rank(self.priority)

    @field
    def resources(self) -> Resources:
        """Requested resources."""
        resources: Any = StoredResources.model_construct(**load(self.resources))
        return cast(Resources, resources)

    @field
    def status_detail(self) -> str | None:
        """Reason of the status in one sentence."""
        return progress.status_detail(self)  # type: ignore[arg-type]

    @field
    def progress(self) -> float | None:
        """From 0 to 1; null while the number of steps is not known."""
        return progress.progress(self)  # type: ignore[arg-type]

    @field
    def eta_seconds(self) -> float | None:
        """Seconds until its last step at the current pace."""
        return progress.eta_seconds(self)  # type: ignore[arg-type]

    @field
    def overrides(self) -> list[HyperparamOverride]:
        """Receipts of the overridden hyperparameters."""
        receipts = progress.overrides(self)  # type: ignore[arg-type]
        return [
            HyperparamOverride(
                key=key,
                requested=Json(dump(value["requested"])),
                effective=Json(dump(value["effective"])),
                applied=value["applied"],
            )
            for key, value in receipts.items()
        ]

    @edge
    async def metrics(
        self,
        info: Info,
        keys: Annotated[
            list[str] | None,
            strawberry.argument(description=_KEYS),
        ] = None,
    ) -> list[Metric]:
        """The latest value of each metric, by key."""
        named = curves.check_keys(keys)

        def load(runs: list[Any]) -> Any:
            ids = [run.id for run in runs]
            read = partial(curves.latest, named, info.context.budget)
            # Of one run they are few; of a list they may be thousands.
            effort = Effort.SHORT if len(ids) == 1 else Effort.LONG
            return info.context.load(("metrics", named), ids, read, effort)

        latest: list[Metric] = await each(self, load)
        return latest

    @edge
    async def metric_series(
        self,
        info: Info,
        keys: Annotated[
            list[str] | None,
            strawberry.argument(description=_KEYS),
        ] = None,
        from_step: Annotated[Long | None, strawberry.argument(description="First step.")] = None,
        to_step: Annotated[Long | None, strawberry.argument(description="Last step.")] = None,
        points: Annotated[
            int,
            strawberry.argument(
                description=f"At most so many of each, {MIN_POINTS} to {MAX_POINTS:,}."
            ),
        ] = 1000,
    ) -> list[MetricSeries]:
        """Its metrics over the steps, going on from the runs that it was resumed from."""
        named = curves.check_keys(keys)
        window = curves.window(from_step, to_step, points)

        def load(runs: list[Any]) -> Any:
            ids = [run.id for run in runs]
            read = partial(curves.read, named, window, info.context.budget)
            return info.context.load(("series", named, window), ids, read, Effort.LONG)

        series: list[MetricSeries] = await each(self, load)
        return series

    @edge
    async def metric_bands(
        self,
        info: Info,
        keys: Annotated[list[str] | None, strawberry.argument(description=_KEYS)] = None,
        from_step: Annotated[
            Long | None, strawberry.argument(description="First step; left out: the curve's own.")
        ] = None,
        to_step: Annotated[
            Long | None, strawberry.argument(description="Last step; left out: the curve's own.")
        ] = None,
        buckets: Annotated[
            int,
            strawberry.argument(
                description="Equal ranges of steps, at most so many with points, "
                f"{MIN_POINTS} to {MAX_BUCKETS:,}."
            ),
        ] = 500,
    ) -> list[MetricBand]:
        """Its metrics in buckets of steps, with the true mean, lowest and highest of each."""
        named = curves.check_keys(keys)
        ranges = curves.range_of(from_step, to_step, buckets)

        def load(runs: list[Any]) -> Any:
            ids = [run.id for run in runs]
            read = partial(curves.bands, named, ranges, info.context.budget)
            return info.context.load(("bands", named, ranges), ids, read, Effort.LONG)

        bands: list[MetricBand] = await each(self, load)
        return bands

    @field
    async def log(
        self,
        info: Info,
        offset: Annotated[
            Long, strawberry.argument(description="First byte; negative: from the end.")
        ] = LOG_TAIL,
        limit: Annotated[
            int, strawberry.argument(description=f"At most so many bytes, 1 to {MAX_LOG:,}.")
        ] = -LOG_TAIL,
    ) -> LogPart | None:
        """A piece of the trainer's output; null for an external run, which keeps its own, and where
        retention has removed it (`logRemovedAt`).
        """
        part: Any = await logs.read_part(info.context, self, offset, limit)
        return cast(LogPart | None, part)

    labels: Json = labels_of("id", "it")
    models: list[LoggedModel] = edge(models_of)
    artifacts: list[Artifact] = artifacts_of(
        lambda row: (row.experiment_id, row.id),
        "The entries of a folder of files that tracking clients have logged.",
    )

    experiment: Experiment = one(
        tables.Experiment, "experiment_id", "The experiment it belongs to."
    )
    parent: Optional["Run"] = one(tables.Run, "parent_run_id", "The run that it was resumed from.")
    root: "Run" = one(
        tables.Run, "root_run_id", "The run that its lineage began with: itself, or an ancestor."
    )
    children: Connection["Run"] = runs("parent_run_id", "The runs resumed from it, newest first.")
    checkpoints: Connection["Checkpoint"] = checkpoints("run_id", "Its checkpoints, newest first.")
    events: Connection["Event"] = events(
        "run_id", "Its part of the experiment's history, oldest first."
    )
    source_checkpoint: Optional["Checkpoint"] = one(
        tables.Checkpoint, "source_checkpoint_id", "The checkpoint that it was resumed from."
    )


@output
class Checkpoint(Node):
    """A checkpoint under its logical path."""

    ckpt_path: str = attribute("Logical path: /ckpts/{experiment}/{run}/{name}.")
    state: CheckpointState = attribute("State, as verified against its manifest.")
    reason: str | None = attribute("One sentence: why it is lost, deleted, empty or a fallback.")
    step: Long | None = attribute("Step at which it was saved.")
    size_bytes: Long | None = attribute("Size of its files.")
    sha256: str | None = attribute("SHA-256 of its manifest.")
    tag_type: str | None = attribute("Tag it was marked with, such as `candidate` or `release`.")
    release_tag: str | None = attribute("Its release tag, unique in the experiment.")
    metrics: Json = attribute("The metrics it was saved or marked with: an object of numbers.")
    healthy: bool | None = attribute("False if its metrics or weights hold NaN; null: not known.")
    marked_at: DateTime | None = attribute("Time of the last mark.")
    saved_at: DateTime | None = attribute(
        "Time of saving: the newest of a run is the one that was saved last."
    )
    created_at: DateTime = attribute("Time at which it was first recorded.")

    run: Run = one(tables.Run, "run_id", "The run that it belongs to.")
    experiment: Experiment = one(
        tables.Experiment, "experiment_id", "The experiment it belongs to."
    )
    stored_as: Optional["Checkpoint"] = one(
        tables.Checkpoint,
        "stored_as_id",
        "The checkpoint that this path is an alias of, if any.",
    )


@output
class Event(Node):
    """One entry of an experiment's append-only history."""

    experiment_id: strawberry.Private[str]

    @field
    def id(self) -> strawberry.ID:
        """Globally unique id: the experiment's and `seq`."""
        return strawberry.ID(f"{self.experiment_id}:{self.seq}")

    seq: Long = attribute("Its number in the experiment: 1, 2, 3 … without gaps.")
    type: str = attribute("Type, such as `run.succeeded`.")
    at: DateTime = attribute("Time.")
    data: Json = attribute("Details: an object.")

    @field
    def actor(self) -> Actor | None:
        """On whose behalf it was done; null where it was not kept yet."""
        row = cast(Any, self)
        if row.actor_kind is None:
            return None
        return Actor(kind=PrincipalKind(row.actor_kind), name=row.actor_name)

    experiment: Experiment = one(
        tables.Experiment, "experiment_id", "The experiment whose history this is."
    )
    run: Run | None = one(tables.Run, "run_id", "The run that it is about.")
