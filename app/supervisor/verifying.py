"""Verifying: only a directory whose files match its manifest is a ready checkpoint."""

import asyncio
from pathlib import Path

from app.domain import paths
from app.domain.lifecycle import CheckpointState as State
from app.services import checkpoints
from app.services.launches import Source
from app.store.sql import Tx
from app.store.tables import Checkpoint, Run
from app.supervisor.desk import Desk
from app.trainer.checkpoint import MANIFEST, CheckpointError, Manifest
from app.trainer.checkpoint import verify as verify_files


async def verify(desk: Desk) -> None:
    """Looks at every checkpoint that was announced and not yet seen."""
    for each in await desk.db.read(checkpoints.pending):
        directory = desk.checkpoint_dir(each.ckpt_path)
        if each.stored_as_id is None and directory.exists():
            await check(desk, each)


async def check(desk: Desk, checkpoint: Checkpoint) -> Checkpoint:
    """Compares the files with their manifest, every byte, and records what was found."""
    try:
        manifest = await asyncio.to_thread(verify_files, desk.checkpoint_dir(checkpoint.ckpt_path))
    except CheckpointError as error:
        return await desk.db.write(checkpoints.lost, checkpoint.id, _sentence(error))
    return await desk.db.write(_verified, paths.parse(checkpoint.ckpt_path), manifest)


async def discover(desk: Desk, run: Run) -> None:
    """Finds the checkpoints that a run committed, announced or not; called when it is over."""
    directory = desk.checkpoint_dir(f"/ckpts/{run.experiment_id}/{run.id}")
    known = {each.ckpt_path: each.state for each in await desk.db.read(checkpoints.of_run, run.id)}
    for name in await asyncio.to_thread(_committed, directory):
        path = paths.CheckpointPath(run.experiment_id, run.id, name)
        if known.get(str(path)) in (State.READY, State.LOST):
            continue
        try:
            manifest = await asyncio.to_thread(verify_files, directory / name)
        except CheckpointError:
            continue  # announced ones are judged by `verify`; the rest was never promised
        await desk.db.write(_verified, path, manifest)


async def first_good(desk: Desk, candidates: list[Source]) -> Source | None:
    """The first candidate whose files match their manifest; damaged ones become lost.

    A checkpoint that was ready may be replaced by the next good one. One that a client
    declared either exists or does not.
    """
    for each in candidates:
        if each.stored.state == State.EMPTY:
            return each
        if each.stored.state == State.LOST:
            continue
        found = await check(desk, each.stored)
        if found.state == State.READY:
            named = found if each.named.id == each.stored.id else each.named
            return Source(named, found)
        if each.stored.state == State.DECLARED:
            return None
    return None


def _verified(tx: Tx, path: paths.CheckpointPath, manifest: Manifest) -> Checkpoint:
    return checkpoints.verified(
        tx, path.run_id, path.name, step=manifest.step, size_bytes=manifest.size_bytes,
        sha256=manifest.sha256,
    )  # fmt: skip


def _committed(directory: Path) -> list[str]:
    if not directory.is_dir():
        return []
    return sorted(
        each.name
        for each in directory.iterdir()
        if paths.is_name(each.name) and (each / MANIFEST).is_file()
    )


def _sentence(error: CheckpointError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
