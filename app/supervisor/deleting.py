"""Deleting: the points and files of deleted runs are removed, in the background, a run at a time.

The rows are gone already (`services.deletion`), so nothing of what is removed here is visible. A
`Removal` goes last: after a crash the next leader begins that run again.
"""

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path

from app.db.tables import Removal
from app.domain.failpoints import failpoint
from app.errors import CheckpointUnreadable, Unavailable
from app.services import removals
from app.storage import files
from app.storage.artifacts import Owner
from app.supervisor.state import SupervisorState

AT_ONCE = 100
"""Removals that are read at a time."""
PAUSE_SECONDS = 8.0
"""Before what could not be removed is tried again."""
_ABOUT = "what was deleted"

log = logging.getLogger(__name__)


async def remove_deleted(state: SupervisorState) -> None:
    """Begin to remove the leftovers of deleted runs, unless that is under way."""
    if _ABOUT in state.jobs:
        return
    if found := await state.db.read(removals.list_removals, AT_ONCE):
        state.start_job(_ABOUT, _remove(state, found))


async def _remove(state: SupervisorState, left: list[Removal]) -> None:
    failed = False
    for removal in left:
        while await state.db.write(removals.remove_points, removal.owner_id):
            failpoint("delete.points")
        if not await state.has_data_dir():
            failed = True  # a data directory that is away still has its files
            break
        try:
            await state.run_reader(_remove_files, state, removal)
        except (CheckpointUnreadable, Unavailable, OSError) as error:
            # One that cannot be removed must not keep all others on the disk.
            words = "the files of %s cannot be removed (%s); it is tried again"
            state.log_throttled((_ABOUT, removal.owner_id), words, removal.owner_id, error)
            failed = True
            continue
        await state.db.write(removals.finish, removal)
        failpoint("delete.finished")
    if failed:
        await asyncio.sleep(PAUSE_SECONDS)


def _remove_files(state: SupervisorState, removal: Removal) -> None:
    """Remove checkpoints, artifacts, and the run's own directory with its logs."""
    state.storage.remove_run(removal.experiment_id, removal.owner_id)
    failpoint("delete.checkpoints")
    state.artifacts.remove_all(Owner(removal.experiment_id, removal.owner_id))
    failpoint("delete.artifacts")
    _remove_run_dir(state.settings.data_dir, removal.owner_id)
    failpoint("delete.logs")


def _remove_run_dir(data_dir: Path, run_id: str) -> None:
    with suppress(FileNotFoundError), files.directory(data_dir / "runs") as folder:
        files.remove(folder, run_id)
        os.fsync(folder)
