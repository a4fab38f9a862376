"""State that the supervisor keeps between ticks: of the queue, an attempt, an engine, alerts.

All of it is a cache: a restarted server reads it again from the database, the disk and the engines.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.domain.alerts import MetricWatch
from app.domain.health import HealthWatch
from app.domain.lifecycle import Reason
from app.domain.queue import Plan
from app.domain.resources import Capacity
from app.launchers.base import JobStatus, Key
from app.services.live_runs import QueueCursor
from app.storage.event_files import EventFiles
from app.storage.readers import Readers


@dataclass
class QueueSnapshot:
    """The part of the queue read so far, and the findings in it.

    While the machine is the same and nothing in the queue could start, the next tick continues
    from it.
    """

    machine: object
    counted_at: float
    """The time at which the waiting runs were last counted (monotonic)."""
    cursor: QueueCursor = field(default_factory=QueueCursor)
    waiting: int = 0
    plan: Plan = field(default_factory=lambda: Plan({}))
    """The admitted resources, and those that waiting runs reserve."""
    positions: Counter[str] = field(default_factory=Counter)
    """The number of runs that wait for each launcher, up to there."""
    projects: set[str] = field(default_factory=set)
    """The projects of the waiting runs."""
    holders: list[str] = field(default_factory=list)
    """The runs that others wait behind, or make room for."""
    look_again_at: float = math.inf
    """The time at which a skipped run may start (monotonic)."""
    is_stuck: bool = True
    """Nothing up to the cursor could start."""


@dataclass
class AlertWatches:
    """The position up to which metrics have been compared with the rules of projects."""

    Seen = dict[tuple[str, int, str, float | None, int], tuple[MetricWatch, str | None]]

    seen: Seen = field(default_factory=dict)
    looked_at: float = -math.inf
    """The time at which the rules were last read (monotonic)."""
    since: str | None = None
    """Runs that ended before it have been handled."""


@dataclass
class AttemptState:
    """The supervisor's cache of one attempt."""

    # The last heartbeat, and the `listening_seconds` at which it was first seen.
    last_heartbeat: tuple[str, float] | None = None
    # When the launcher was called, or the attempt was first missed (monotonic).
    launched_at: float | None = None
    # The last progress, and the `listening_seconds` at which it was first seen.
    last_progress: tuple[str, float] | None = None
    # When its trainer began (monotonic): its own word, else when it was first seen.
    began_at: float | None = None
    # The `listening_seconds` at which its trainer was asked to stop.
    stop_sent_at: float | None = None
    # The last pulse of an agent that is reached over HTTP, and the `listening_seconds` at which it
    # was first seen; and since when (the same) its engine has no such job.
    last_pulse: tuple[str, float] | None = None
    missing_since: float | None = None
    # Since when (the same) its agent's record of an end waits for the engine's word on that.
    record_since: float | None = None
    # Turns readable when the process of the attempt ends; None when it has, or where there is none.
    exit_fd: int | None = None
    # Its process is observed, and its trainer knows where this server is.
    is_watched: bool = False
    address_written: bool = False
    # Its processes are gone and its spool is taken in.
    is_finished: bool = False
    # When the next attempt may start (monotonic), where this one is to be tried again.
    retry_at: float | None = None
    # What the run's `status_reason` says of it while it goes on, and the sentence that this hides.
    notice: Reason | None = None
    hidden_detail: str | None = None
    # The machines that its engine names, as they are on record.
    nodes: tuple[str, ...] = ()
    # What its engine last said of its waiting, without its place in the queue.
    engine_words: str | None = None
    # How far the rules of its recipe have read its metrics.
    health: HealthWatch | None = None
    # TensorBoard's files, as far as they are read.
    event_files: EventFiles | None = None
    # Why its trainer was stopped, while the database could not record it.
    unrecorded: tuple[Reason, str] | None = None


@dataclass
class EngineState:
    """The last answers of a launcher whose agents are elsewhere."""

    # All calls of the launcher: a controller that hangs holds up its own runs alone.
    thread: Readers = field(default_factory=lambda: Readers(1))
    # What it said of which attempts, and when it was asked (monotonic).
    statuses: Mapping[Key, JobStatus] = field(default_factory=dict)
    looked_for: frozenset[Key] = frozenset()
    looked_at: float = -math.inf
    # What it offers, and why nothing can be submitted to it now.
    capacity: Capacity | None = None
    trouble: str | None = "It has not answered yet."
    has_answered: bool = False
    offered_at: float = -math.inf
    # What waited in its queue at the last tick.
    submitted: frozenset[Key] = frozenset()
    strays_at: float = -math.inf
    # Nodes on which attempts have failed, and when that was last looked up (monotonic).
    suspects: tuple[str, ...] = ()
    suspects_at: float = -math.inf
    # Jobs to stop and to kill, and when the launcher was last asked (monotonic).
    to_stop: set[Key] = field(default_factory=set)
    to_kill: set[Key] = field(default_factory=set)
    ends_asked: dict[tuple[Key, bool], float] = field(default_factory=dict)
