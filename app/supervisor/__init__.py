"""The background loop: schedule, reconcile, verify, clean up; one short step each.

Each tick runs every step once; a step that fails is logged and tried again at the next. The
loop ticks when something changes (a commit that touches `SUPERVISOR`, the end of a trainer)
and at least twice a second. Of several servers on one database, one leads.

How to add a step
1. Write `async def your_step(state: SupervisorState) -> None` in a file of its own, which may be
   called at any time, again after a crash, and by the leader only.
2. Work that takes long is a job (`state.start_job`), which no step waits for.
3. Add the step to STEPS.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from app import tracing
from app.db.changes import SUPERVISOR
from app.db.database import Database
from app.domain.recipes import LOCAL, LauncherTable, Recipe, RecipeError
from app.launchers import make_launcher
from app.launchers.base import Launcher, LauncherContext
from app.services import data_dirs
from app.settings import Settings
from app.storage import data_dir
from app.supervisor.alerts import check_alerts
from app.supervisor.cleanup import clean_up
from app.supervisor.deleting import remove_deleted
from app.supervisor.deliver import deliver
from app.supervisor.engines import end_jobs
from app.supervisor.event_files import follow_event_files
from app.supervisor.expiring import expire_runs
from app.supervisor.reconcile import reconcile
from app.supervisor.schedule import launch
from app.supervisor.state import SupervisorState, uses_files
from app.supervisor.verifying import verify, verify_requested

TICK_SECONDS = 0.5
SHORT_SECONDS, REST = 0.01, 4.0
"""A tick that takes the event loop for longer than that is followed by a rest of so many times its
length: a thousand claims that each wake the loop must not leave requests no time."""
ASK_AGAIN_SECONDS = 5.0
STUCK_SECONDS = 15.0
"""A tick that takes longer waits for a disk or a database that may never answer."""
PROBE_SECONDS = 10.0
"""The interval at which writes to the database and the data directory are tested."""

log = logging.getLogger(__name__)

STEPS: tuple[Callable[[SupervisorState], Awaitable[None]], ...] = (
    launch,  # first: a start does not wait for a look at every run under way
    reconcile,
    follow_event_files,
    verify,
    verify_requested,
    clean_up,
    remove_deleted,
    expire_runs,
    end_jobs,
    check_alerts,
    deliver,
)


def describe_wrong_data_dir(path: Path, runs_are: data_dirs.Held) -> str:
    """Return what is wrong when a server sees another data directory than the runs under way."""
    return (
        f"{path} is not the data directory of this database, whose runs are under way in "
        f"{runs_are.path}: set LLM_TRAIN_DATA_DIR to that"
    )


def make_launchers(settings: Settings, tables: Mapping[str, LauncherTable]) -> dict[str, Launcher]:
    """Make the configured launchers, by name. Raises RecipeError."""
    context = LauncherContext(settings.data_dir, settings.environment)
    launchers = {}
    for name, table in tables.items():
        if name == LOCAL:
            own = {"gpus": settings.gpus, "max_runs": settings.max_local_runs}
            table = table._replace(options=own | dict(table.options))
        launchers[name] = launcher = make_launcher(table, context)
        if not uses_files(launcher) and settings.public_url is None:
            raise RecipeError(
                f"[launchers.{name}] set LLM_TRAIN_PUBLIC_URL: the address at which its machines "
                "reach this service"
            )
    return launchers


@dataclass
class Measures:
    """The figures of this server's loop for `/metrics`, since its start."""

    ticks: int = 0
    tick_seconds: float = 0.0
    """Of the event loop, in all of them."""
    failed_steps: Counter[str] = field(default_factory=Counter)


