"""Verifying: what was announced or found is read, in the background, before it is ready.

A checkpoint may hold 100 GB: no duty waits for the reading. Its result is recorded unless
the record changed meanwhile, and its end wakes the loop.
"""

import asyncio
import shutil
from pathlib import Path

from app.domain import paths
from app.domain.lifecycle import CheckpointState as State
from app.domain.paths import CheckpointPath
from app.services import checkpoints, runs, verification
from app.services.launches import Source
from app.store.tables import Checkpoint, Run
from app.supervisor.desk import Desk
from app.trainer.checkpoint import MANIFEST


async def verify(desk: Desk) -> None:
    """Looks at every checkpoint that was announced and not yet seen."""
    waiting = [
        each for each in await desk.db.read(checkpoints.pending) if each.ckpt_path not in desk.jobs
    ]
    if waiting:  # the disk may hang: that must hold up the duties only, not the server
        for each in await asyncio.to_thread(_there, desk.settings.data_dir, waiting):
            begin(desk, paths.parse(each.ckpt_path), each.sha256)


def _there(data_dir: Path, waiting: list[Checkpoint]) -> list[Checkpoint]:
    return [each for each in waiting if verification.directory(data_dir, each.ckpt_path).exists()]


def begin(desk: Desk, path: CheckpointPath, expected: str | None) -> None:
    """Starts reading one checkpoint, unless that is under way."""
    if str(path) not in desk.jobs:
        desk.begin(str(path), check(desk, path, expected))


async def check(desk: Desk, path: CheckpointPath, expected: str | None) -> Checkpoint | None:
    """Compares the files with their manifest, every byte, and records what was found."""
    finding = await desk.reading(verification.look, desk.settings.data_dir, path, expected)
    found = next(iter(await desk.db.write(verification.record, [finding])), None)
    if found is not None and found.state == State.READY:
        run = await desk.db.read(runs.get, found.run_id)
        recipe = desk.recipe(run)
        if recipe is not None and recipe.keep_checkpoints:
            desk.crowded[run.id] = recipe.keep_checkpoints
    return found


async def settled(desk: Desk, run: Run) -> frozenset[str] | None:
    """Once all that a dead trainer committed is verified, announced or not: the ids of the
    promised checkpoints of which there are no files. None: something is still being read."""
    directory = verification.directory(
        desk.settings.data_dir, f"/ckpts/{run.experiment_id}/{run.id}"
    )
    known = {each.ckpt_path: each for each in await desk.db.read(checkpoints.of_run, run.id)}
    reading = False
    for name in await asyncio.to_thread(_committed, directory):
        path = CheckpointPath(run.experiment_id, run.id, name)
        record = known.pop(str(path), None)
        if record is None or record.state in (State.PENDING, State.DECLARED):
            begin(desk, path, record.sha256 if record else None)
            reading = True
    if reading:
        return None
    return frozenset(each.id for each in known.values() if each.state == State.PENDING)


async def first_good(desk: Desk, candidates: list[Source]) -> Source | None:
    """The first candidate whose files match their manifest; damaged ones become lost.

    A checkpoint that was ready may be replaced by the next good one. One that a client
    declared either exists or does not.
    """
    for each in candidates:
        stored = each.stored
        if stored.state == State.EMPTY:
            return each
        if stored.state == State.LOST:
            continue
        found = await check(desk, paths.parse(stored.ckpt_path), stored.sha256)
        if found is not None and found.state == State.READY:
            return Source(found if each.named.id == stored.id else each.named, found)
        if stored.state == State.DECLARED:
            return None
    return None


def sweep(directory: Path) -> None:
    """Removes what dead trainers of a run began to write and did not commit."""
    for each in directory.glob(".tmp-*"):
        shutil.rmtree(each, ignore_errors=True)


def _committed(directory: Path) -> list[str]:
    if not directory.is_dir():
        return []
    return sorted(
        each.name
        for each in directory.iterdir()
        if paths.is_name(each.name) and (each / MANIFEST).is_file()
    )
