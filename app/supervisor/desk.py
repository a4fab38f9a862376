"""What the duties share: the database, the launcher, and the little they remember."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

from app.domain.paths import CheckpointPath
from app.domain.recipes import Recipe
from app.domain.resources import Allocation, Resources
from app.launchers.base import Launcher
from app.services import data_dirs, verification
from app.services.launches import Place
from app.services.reading import Readers
from app.settings import Settings
from app.store.database import Database
from app.store.sql import load
from app.store.tables import Run

Attempt = tuple[str, int]
P = ParamSpec("P")
R = TypeVar("R")

READERS = 4
"""Checkpoints that are read at a time; as many more that are small."""
MOST_ATTENTION = 1.0
"""The longest time between two turns that counts as having watched."""
ECHO_SECONDS = 15.0
"""How long trainers may take to come again with what was turned away."""

COMPLAIN_SECONDS = 60.0

SLOW_SECONDS = 1.0
"""How long a start may take before the run says what it waits for."""

log = logging.getLogger(__name__)


class Stuck(NamedTuple):
    """What the last look at the queue found, when nothing in it could start.

    The state of the machine, how far it went, how many runs wait up to there, the oldest of them
    that waits for GPUs, and when (monotonic) they were counted.
    """

    machine: object
    place: Place
    waiting: int
    wants_gpus: str | None
    counted_at: float


@dataclass
class Desk:
    """All of it can be forgotten: a restarted server reads the rest from database and disk."""

    db: Database
    settings: Settings
    recipes: Mapping[str, Recipe]
    secret: str
    launcher: Launcher
    api_url: str
    # The name of the data directory, which the database holds while we lead.
    data_dir: str | None = None
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    leads: bool = False
    # Seconds during which this supervisor watched. It stands still while the server, or the
    # whole machine, sleeps, or turns reports away (a full disk): silence that nobody could have
    # heard is not a trainer's fault.
    attention: float = 0.0
    turned_at: float = field(default_factory=time.monotonic)
    # The last sign of life of each attempt, and when we first saw it.
    heard: dict[Attempt, tuple[str, float]] = field(default_factory=dict)
    launched_at: dict[Attempt, float] = field(default_factory=dict)
    # When trainers began, by the monotonic clock: their own word, else when we first saw them.
    began_at: dict[Attempt, float] = field(default_factory=dict)
    stopped_at: dict[Attempt, float] = field(default_factory=dict)
    # Descriptors that turn readable when the process of an attempt ends, until they did.
    watched: dict[Attempt, int] = field(default_factory=dict)
    # Attempts whose trainers know our address.
    adopted: set[Attempt] = field(default_factory=set)
    # Attempts whose processes are gone and whose spool is taken in.
    over: set[Attempt] = field(default_factory=set)
    # Work that takes long and that no duty waits for, by what it is about.
    jobs: dict[str, tuple[asyncio.Task[Any], float]] = field(default_factory=dict)
    # Work that could not read a checkpoint: since when (in attention), and the last reason.
    unreadable: dict[str, tuple[float, str]] = field(default_factory=dict)
    # Runs that are being started, and what is set aside for them.
    starting: dict[str, Allocation] = field(default_factory=dict)
    readers: Readers = field(default_factory=lambda: Readers(READERS))
    quick_readers: Readers = field(default_factory=lambda: Readers(READERS))
    queue_stuck: Stuck | None = None
    # Runs that may have more checkpoints than their recipes keep, and how many those keep;
    # whether files of deleted ones may still be there.
    crowded: dict[str, int] = field(default_factory=dict)
    doomed: bool = False
    tidied_at: float = float("-inf")
    complained_at: float = float("-inf")

    def turn(self, leads: bool) -> None:
        """A new turn begins; whoever does not lead any more forgets everything."""
        now = time.monotonic()
        if now - self.db.missed_at > ECHO_SECONDS:
            self.attention += min(now - self.turned_at, MOST_ATTENTION)
        self.turned_at = now
        if self.leads and not leads:
            self.close()
        self.leads = leads

    def close(self) -> None:
        """Lets go of every descriptor and of the work under way."""
        for attempt in [*self.watched]:
            self._unwatch(attempt)
        for job, _ in self.jobs.values():
            job.cancel()
        for memory in (
            self.heard, self.launched_at, self.began_at, self.stopped_at, self.crowded,
        ):  # fmt: skip
            memory.clear()
        self.adopted.clear()
        self.over.clear()
        self.unreadable.clear()
        self.queue_stuck = None
        self.doomed = False
        self.tidied_at = float("-inf")

    async def in_place(self) -> bool:
        """Whether the data directory is still there: what is not in it may be elsewhere."""
        found = await asyncio.to_thread(data_dirs.identity, self.settings.data_dir)
        if found != self.data_dir:
            self.complain("the data directory %s is away", self.settings.data_dir.absolute())
        return found == self.data_dir

    def complain(self, *words: object) -> None:
        """Logs an error that lasts, now and then."""
        now = time.monotonic()
        if now - self.complained_at >= COMPLAIN_SECONDS:
            self.complained_at = now
            log.error(*words)

    def watch(self, attempt: Attempt, descriptor: int | None) -> None:
        """Wakes the loop when this attempt's process ends: when its descriptor is readable."""
        if descriptor is None:
            return
        self._unwatch(attempt)
        self.watched[attempt] = descriptor

        def ended() -> None:
            self._unwatch(attempt)
            self.woken.set()

        asyncio.get_running_loop().add_reader(descriptor, ended)

    def _unwatch(self, attempt: Attempt) -> None:
        descriptor = self.watched.pop(attempt, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    def forget(self, attempt: Attempt) -> None:
        """This attempt's end is on record."""
        self._unwatch(attempt)
        for memory in (self.heard, self.launched_at, self.began_at, self.stopped_at):
            memory.pop(attempt, None)
        self.adopted.discard(attempt)
        self.over.discard(attempt)

    def silence(self, run: Run) -> float:
        """Seconds for which this supervisor listened in vain for a run's trainer."""
        attempt = (run.id, run.attempt)
        sign = run.heartbeat_at or run.launched_at or ""
        if attempt not in self.heard or self.heard[attempt][0] != sign:
            self.heard[attempt] = (sign, self.attention)
        return self.attention - self.heard[attempt][1]

    def begin(self, about: str, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Starts work that no duty waits for; its end wakes the loop.

        What has to follow it belongs into a callback of the task: work that is cancelled
        before its first step runs no `finally`.
        """
        assert about not in self.jobs
        job = asyncio.create_task(work)
        self.jobs[about] = job, self.attention
        job.add_done_callback(lambda done: self._done(about, done))
        return job

    def slow(self, about: str) -> bool:
        """Whether this work takes long enough to tell somebody."""
        return about in self.jobs and self.attention - self.jobs[about][1] > SLOW_SECONDS

    def _done(self, about: str, job: asyncio.Task[Any]) -> None:
        self.jobs.pop(about, None)
        if job.cancelled():
            return
        if error := job.exception():
            log.error("%s failed; it is tried again", about, exc_info=error)
        else:
            self.woken.set()

    async def look(self, path: CheckpointPath, expected: str | None) -> verification.Finding:
        """Reads a checkpoint; no small one waits until 100 GB of others are read."""
        data_dir = self.settings.data_dir
        small = await self.quick_readers.run(verification.is_small, data_dir, path)
        readers = self.quick_readers if small else self.readers
        return await readers.run(verification.look, data_dir, path, expected)

    async def reading(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs what reads checkpoints, a few at a time, in a thread that holds up no shutdown."""
        return await self.readers.run(function, *args, **kwargs)

    def run_dir(self, run_id: str) -> Path:
        """The run's directory, absolute."""
        return (self.settings.data_dir / "runs" / run_id).absolute()

    def recipe(self, run: Run) -> Recipe | None:
        """The run's recipe, if the operator still configures it."""
        return self.recipes.get(run.recipe or "")

    def resources(self, run: Run) -> Resources:
        """What the run asked for, else what its recipe needs."""
        asked = load(run.resources)
        if asked:
            return Resources.from_dict(asked)
        recipe = self.recipe(run)
        return recipe.resources if recipe else Resources()
