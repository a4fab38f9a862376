"""Verification: only a directory whose files match its manifest is a ready checkpoint.

select(tx, …)            which checkpoints an operator asks for
verify_files(…)          reads every byte; in a thread, outside any transaction
record_results(tx, …)    records the result, unless the record changed while the files were read

`verify_each` is all three, one checkpoint after the other: what was found is on record at once.
"""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import NamedTuple

from llm_train.checkpoint import CheckpointError, Manifest, verify

from app import files
from app.db.database import Database
from app.db.sql import Tx
from app.db.tables import Checkpoint
from app.domain import paths
from app.domain.failpoints import failpoint
from app.domain.lifecycle import CheckpointState as State
from app.domain.paths import CheckpointPath
from app.domain.requests import VerifyRequest
from app.errors import CheckpointUnreadable, NotFound
from app.services import checkpoints, data_dirs, experiments, runs
from app.services.reading import Readers

UNREADABLE = "unreadable"
"""The outcome of one that could not be read: no state, since it stays what it is."""
SMALL_BYTES = 64 << 20


class VerificationResult(NamedTuple):
    """What was found under a path: the manifest that all files match, or what is wrong.

    `expected`: the SHA-256 of the manifest that was on record before; None: none was.
    """

    path: CheckpointPath
    expected: str | None
    manifest: Manifest | str


class Verified(NamedTuple):
    """A checkpoint as it is on record after its verification; `unreadable`: why there was none."""

    checkpoint: Checkpoint
    unreadable: CheckpointUnreadable | None = None


def directory(data_dir: Path, path: object) -> Path:
    """Where the files of a logical path (one that was parsed) lie."""
    return (data_dir / str(path).lstrip("/")).absolute()


def verify_files(data_dir: Path, path: CheckpointPath, expected: str | None) -> VerificationResult:
    """Compares the files with their manifest, every byte. Raises CheckpointUnreadable."""
    failpoint("checkpoint.reading")
    try:
        with parent(data_dir, path) as folder:
            return VerificationResult(path, expected, verify(directory(data_dir, path), folder))
    except (FileNotFoundError, NotADirectoryError) as error:
        return VerificationResult(
            path, expected, f"No checkpoint directory at {path}: {error.strerror}."
        )
    except CheckpointError as error:
        text = str(error)
        return VerificationResult(path, expected, f"{text[:1].upper()}{text[1:]}.")
    except OSError as error:
        raise _unreadable(path, error) from error


def is_small(data_dir: Path, path: object) -> bool:
    """Whether a checkpoint is read in a moment, as far as that can be told now."""
    size = 0
    with suppress(OSError), parent(data_dir, path) as folder:
        for _, _, names, inner in os.fwalk(directory(data_dir, path).name, dir_fd=folder):
            for name in names:
                size += os.stat(name, dir_fd=inner, follow_symlinks=False).st_size
            if size > SMALL_BYTES:
                return False
    return True


def has_files(data_dir: Path, path: object) -> bool:
    """Whether there is something to look at under a path, as far as that can be told now."""
    try:
        with parent(data_dir, path) as folder:
            return files.exists(folder, directory(data_dir, path).name)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def parent(data_dir: Path, path: object) -> AbstractContextManager[int]:
    """Open the directory of a run's checkpoints, in which `path` is one; never through a link."""
    path = directory(data_dir, path)
    return files.directory(path.parents[2], path.parents[1].name, path.parent.name)


def _unreadable(path: object, error: OSError) -> CheckpointUnreadable:
    reason = f"{path} could not be read: {error.strerror}."
    return CheckpointUnreadable(reason, retry_after=5)


def record_results(tx: Tx, findings: Sequence[VerificationResult]) -> list[Checkpoint]:
    """Makes ready what is whole, and lost what is not; each checkpoint as it is then."""
    for finding in findings:
        checkpoints.apply_verification(tx, *finding)
    found = [checkpoints.get_by_path(tx, str(finding.path)) for finding in findings]
    return [each for each in found if each is not None]


async def verify_each(
    db: Database, readers: Readers, data_dir: Path, experiment_id: str, request: VerifyRequest
) -> AsyncIterator[Verified]:
    """Verify all checkpoints that `request` selects; yield each one as soon as it is recorded.

    One that cannot be read now stays what it is, and those after it are verified all the same.
    Raises NotFound; Unavailable if this is not the data directory of the database.
    """
    selected = await db.scan(select, experiment_id, request)
    try:
        name = await readers.run(data_dirs.identity, data_dir)
    except OSError as error:
        raise _unreadable("The data directory", error) from error
    await db.read(data_dirs.check, name)
    for checkpoint in selected:
        # One that was never here (an external run's, kept elsewhere) is not lost.
        if checkpoint.state == State.DECLARED and not has_files(data_dir, checkpoint.ckpt_path):
            continue
        path = paths.parse(checkpoint.ckpt_path)
        try:
            result = await readers.run(verify_files, data_dir, path, checkpoint.sha256)
        except CheckpointUnreadable as error:
            yield Verified(checkpoint, error)
            continue
        for recorded in await db.write(record_results, [result]):
            yield Verified(recorded)


async def verify_all(
    db: Database, readers: Readers, data_dir: Path, experiment_id: str, request: VerifyRequest
) -> list[Verified]:
    """Verify all checkpoints that `request` selects, and record each result as it comes.

    Raises like `verify_each`; CheckpointUnreadable if not one of them could be read.
    """
    verified = [each async for each in verify_each(db, readers, data_dir, experiment_id, request)]
    errors = [each.unreadable for each in verified if each.unreadable is not None]
    if errors and len(errors) == len(verified):
        raise errors[0]
    return verified


def read_again(tx: Tx, verified: Sequence[Verified]) -> list[Verified]:
    """Return what was verified with each checkpoint as it is now."""
    return [each._replace(checkpoint=checkpoints.get(tx, each.checkpoint.id)) for each in verified]


def select(tx: Tx, experiment_id: str, request: VerifyRequest) -> list[Checkpoint]:
    """The checkpoints with files of an experiment, or of a run, or the one under a path."""
    if request.ckpt_path is not None:
        named = checkpoints.get_by_path(tx, request.ckpt_path)
        if named is None or named.experiment_id != experiment_id:
            raise NotFound(f"There is no checkpoint {request.ckpt_path} in {experiment_id}.")
        found = [checkpoints.get_stored(tx, named)]
    elif request.run_id is not None:
        found = checkpoints.list_of_run(tx, runs.get(tx, request.run_id, experiment_id).id)
    else:
        experiments.get(tx, experiment_id)
        found = checkpoints.list_of_experiment(tx, experiment_id)
    return [
        each
        for each in found
        if each.stored_as_id is None and each.state in (State.READY, State.LOST, State.DECLARED)
    ]