class Supervisor:
    """The loop, from `run` to `stop`."""

    def __init__(
        self,
        db: Database,
        settings: Settings,
        recipes: Mapping[str, Recipe],
        secret: str,
        api_url: str,
        launchers: Mapping[str, Launcher],
    ) -> None:
        self.state = SupervisorState(db, settings, recipes, secret, launchers, api_url)
        self._stopping = False
        self._running = False
        self._ticked_at = self._probed_at = float("-inf")
        self._unwritable: str | None = None
        self._ask_again = 0.0
        self._rest = 0.0
        self.measures = Measures()
        self.wrong_data_dir = False
        """True while runs are under way in another data directory than ours."""

    def describe_trouble(self) -> str | None:
        """Say what keeps this server from its work now; None if nothing does."""
        if not self._running:
            return "The supervisor is not running; see the log."
        if (since := self.tick_age()) > STUCK_SECONDS:
            return f"The supervisor's loop has not come round for {since:.0f} s; see the log."
        return self._unwritable

    def tick_age(self) -> float:
        """Return the seconds since the loop last came round."""
        return time.monotonic() - self._ticked_at

    async def run(self) -> None:
        """Tick until `stop`. A dead server stops no training: nothing is ended on the way out."""
        self._running, self._ticked_at = True, time.monotonic()
        try:
            with self.state.db.changes.subscribe(SUPERVISOR) as wakeup:
                self.state.wakeup = wakeup
                while not self._stopping:
                    wakeup.clear()
                    await self._tick()
                    await asyncio.sleep(self._rest)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(wakeup.wait(), TICK_SECONDS)
        finally:
            self._running = False
            self.state.close()

    async def _tick(self) -> None:
        began = time.thread_time()
        try:
            with tracing.tick():
                await self._take_steps()
        finally:
            held = time.thread_time() - began
            self.measures.ticks += 1
            self.measures.tick_seconds += held
            self._rest = 0.0 if held < SHORT_SECONDS else min(held * REST, TICK_SECONDS)

    async def _take_steps(self) -> None:
        try:
            leads = await self._leads()
        except Exception as error:
            self.state.log_throttled("leader", "cannot tell who leads", error=error)
            await self._probe()  # the likely cause, which readiness has to tell at once
            return
        self.state.begin_tick(leads)
        for step in STEPS if leads else ():
            try:
                await step(self.state)
            except Exception as error:
                name = step.__name__
                self.measures.failed_steps[name] += 1
                self.state.log_throttled(
                    name, "step %s failed; it is tried again", name, error=error
                )

        await self._probe()
        self._ticked_at = time.monotonic()

    async def _probe(self) -> None:
        """Write now and then, as the next report or start will have to."""
        if time.monotonic() - self._probed_at < PROBE_SECONDS:
            return
        try:
            await self.state.db.write(data_dirs.write_again)
            await asyncio.to_thread(data_dir.probe, self.state.settings.data_dir)
            self._unwritable = None
        except Exception as error:
            self.state.log_throttled("write", "nothing can be written", error=error)
            why = getattr(error, "strerror", None) or type(error).__name__  # no path: all may ask
            self._unwritable = f"Nothing can be written ({why}); see the log."
        self._probed_at = time.monotonic()

    async def _leads(self) -> bool:
        """Return True if this server is the leader.

        A server that cannot read the run directories never becomes leader.
        """
        state = self.state
        if self.wrong_data_dir and time.monotonic() < self._ask_again:
            return False
        self._ask_again = time.monotonic() + ASK_AGAIN_SECONDS
        leads = await state.db.acquire_leadership()
        if leads and state.leads:
            return True
        if not leads and not self.wrong_data_dir:
            return False
        path = state.settings.data_dir.absolute()
        state.data_dir = await asyncio.to_thread(data_dir.get_name, path)
        if not leads:
            self.wrong_data_dir = bool(await state.db.read(data_dirs.get_foreign, state.data_dir))
            return False
        adoption = await state.db.write(data_dirs.adopt, state.data_dir, str(path))
        self.wrong_data_dir = not adoption.ours
        if adoption.before is not None and adoption.ours:
            log.info("the data directory is %s now, no longer %s", path, adoption.before.path)
        elif adoption.before is not None:
            state.log_throttled(
                "data_dir",
                "this server does not lead: %s",
                describe_wrong_data_dir(path, adoption.before),
            )
            await state.db.release_leadership()
        return adoption.ours

    async def stop(self) -> None:
        """End the loop after the current tick."""
        self._stopping = True
        self.state.wakeup.set()
