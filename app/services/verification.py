"""Verification: only a checkpoint whose files match its manifest is ready.

select(tx, …)            which checkpoints an operator asks for
verify_files(…)          the storage reads every byte; in a thread, outside any transaction
record_results(tx, …)    records the result, unless the record changed while the files were read

`verify_each` does all three, one checkpoint after the other, and records each result at once. Those
that run in the background with progress are in `verifications`; how files are read, in
`app.storage`.
"""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from app.db.database import Database
from app.db.sql import Tx
from app.db.tables import Checkpoint
from app.domain import paths
from app.domain.failpoints import failpoint
from app.domain.lifecycle import CheckpointState as State
from app.domain.paths import CheckpointPath
from app.domain.permissions import Permission
from app.domain.requests import VerifyRequest
from app.errors import CheckpointUnreadable, NotFound
from app.services import checkpoints, data_dirs, experiments, runs, saves
from app.storage.base import CheckpointStorage, Damaged, Manifest
from app.storage.readers import Readers

UNREADABLE = "unreadable"
"""The outcome of one that could not be read: no state, since it stays what it is."""


class VerificationResult(NamedTuple):
    """Result of reading a checkpoint: the manifest that all files match, or what is wrong.

    `expected`: the SHA-256 of the manifest that was on record before; None: none was.
    """

    path: CheckpointPath
    expected: str | None
    manifest: Manifest | str
    is_attested: bool = False
    """Whole by the checksums that the storage keeps: no byte was read."""


class Verified(NamedTuple):
    """A checkpoint as it is on record after its verification; `unreadable`: why there was none."""

    checkpoint: Checkpoint
    unreadable: CheckpointUnreadable | None = None


def verify_files(
    storage: CheckpointStorage, path: CheckpointPath, expected: str | None
) -> VerificationResult:
    """Compare the files with their manifest, every byte. Blocks. Raises CheckpointUnreadable."""
    failpoint("checkpoint.reading")
    try:
        manifest = storage.verify(path)
        return VerificationResult(path, expected, manifest, storage.is_attested)
    except Damaged as damage:
        return VerificationResult(path, expected, str(damage))


def record_results(tx: Tx, findings: Sequence[VerificationResult]) -> list[Checkpoint]:
    """Make ready what is whole and lost what is not; return each checkpoint as it is then."""
    for finding in findings:
        saves.apply_verification(tx, finding.path, finding.expected, finding.manifest)
    existing = [checkpoints.get_by_path(tx, str(finding.path)) for finding in findings]
    return [checkpoint for checkpoint in existing if checkpoint is not None]


async def verify_each(
    db: Database,
    readers: Readers,
    storage: CheckpointStorage,
    experiment_id: str,
    request: VerifyRequest,
) -> AsyncIterator[Verified]:
    """Verify all checkpoints that `request` selects; yield each one as soon as it is recorded.

    One that cannot be read now stays what it is, and those after it are verified all the same.
    Raises NotFound; Unavailable if this is not the data directory of the database.
    """
    selected = await db.scan(select, experiment_id, request)
    await data_dirs.require_in_place(db, readers, storage)
    for checkpoint in selected:
        path = paths.parse(checkpoint.ckpt_path)
        # One that was never here (an external run's, kept elsewhere) is not lost.
        if checkpoint.state == State.DECLARED and not await readers.run(storage.exists, path):
            continue
        try:
            result = await readers.run(verify_files, storage, path, checkpoint.sha256)
        except CheckpointUnreadable as error:
            yield Verified(checkpoint, error)
            continue
        for recorded in await db.write(record_results, [result]):
            yield Verified(recorded)


async def verify_all(
    db: Database,
    readers: Readers,
    storage: CheckpointStorage,
    experiment_id: str,
    request: VerifyRequest,
) -> list[Verified]:
    """Verify all checkpoints that `request` selects, and record each result as it comes.

    Raises like `verify_each`; CheckpointUnreadable if not one of them could be read.
    """
    verified = [
        result async for result in verify_each(db, readers, storage, experiment_id, request)
    ]
    errors = [result.unreadable for result in verified if result.unreadable is not None]
    if errors and len(errors) == len(verified):
        raise errors[0]
    return verified


def read_again(tx: Tx, verified: Sequence[Verified]) -> list[Verified]:
    """Return what was verified with each checkpoint as it is now."""
    return [
        result._replace(checkpoint=checkpoints.get(tx, result.checkpoint.id)) for result in verified
    ]


def select(tx: Tx, experiment_id: str, request: VerifyRequest) -> list[Checkpoint]:
    """Return the checkpoints with files of an experiment or run, or the one under a path.

    Raises NotFound, NotPermitted: what is verified may become lost.
    """
    tx.require(Permission.WRITE, experiment_id)
    if request.ckpt_path is not None:
        named = checkpoints.get_by_path(tx, request.ckpt_path)
        if named is None or named.experiment_id != experiment_id:
            raise NotFound(f"There is no checkpoint {request.ckpt_path} in {experiment_id}.")
        selected = [checkpoints.get_stored(tx, named)]
    elif request.run_id is not None:
        selected = checkpoints.list_of_run(tx, runs.get(tx, request.run_id, experiment_id).id)
    else:
        experiments.get(tx, experiment_id)
        selected = checkpoints.list_of_experiment(tx, experiment_id)
    return [
        checkpoint
        for checkpoint in selected
        if checkpoint.stored_as_id is None
        and checkpoint.state in (State.READY, State.LOST, State.DECLARED)
    ]
