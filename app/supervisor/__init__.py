"""The background loop: launch, observe, expire, verify; one short duty each.

Every turn runs each duty once; a duty that fails is logged and tried again next turn. The
loop turns when something changes (a commit that touches `SUPERVISOR`, the end of a trainer)
and at least twice a second. Of several servers on one database, one leads.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

from app.db.changes import SUPERVISOR
from app.db.database import Database
from app.db.tables import DataDir
from app.domain.recipes import LOCAL, LauncherTable, Recipe, RecipeError
from app.launchers import make_launcher
from app.launchers.base import Launcher, LauncherContext
from app.services import data_dirs
from app.settings import Settings
from app.storage import data_dir
from app.supervisor.cleanup import tidy
from app.supervisor.reconcile import end_strays, observe
from app.supervisor.schedule import launch
from app.supervisor.state import Desk, uses_files
from app.supervisor.verifying import verify, verify_requested

TURN_SECONDS = 0.5
ASK_AGAIN_SECONDS = 5.0
STUCK_SECONDS = 15.0
"""A turn that takes longer waits for a disk or a database that may never answer."""
PROBE_SECONDS = 10.0
"""How often it is tried whether the database and the data directory can be written."""

log = logging.getLogger(__name__)

DUTIES: tuple[Callable[[Desk], Awaitable[None]], ...] = (
    launch,  # first: a start does not wait for a look at every run under way
    observe,
    verify,
    verify_requested,
    tidy,
    end_strays,
)


def misplaced(place: Path, runs_are: DataDir) -> str:
    """What is wrong when a server sees another data directory than the runs under way."""
    return (
        f"{place} is not the data directory of this database, whose runs are under way in "
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


class Supervisor:
    """Turns until it is stopped."""

    def __init__(
        self,
        db: Database,
        settings: Settings,
        recipes: Mapping[str, Recipe],
        secret: str,
        api_url: str,
        launchers: Mapping[str, Launcher],
    ) -> None:
        self.desk = Desk(db, settings, recipes, secret, launchers, api_url)
        self._stopping = False
        self._turning = False
        self._turned_at = self._probed_at = float("-inf")
        self._unwritable: str | None = None
        self._ask_again = 0.0
        self.misplaced = False
        """Whether runs are under way in another data directory than ours."""

    def trouble(self) -> str | None:
        """Say what keeps this server from its work now; None if nothing does."""
        if not self._turning:
            return "The supervisor is not running; see the log."
        silence = time.monotonic() - self._turned_at
        if silence > STUCK_SECONDS:
            return f"The supervisor's loop has not come round for {silence:.0f} s; see the log."
        return self._unwritable

    async def run(self) -> None:
        """Turns until `stop`. A dead server stops no training: nothing is ended on the way out."""
        self._turning, self._turned_at = True, time.monotonic()
        try:
            with self.desk.db.changes.subscribe(SUPERVISOR) as woken:
                self.desk.woken = woken
                while not self._stopping:
                    woken.clear()
                    await self._turn()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(woken.wait(), TURN_SECONDS)
        finally:
            self._turning = False
            self.desk.close()

    async def _turn(self) -> None:
        try:
            leads = await self._leads()
        except Exception as error:
            self.desk.log_throttled("leader", "cannot tell who leads", error=error)
            return
        self.desk.turn(leads)
        for duty in DUTIES if leads else ():
            try:
                await duty(self.desk)
            except Exception as error:
                name = duty.__name__
                self.desk.log_throttled(
                    name, "duty %s failed; it is tried again", name, error=error
                )

        await self._probe()
        self._turned_at = time.monotonic()

    async def _probe(self) -> None:
        """Try now and then to write, as the next report or start will have to."""
        if time.monotonic() - self._probed_at < PROBE_SECONDS:
            return
        try:
            await self.desk.db.write(data_dirs.write_again)
            await asyncio.to_thread(data_dir.probe, self.desk.settings.data_dir)
            self._unwritable = None
        except Exception as error:
            self.desk.log_throttled("write", "nothing can be written", error=error)
            why = getattr(error, "strerror", None) or type(error).__name__  # no path: all may ask
            self._unwritable = f"Nothing can be written ({why}); see the log."
        self._probed_at = time.monotonic()

    async def _leads(self) -> bool:
        """Whether we lead, which nobody may who does not see the runs' directories."""
        desk = self.desk
        if self.misplaced and time.monotonic() < self._ask_again:
            return False
        self._ask_again = time.monotonic() + ASK_AGAIN_SECONDS
        leads = await desk.db.acquire_leadership()
        if leads and desk.leads:
            return True
        if not leads and not self.misplaced:
            return False
        place = desk.settings.data_dir.absolute()
        desk.data_dir = await asyncio.to_thread(data_dir.get_name, place)
        if not leads:
            self.misplaced = bool(await desk.db.read(data_dirs.get_foreign, desk.data_dir))
            return False
        adoption = await desk.db.write(data_dirs.adopt, desk.data_dir, str(place))
        self.misplaced = not adoption.ours
        if adoption.before is not None and adoption.ours:
            log.info("the data directory is %s now, no longer %s", place, adoption.before.path)
        elif adoption.before is not None:
            desk.log_throttled(
                "data_dir", "this server does not lead: %s", misplaced(place, adoption.before)
            )
            await desk.db.release_leadership()
        return adoption.ours

    async def stop(self) -> None:
        """Ends the loop after the present turn."""
        self._stopping = True
        self.desk.woken.set()
