"""`llm-train verify`, `prune` and `import-checkpoint`: what operators do to checkpoints by hand.

All work on the database itself, and make none. SQLite belongs to one process: while a server
has it, `verify` asks that server, which has left its address with its lock.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from llm_train import checkpoint

from app.cli import client
from app.db.connect import connect
from app.db.database import FEWEST, Database, InUse
from app.db.sql import Tx
from app.db.tables import Checkpoint
from app.domain import paths
from app.domain.ids import is_id
from app.domain.recipe_file import read_configuration, read_recipes
from app.domain.requests import VerifyRequest
from app.errors import CheckpointUnreadable, NotFound, Unavailable
from app.services import checkpoints, data_dirs, retention, runs, verification
from app.settings import Settings
from app.storage import get_storage
from app.storage.base import MANIFEST, CheckpointStorage, Committed, Incomplete, Manifest
from app.storage.readers import Readers

_INSTEAD_OF_PRUNING = (
    "stop it first, or let it delete by its recipes' keep_checkpoints; "
    "GET /v1/experiments/{experiment_id}/retention shows what would be deleted"
)


POLL_SECONDS = 0.5


class VerifiedCheckpoint(NamedTuple):
    """A checkpoint, as it was found; the state `unreadable` is the command's own."""

    ckpt_path: str
    state: str
    reason: str | None


async def verify(
    settings: Settings, experiment_id: str, request: VerifyRequest
) -> AsyncIterator[VerifiedCheckpoint]:
    """Read every byte of the checkpoints that are selected, or let the server do so that has
    the database; yield each as it is verified. Raises ServiceError.
    """
    if not is_id(experiment_id, "exp"):
        raise NotFound(f"There is no experiment {experiment_id!a}.")
    try:
        async with _database(settings) as db:
            async for verified in verification.verify_each(
                db, Readers(1), open_storage(settings), experiment_id, request
            ):
                row, unreadable = verified
                state, reason = row.state, row.reason
                if unreadable is not None:
                    state, reason = verification.UNREADABLE, unreadable.detail
                yield VerifiedCheckpoint(row.ckpt_path, state, reason)
            return
    except Unavailable as error:
        if not isinstance(error.__cause__, InUse) or not (url := error.__cause__.where):
            raise
    path = f"/v1/experiments/{experiment_id}/verifications"
    body = request.model_dump(exclude_none=True)
    answer = client.call(url, settings.api_token, "POST", path, body)
    path, after = f"{path}/{answer['verification_id']}", 0
    while True:
        answer = client.call(url, settings.api_token, "GET", f"{path}?after={after}")
        for finding in answer["findings"]:
            after = finding["seq"]
            yield VerifiedCheckpoint(finding["ckpt_path"], finding["outcome"], finding["reason"])
        if answer["finished_at"] is not None and not answer["findings"]:
            return
        if not answer["findings"]:
            await asyncio.sleep(POLL_SECONDS)


class Pruned(NamedTuple):
    """The checkpoints that are deleted, and by path why others could not be."""

    deleted: list[Checkpoint]
    left: dict[str, CheckpointUnreadable]


async def prune(settings: Settings, keep: int | None, dry_run: bool) -> Pruned:
    """Delete all but the newest `keep` checkpoints of each run (None: as its recipe says).

    Answers what is deleted, or with `dry_run` would be. Raises RecipeError, Unavailable.
    """
    wanted = keep or retention.get_limits(read_recipes(settings.recipes))
    storage = open_storage(settings)
    async with _database(settings, _INSTEAD_OF_PRUNING) as db:
        if dry_run:
            return Pruned(await db.scan(retention.plan, wanted), {})
        deleted: list[Checkpoint] = []
        left: dict[str, CheckpointUnreadable] = {}
        for run_id, number in (await db.scan(retention.list_over_limit, wanted)).items():
            deleted += await db.write(retention.delete, run_id, number)
        for checkpoint in await db.read(retention.list_pending_deletion):
            try:
                storage.delete(paths.parse(checkpoint.ckpt_path), checkpoint.sha256)
            except CheckpointUnreadable as error:
                # One that cannot be deleted must not keep all others on the disk.
                left[checkpoint.ckpt_path] = error
                continue
            await db.write(retention.record_files_removed, [checkpoint])
        return Pruned(
            [checkpoint for checkpoint in deleted if checkpoint.ckpt_path not in left], left
        )


@asynccontextmanager
async def _database(settings: Settings, instead: str | None = None) -> AsyncIterator[Database]:
    """Open the service's database; `instead` says what to do while a server has it."""
    db = connect(settings.database_url, connections=FEWEST)
    try:
        await asyncio.to_thread(db.prepare, make=False)
        await db.start()
    except Unavailable as error:
        if instead and isinstance(error.__cause__, InUse):
            raise Unavailable(f"{error}; {instead}") from error
        raise
    try:
        await data_dirs.require_in_place(db, Readers(1), open_storage(settings))
        yield db
    finally:
        await db.stop()


def open_storage(settings: Settings) -> CheckpointStorage:
    """Open the storage that the service would use. Raises RecipeError, ValueError."""
    stores = read_configuration(settings.recipes).stores
    return get_storage(settings.storage, settings.data_dir, stores)


async def import_checkpoint(
    settings: Settings, folder: Path, run_id: str, instead: str
) -> Checkpoint:
    """Store the checkpoint in a folder as one of a run; return its record.

    Repeated, it returns the same. Raises ServiceError, CheckpointError, Damaged, OSError.
    """
    storage = open_storage(settings)
    manifest = await asyncio.to_thread(checkpoint.verify, folder)
    async with _database(settings, instead) as db:
        run = await db.read(runs.get, run_id)
        name = checkpoint.safe_name(folder.name, f"imported-{manifest.step:06d}")
        path = paths.CheckpointPath(run.experiment_id, run.id, name)
        done = await asyncio.to_thread(_store, storage, path, folder, manifest)
        result = await asyncio.to_thread(
            verification.verify_files, storage, done.path, manifest.sha256
        )
        (imported,) = await db.write(_record_import, run_id, result)
        return imported


def _record_import(
    tx: Tx, run_id: str, result: verification.VerificationResult
) -> list[Checkpoint]:
    known = checkpoints.get_by_path(tx, str(result.path))
    expected = known.sha256 if known is not None else None
    return verification.record_results(tx, [result._replace(expected=expected)])


def _store(
    storage: CheckpointStorage, path: paths.CheckpointPath, folder: Path, manifest: Manifest
) -> Committed:
    """Copy a checkpoint from a folder into the storage, unless it is there."""
    content = (folder / MANIFEST).read_bytes()
    draft = storage.begin(path, manifest.sha256[:32])
    try:
        return storage.commit(draft, content)
    except Incomplete as incomplete:
        for file in incomplete.files:
            with (folder / file).open("rb") as stream:
                storage.write(draft, file, iter(lambda: stream.read(1 << 20), b""))
        return storage.commit(draft, content)
