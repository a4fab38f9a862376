"""Objects without an id: what a run, an experiment or a list of runs is described by.

Resolvers hand over rows and named tuples whose attributes have the same names.
"""

from typing import Any

import strawberry

from app.domain.comparison import Section
from app.domain.lifecycle import RunStatus
from app.domain.priority import Priority
from app.graphql.describe import attribute, field, output
from app.graphql.scalars import DateTime, Json, Long
from app.services.usage import By

strawberry.enum(Section, name="ParamSection", description="A part of a run that has parameters.")
strawberry.enum(By, name="UsageGroup", description="Groupings of usage.")
strawberry.enum(Priority, description="The priority of a run in the queue.")
_FINITE = "null where a bucket has no finite value"


@output
class Metric:
    """The latest value of one metric of a run."""

    key: str = attribute("The metric's key, such as `loss`.")
    step: Long = attribute("The step it was reported for.")
    value: float | None = attribute("The value; null where it is NaN or infinite.")
    special: str | None = attribute(
        "`NaN`, `Infinity` or `-Infinity` where the value is that; otherwise null."
    )
    wall_time: float | None = attribute("Time of the measurement, in unix seconds.")


@output
class SpecialValue:
    """A point whose value JSON has no number for."""

    step: Long = attribute("The step.")
    value: str = attribute("`NaN`, `Infinity` or `-Infinity`.")


@output
class SpecialCount:
    """Points of one bucket that have the same value, for which JSON has no number."""

    bucket: int = attribute("Place of the bucket in the columns, from 0.")
    value: str = attribute("`NaN`, `Infinity` or `-Infinity`.")
    count: int = attribute("Number of points.")


@output
class MetricSeries:
    """The curve of one metric, as columns of equal length, steps ascending."""

    key: str = attribute("The metric's key.")
    steps: list[Long] = attribute("The steps.")
    values: list[float | None] = attribute("The values; null where NaN or infinite.")
    wall_times: list[float | None] = attribute("Times of the measurements, in unix seconds.")
    downsampled: bool = attribute("Points were left out; those shown keep the curve's shape.")
    special: list[SpecialValue] = attribute("The points that are NaN or infinite, and which.")


@output
class MetricBand:
    """The curve of one metric in buckets, as columns of equal length, steps ascending.

    Every point counts, so a mean may be smoothed (weighted by `counts`) where a downsampled
    series may not. Buckets without points are left out.
    """

    key: str = attribute("The metric's key.")
    steps: list[Long] = attribute("The middle of each bucket's points.")
    means: list[float | None] = attribute(f"The mean of each bucket's finite values; {_FINITE}.")
    lows: list[float | None] = attribute(f"The lowest finite value of each; {_FINITE}.")
    highs: list[float | None] = attribute(f"The highest finite value of each; {_FINITE}.")
    counts: list[int] = attribute("Number of finite values in each bucket.")
    special: list[SpecialCount] = attribute("NaN and infinite values by bucket.")
    wall_times: list[float | None] = attribute(
        "The mean time of each bucket's measurements, in unix seconds; null if not known."
    )


@output
class HyperparamOverride:
    """Receipt of one overridden hyperparameter: requested, effective, applied."""

    key: str = attribute("The hyperparameter's name.")
    requested: Json = attribute("Requested value.")
    effective: Json | None = attribute("Value that the trainer reports to use.")
    applied: bool | None = attribute("True if they are equal; null until the trainer has reported.")


@output
class LogPart:
    """A piece of a run's log, cut between characters. What is not UTF-8 becomes U+FFFD."""

    text: str = attribute("The text, as it was printed: with `\\r` and escape sequences.")
    offset: Long = attribute("Its first byte.")
    next_offset: Long = attribute("The `offset` of the piece after it.")
    total_bytes: Long = attribute("Size of the log by now.")


@output
class StatusCount:
    """The number of runs in one status."""

    status: RunStatus = attribute("The status.")
    count: int = attribute("Number of runs.")
    is_lower_bound: bool = attribute(
        "True if there may be more: runs that have to be read to be counted are counted "
        "among the newest, up to 10,000; those with a common text, up to some thousand."
    )


@output
class Facet:
    """A value that runs have, and how many have it."""

    value: str = attribute("The value.")
    count: int = attribute("Number of runs.")


