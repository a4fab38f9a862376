"""The supervisor's steps, one at a time, with a launcher that only writes down what it is asked."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.db.database import Database
from app.domain.recipes import Recipe
from app.launchers.base import Job, JobStatus, Key, LauncherContext, Submission
from app.launchers.local.launcher import LocalLauncher
from app.settings import Settings
from app.supervisor import schedule
from app.supervisor.state import SupervisorState

TINY = Recipe("tiny", ("true",))


def local_launcher(
    data_dir: Path = Path("nowhere"), gpus: Sequence[str] | None = (), visible: str | None = None
) -> LocalLauncher:
    """This machine, with runs below `data_dir`."""
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    return LocalLauncher(LauncherContext(data_dir, environment), gpus=gpus)


class Recorder(LocalLauncher):
    """Launches nothing, on a machine with two GPUs."""

    def __init__(self, gpus: tuple[str, ...] = ("A100", "A100")) -> None:
        super().__init__(LauncherContext(Path("nowhere"), {}), gpus=gpus)
        self.launched: list[str] = []

    def submit(self, job: Job) -> Submission:
        assert job.config is not None
        self.launched.append(job.key.run_id)
        self.env = job.config["env"]
        return Submission(None)


class Seen(Recorder):
    """Every attempt is what `status` says; who is asked to stop is written down."""

    def __init__(self, status: JobStatus) -> None:
        super().__init__()
        self.status = status
        self.stopped: list[str] = []

    def look(self, keys: Sequence[Key]) -> Mapping[Key, JobStatus]:
        return {key: self.status for key in keys}

    def exit_fd(self, key: Key) -> None:
        return None

    def stop(self, keys: Sequence[Key]) -> None:
        self.stopped += [key.run_id for key in keys]


def open_state(
    db: Database, data_dir: Path, launcher: LocalLauncher, recipe: Recipe = TINY, places: int = 4
) -> SupervisorState:
    """A supervisor of one recipe, which is called `tiny`."""
    settings = Settings(data_dir=data_dir, max_local_runs=places)
    launcher.data_dir, launcher.max_runs = data_dir, places
    return SupervisorState(
        db, settings, {"tiny": recipe}, "s" * 32, {"local": launcher}, "http://127.0.0.1:1"
    )


async def jobs(state: SupervisorState) -> None:
    """Until the work under way has ended, or was cancelled."""
    await asyncio.gather(*[job for job, _ in state.jobs.values()], return_exceptions=True)


async def launch(state: SupervisorState) -> None:
    """One launching step, and the starts that it began."""
    await schedule.launch(state)
    await jobs(state)
