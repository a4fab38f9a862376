"""The supervisor's steps, one at a time, with a launcher that only writes down what it is asked."""

import asyncio
from pathlib import Path

from app.db.database import Database
from app.domain.recipes import Recipe
from app.launchers.base import LaunchPlan
from app.launchers.local.launcher import LocalLauncher
from app.settings import Settings
from app.supervisor import schedule
from app.supervisor.state import Desk

TINY = Recipe("tiny", ("true",))


class Recorder(LocalLauncher):
    """Launches nothing, on a machine with two GPUs."""

    def __init__(self, gpus: tuple[str, ...] = ("A100", "A100")) -> None:
        super().__init__(gpus=gpus)
        self.launched: list[str] = []

    def launch(self, plan: LaunchPlan) -> None:
        self.launched.append(plan.run_id)
        self.env = plan.env


def open_desk(
    db: Database, data_dir: Path, launcher: LocalLauncher, recipe: Recipe = TINY, places: int = 4
) -> Desk:
    """A supervisor of one recipe, which is called `tiny`."""
    settings = Settings(data_dir=data_dir, max_local_runs=places)
    return Desk(db, settings, {"tiny": recipe}, "s" * 32, launcher, "http://127.0.0.1:1")


async def jobs(desk: Desk) -> None:
    """Until the work under way has ended, or was cancelled."""
    await asyncio.gather(*[job for job, _ in desk.jobs.values()], return_exceptions=True)


async def launch(desk: Desk) -> None:
    """One launching step, and the starts that it began."""
    await schedule.launch(desk)
    await jobs(desk)
