"""State shared by the supervisor's steps. All of it is a cache, rebuilt after a restart."""

import asyncio
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from app.db.database import Database
from app.db.sql import load
from app.domain.lifecycle import Reason, RunStatus
from app.domain.paths import CheckpointPath
from app.domain.queue import Holder
from app.domain.recipe_file import read_configuration
from app.domain.recipes import LOCAL, Recipe
from app.domain.resources import Resources
from app.launchers.base import Key, Launcher, Unreachable
from app.services import retention, verification
from app.services.live_runs import AnyRun, QueuedRun
from app.settings import Settings
from app.storage import data_dir, get_storage
from app.storage.artifacts import ArtifactStorage, open_artifacts
from app.storage.base import CheckpointStorage
from app.storage.readers import Readers
from app.supervisor.memory import AlertWatches, AttemptState, EngineState, QueueSnapshot

Attempt = tuple[str, int]
P = ParamSpec("P")
R = TypeVar("R")

READERS = 4
"""Checkpoints that are read at a time; as many more that are small."""
SMALL_BYTES = 64 << 20
MAILERS = 4
"""Messages that are handed to the mail server at a time."""
MAX_GAP_SECONDS = 1.0
"""The longest time between two ticks during which reports could be received."""
RESEND_SECONDS = 15.0
"""The time that trainers get to repeat reports that were rejected."""

THROTTLE_SECONDS = 60.0
MOST_THROTTLED = 10_000

BATCH = 100
"""After so many runs of a tick other requests have their turn."""
SLOW_SECONDS = 1.0
"""The time after which a starting run shows what it waits for."""

log = logging.getLogger(__name__)