@output
class ComparedParam:
    """One parameter of several runs."""

    section: Section = attribute("The part of a run that it is in.")
    key: str = attribute("Its name; of a nested object, dotted: `optimizer.betas`.")
    values: list[Json | None] = attribute(
        "Its value in each run, in the order of `ids`; null where a run lacks it."
    )
    differs: bool = attribute("True if the runs do not all have the same value.")


@output
class Resources:
    """Resources that a run needs; null where it does not say."""

    gpu_type: str | None = attribute("Type of GPU, such as `A100`.")
    count: int | None = attribute("Number of GPUs.")
    cpus: float | None = attribute("Number of CPU cores.")
    memory_gb: float | None = attribute("Memory in GB.")
    nodes: int | None = attribute("Number of machines.")
    time_limit_minutes: float | None = attribute("Minutes after which the run is stopped.")


@output
class GpuCount:
    """GPUs of one type."""

    type: str = attribute("The type, such as `A100`.")
    count: int = attribute("Number of GPUs.")


@output
class LauncherCapacity:
    """The capacity of a launcher; null where only its engine knows it, or could not be asked."""

    name: str = attribute("Its name, as `launcher` of a recipe.")
    cpus: float | None = attribute("CPU cores.")
    memory_gb: float | None = attribute("Memory in GB.")
    gpus: list[GpuCount] | None = attribute("GPUs by type.")
    max_runs: int | None = attribute("Most runs that it takes at once; null: not limited.")
    active: int = attribute("Number of runs with it now.")
    queued: int = attribute("Those in its engine's own queue.")
    trouble: str | None = attribute("Reason it is unreachable now; null: it is not.")


@output
class Capacity:
    """The resources that runs can get."""

    launchers: list[LauncherCapacity] = attribute("Each launcher, by name.")
    queued: int = attribute("Number of runs of recipes that wait.")


@output
class Usage:
    """The use of machines by the ended attempts of one group.

    Wasted: work that no checkpoint kept. Saved: work that resuming did not have to repeat.
    """

    group: str = attribute(
        "A month such as `2026-11`, or the id of a project, an experiment or a run."
    )
    name: str | None = attribute(
        "Of the project, experiment or run; empty: it has none; null: it was deleted, or a month."
    )
    attempts: int = attribute("Number of attempts.")
    used_seconds: float = attribute("Time in which they ran.")
    wasted_seconds: float = attribute("Seconds of it that were wasted.")
    waited_seconds: float = attribute("Time in which they waited to start.")
    saved_seconds: float = attribute("Time that resuming saved.")
    gpu_hours_used: float = attribute("GPU-hours of the time in which they ran.")
    gpu_hours_wasted: float = attribute("GPU hours of it that were wasted.")
    gpu_hours_waited: float = attribute("The time in which they waited, once for each GPU.")
    gpu_hours_saved: float = attribute("GPU hours that resuming saved.")
    goodput: float | None = attribute("Share that was not wasted; null where nothing ran.")


@output
class Recipe:
    """A way to train that the operator configured."""

    name: str = attribute("Its name, as `recipe` of a new run.")
    description: str = attribute("The operator's description of what it trains.")
    resources: Resources = attribute("Default resources of its runs.")
    max_attempts: int = attribute("Most attempts of a run.")
    grace_seconds: float = attribute("Time to save in, after the stop signal.")
    keep_checkpoints: int = attribute("Number of checkpoints of a run that are kept; 0: all.")

    @field
    def launcher(self: Any) -> str:
        """Launcher of its runs: the first choice."""
        return str(self.launcher[0])

    @field
    def launchers(self: Any) -> list[str]:
        """Launchers of its runs; the first that has room."""
        return list(self.launcher)


@output
class Deletion:
    """A run or an experiment that was deleted: what stays of it."""

    id: strawberry.ID = attribute("Id of the record.")
    experiment_id: strawberry.ID = attribute("The experiment, or that of the run.")
    run_id: strawberry.ID | None = attribute("The run; null: the experiment with all its runs.")
    name: str | None = attribute("Its name; of a run without one its model.")
    runs: int = attribute("Number of runs deleted.")
    checkpoints: int = attribute("Number of their checkpoints that were ready.")
    size_bytes: Long = attribute("Size of these checkpoints.")
    requested_at: DateTime = attribute("Time of its deletion.")
    finished_at: DateTime | None = attribute("Time at which its points and files were gone.")