@dataclass
class SupervisorState:
    """All of it can be rebuilt: a restarted server reads it from the database and the disk."""

    db: Database
    settings: Settings
    recipes: Mapping[str, Recipe]
    secret: str
    launchers: Mapping[str, Launcher]
    api_url: str
    clock: Callable[[], float] = time.monotonic
    storage: CheckpointStorage = field(init=False)
    artifacts: ArtifactStorage = field(init=False)
    # The name of the data directory, which the database holds while we lead.
    data_dir: str | None = None
    wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    leads: bool = False
    # Time during which reports could be received. It pauses while the process is suspended or
    # writes are rejected (a full disk), so that heartbeats do not time out then.
    listening_seconds: float = 0.0
    ticked_at: float = field(init=False)
    attempts: dict[Attempt, AttemptState] = field(default_factory=dict)
    # Work that takes long and that no step waits for, by what it is about.
    jobs: dict[str, tuple[asyncio.Task[Any], float]] = field(default_factory=dict)
    # Work that could not read a checkpoint: since when (`listening_seconds`), and the last reason.
    unreadable: dict[str, tuple[float, str]] = field(default_factory=dict)
    # Runs that are being started: by which launcher, and what of it is set aside for them.
    starting: dict[str, tuple[str, Holder]] = field(default_factory=dict)
    readers: Readers = field(default_factory=lambda: Readers(READERS))
    quick_readers: Readers = field(default_factory=lambda: Readers(READERS))
    # A mail server that is slow holds up mail alone.
    mailers: Readers = field(default_factory=lambda: Readers(MAILERS))
    queue: QueueSnapshot | None = None
    # Why each queued run was last said to wait, without its place in the queue.
    waiting_words: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    # Runs that may have more checkpoints than their recipes keep, and how many those keep;
    # whether files of deleted ones may still be there.
    over_limit: dict[str, retention.Limit] = field(default_factory=dict)
    pending_deletion: bool = False
    # The bytes of projects that have a quota of them, and when they were counted (monotonic).
    bytes_of_projects: dict[str, tuple[float, int]] = field(default_factory=dict)
    # Where the walk over points that an earlier version stored is; None once it has ended.
    plain_points: tuple[int, int] | None = (-1, -1)
    # Up to where `db.tally` was compacted, and when that was last tried.
    tallied: int = -1
    tallied_at: float = float("-inf")
    cleaned_up_at: float = float("-inf")
    # When the runs were last looked through for what retention no longer keeps (monotonic).
    expired_at: float = float("-inf")
    # Launchers whose agents are elsewhere, by name.
    engines: dict[str, EngineState] = field(default_factory=dict)
    # When the external runs that train were last read (monotonic).
    externals_seen_at: float = float("-inf")
    event_files_read_at: float = float("-inf")
    alert_watches: AlertWatches = field(default_factory=AlertWatches)
    # Attempts to send messages since the start, by how they ended.
    sent: Counter[str] = field(default_factory=Counter)
    # When each error that lasts was last logged (monotonic).
    logged_at: dict[object, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ticked_at = self.clock()
        stores = read_configuration(self.settings.recipes).stores
        self.storage = get_storage(self.settings.storage, self.settings.data_dir, stores)
        self.artifacts = open_artifacts(self.storage, self.settings.data_dir)

    def begin_tick(self, leads: bool) -> None:
        """Begin a tick. A server that no longer leads forgets everything."""
        now = self.clock()
        if now - self.db.write_rejected_at > RESEND_SECONDS:
            self.listening_seconds += min(now - self.ticked_at, MAX_GAP_SECONDS)
        self.ticked_at = now
        if self.leads and not leads:
            self.close()
        self.leads = leads

    def close(self) -> None:
        """Let go of every descriptor and of the work under way."""
        for attempt in self.attempts.values():
            self._unwatch(attempt)
        for job, _ in self.jobs.values():
            job.cancel()
        self.attempts.clear()
        self.over_limit.clear()
        self.unreadable.clear()
        self.engines.clear()
        self.alert_watches = AlertWatches()
        self.queue = None
        self.waiting_words.clear()
        self.pending_deletion = False
        self.cleaned_up_at = self.expired_at = float("-inf")
        self.externals_seen_at = float("-inf")
        self.event_files_read_at = float("-inf")

    async def has_data_dir(self) -> bool:
        """Return True if the data directory is still there: what is not in it may be elsewhere."""
        identity = await asyncio.to_thread(data_dir.identity, self.settings.data_dir)
        if identity != self.data_dir:
            away = self.settings.data_dir.absolute()
            self.log_throttled("data_dir", "the data directory %s is away", away)
        return identity == self.data_dir

    def log_throttled(self, key: object, *words: Any, error: BaseException | None = None) -> None:
        """Log an error that lasts, at most once a minute for each `key`, with its traceback."""
        now = self.clock()
        if now - self.logged_at.get(key, float("-inf")) < THROTTLE_SECONDS:
            return
        if len(self.logged_at) >= MOST_THROTTLED:
            self.logged_at.clear()
        self.logged_at[key] = now
        log.error(*words, exc_info=error)

    def attempt(self, run: AnyRun | QueuedRun) -> AttemptState:
        """Return what is remembered of a run's current attempt."""
        known = self.attempts.get((run.id, run.attempt))
        if known is None:  # not setdefault: that makes a new one of each, many times a tick
            known = self.attempts[run.id, run.attempt] = AttemptState()
        return known

    def engine(self, name: str) -> EngineState:
        """Return what is remembered of a launcher's engine."""
        if name not in self.engines:
            self.engines[name] = EngineState()
        return self.engines[name]

    def watch(self, attempt: AttemptState, descriptor: int | None) -> None:
        """Wake the loop when this attempt's process ends: when its descriptor is readable."""
        self._unwatch(attempt)
        if descriptor is None:
            return
        attempt.exit_fd = descriptor

        def ended() -> None:
            self._unwatch(attempt)
            self.wakeup.set()

        asyncio.get_running_loop().add_reader(descriptor, ended)

    def _unwatch(self, attempt: AttemptState) -> None:
        descriptor, attempt.exit_fd = attempt.exit_fd, None
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    def forget(self, run: AnyRun) -> None:
        """Drop what is remembered of an attempt whose end is recorded."""
        attempt = self.attempts.pop((run.id, run.attempt), None)
        if attempt is not None:
            self._unwatch(attempt)

    def heartbeat_age(self, run: AnyRun) -> float:
        """Return the seconds for which this supervisor listened in vain for a run's trainer."""
        attempt, sign = self.attempt(run), run.heartbeat_at or run.launched_at or ""
        if attempt.last_heartbeat is None or attempt.last_heartbeat[0] != sign:
            attempt.last_heartbeat = (sign, self.listening_seconds)
        return self.listening_seconds - attempt.last_heartbeat[1]

    def progress_age(self, run: AnyRun) -> float:
        """Return the seconds for which this supervisor listened in vain for a further step."""
        attempt, sign = self.attempt(run), run.last_progress_at or run.launched_at or ""
        if attempt.last_progress is None or attempt.last_progress[0] != sign:
            # A run that is known to be stalled is so until it goes on, also after a restart.
            known = attempt.last_progress is None and run.status_reason == Reason.STALLED
            attempt.last_progress = (sign, -math.inf if known else self.listening_seconds)
        return self.listening_seconds - attempt.last_progress[1]

    def pause_clocks(self, run: AnyRun) -> None:
        """Count no time against a trainer that is kept from running."""
        attempt, now = self.attempt(run), self.listening_seconds
        attempt.last_heartbeat = run.heartbeat_at or run.launched_at or "", now
        attempt.last_progress = run.last_progress_at or run.launched_at or "", now

    def start_job(self, about: str, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Start work that no step waits for; its end wakes the loop.

        What has to follow it belongs into a callback of the task: work that is cancelled
        before its first step runs no `finally`.
        """
        assert about not in self.jobs
        job = asyncio.create_task(work)
        self.jobs[about] = job, self.listening_seconds
        job.add_done_callback(lambda done: self._finish_job(about, done))
        return job

    def is_slow(self, about: str) -> bool:
        """Return True if this work takes long enough to tell somebody."""
        return about in self.jobs and self.listening_seconds - self.jobs[about][1] > SLOW_SECONDS

    def _finish_job(self, about: str, job: asyncio.Task[Any]) -> None:
        self.jobs.pop(about, None)
        if job.cancelled():
            return
        if error := job.exception():
            self.log_throttled(about, "%s failed; it is tried again", about, error=error)
        else:
            self.wakeup.set()

    async def verify_files(
        self, path: CheckpointPath, expected: str | None
    ) -> verification.VerificationResult:
        """Read a checkpoint; no small one waits until 100 GB of others are read."""
        size = await self.quick_readers.run(self.storage.size, path, SMALL_BYTES)
        readers = self.quick_readers if size <= SMALL_BYTES else self.readers
        return await readers.run(verification.verify_files, self.storage, path, expected)

    async def run_reader(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run what reads checkpoints, a few at a time, in a thread that holds up no shutdown."""
        return await self.readers.run(function, *args, **kwargs)

    def run_dir(self, run_id: str) -> Path:
        """Return the run's directory, absolute."""
        return (self.settings.data_dir / "runs" / run_id).absolute()

    def recipe(self, run: AnyRun | QueuedRun) -> Recipe | None:
        """Return the run's recipe, if the operator still configures it."""
        return self.recipes.get(run.recipe or "")

    def launcher(self, run: AnyRun) -> Launcher:
        """Return the launcher that has the run's attempt, that starts it, or its recipe's first.

        Raises Unreachable if the operator configures it no longer.
        """
        name = run.launcher
        if name is None or (run.status == RunStatus.QUEUED and run.submitted_at is None):
            recipe = self.recipe(run)
            name = recipe.launcher[0] if recipe else LOCAL
            if run.id in self.starting:
                name = self.starting[run.id][0]
        if name not in self.launchers:
            raise Unreachable(f"The launcher {name!r} is not configured on this server.")
        return self.launchers[name]

    def resources(self, run: AnyRun | QueuedRun) -> Resources:
        """Return what the run asked for, else what its recipe needs."""
        requested = load(run.resources)
        if requested:
            return Resources.from_dict(requested)
        recipe = self.recipe(run)
        return recipe.resources if recipe else Resources()


def key_of(run: AnyRun) -> Key:
    """Return the name of a run's current attempt."""
    return Key(run.id, run.attempt)


def uses_files(launcher: Launcher) -> bool:
    """Return True if agents of this launcher have their mailbox in the data directory.

    Such a run starts when it is submitted; all others start when their agent claims them.
    """
    return launcher.shares_files and not launcher.owns_queue
