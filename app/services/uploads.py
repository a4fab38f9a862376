"""Checkpoints that arrive over HTTP: the commit protocol of the SDK, its files sent one by one.

    put(…) each file → commit(…): compare sizes, fsync, manifest.json, rename: only now it exists

The files wait in a directory `.tmp-…` beside the run's checkpoints, which is swept when the attempt
is over. Sizes are compared with the manifest here; that every byte is right is found by the
verification that each saved checkpoint gets. `Uploads` bounds what waits.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from llm_train import checkpoint
from llm_train.checkpoint import MANIFEST, CheckpointError, Manifest

from app import files
from app.domain.paths import CheckpointPath
from app.errors import Conflict, InvalidInput, NotFound, RunLimit

WRITE_BYTES = 1024 * 1024
READ_BYTES = 1024 * 1024


class Uploads:
    """Counts what waits to be committed, by run; a run may have `most` bytes of it."""

    def __init__(self, data_dir: Path, most: int) -> None:
        self._data_dir, self._most = data_dir, most
        self._held: dict[str, int] = {}

    @contextmanager
    def hold(self, path: CheckpointPath, size: int) -> Iterator[None]:
        """Count a file that is about to arrive. Raises RunLimit if it is too much."""
        if path.run_id not in self._held:
            self._held[path.run_id] = _waiting_bytes(self._data_dir, path)
        if self._held[path.run_id] + size > self._most:
            raise RunLimit(
                f"The files of this run that wait to be committed may have {self._most} bytes: "
                "commit the checkpoint, or raise LLM_TRAIN_MAX_UPLOAD_GB.",
                errors=[{"pointer": "", "detail": "too much waits to be committed"}],
            )
        self._held[path.run_id] += size
        try:
            yield
        except BaseException:
            self._held[path.run_id] = max(0, self._held.get(path.run_id, 0) - size)
            raise

    def forget(self, run_id: str) -> None:
        """Count again at the next file: something was committed or swept."""
        self._held.pop(run_id, None)


def check_file_path(text: str) -> str:
    """Return the path of a file in a checkpoint. Raises InvalidInput."""
    try:
        checkpoint.check_path(text)
    except CheckpointError as error:
        raise InvalidInput(
            f"The path of the file: {error}.",
            errors=[{"pointer": "", "parameter": "path", "detail": str(error)}],
        ) from None
    return text


async def put(
    data_dir: Path, path: CheckpointPath, attempt: int, file: str, body: AsyncIterator[bytes]
) -> int:
    """Write one file of a checkpoint that is being uploaded; return its size.

    It is there whole or not at all; sent again, it is replaced. Raises OSError.
    """
    draft = await asyncio.to_thread(_Draft, data_dir, path, attempt, file)
    try:
        pieces: list[bytes] = []
        waiting = 0
        async for piece in body:
            pieces.append(piece)
            waiting += len(piece)
            if waiting >= WRITE_BYTES:
                await asyncio.to_thread(draft.write, b"".join(pieces))
                pieces, waiting = [], 0
        await asyncio.to_thread(draft.write, b"".join(pieces))
        return await asyncio.to_thread(draft.finish)
    finally:
        await asyncio.shield(asyncio.to_thread(draft.close))


class _Draft:
    """A file that is being received."""

    def __init__(self, data_dir: Path, path: CheckpointPath, attempt: int, file: str) -> None:
        *folders, self._name = file.split("/")
        run = _run_directory(data_dir, path)
        with files.directory(
            run.parents[1], run.parent.name, run.name, _waiting(path, attempt), *folders, make=True
        ) as folder:
            self._folder = os.dup(folder)
        self._draft = f".part-{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            self._file = files.open_file(self._folder, self._draft, flags)
        except BaseException:
            os.close(self._folder)
            raise
        self._size = 0

    def write(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self._size += len(content)

    def finish(self) -> int:
        os.fsync(self._file)
        try:
            os.rename(self._draft, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except (IsADirectoryError, NotADirectoryError):
            raise Conflict(f"A folder of this checkpoint is named {self._name!r:.200}.") from None
        return self._size

    def close(self) -> None:
        with suppress(OSError):
            os.unlink(self._draft, dir_fd=self._folder)
        os.close(self._file)
        os.close(self._folder)


class Committed(NamedTuple):
    """A checkpoint that stands: its name may be another one than was asked for."""

    name: str
    manifest: Manifest


def commit(data_dir: Path, path: CheckpointPath, attempt: int, content: bytes) -> Committed:
    """Turn the files that were sent into a checkpoint. May be repeated: the answer is the same.

    As with `llm_train.checkpoint.commit`, where the name is taken `name.2` follows.

    Args:
        content: the bytes of manifest.json.

    Raises:
        InvalidInput: that is no manifest.
        Conflict: the files are not those of the manifest; it says which to send.
        OSError: the disk refuses.
    """
    try:
        manifest = checkpoint.parse(content)
    except CheckpointError as error:
        raise InvalidInput(
            f"The manifest: {error}.", errors=[{"pointer": "", "detail": str(error)}]
        ) from None
    run = _run_directory(data_dir, path)
    with files.directory(run.parents[1], run.parent.name, run.name, make=True) as parent:
        for name in checkpoint.candidate_names(path.name):
            if _has_manifest(parent, name, content):
                return Committed(name, manifest)
            if not files.exists(parent, name):
                break
        waiting = _waiting(path, attempt)
        try:
            with files.inner(parent, waiting) as folder:
                _complete(folder, manifest, content)
        except FileNotFoundError:
            raise Conflict("No file of this checkpoint was sent.") from None
        for name in checkpoint.candidate_names(path.name):
            try:
                os.rename(waiting, name, src_dir_fd=parent, dst_dir_fd=parent)
                break
            except OSError as error:
                if error.errno not in checkpoint.TAKEN:
                    raise
        os.fsync(parent)
    return Committed(name, manifest)


def _has_manifest(parent: int, name: str, content: bytes) -> bool:
    try:
        with files.inner(parent, name) as folder:
            return files.read(folder, MANIFEST, checkpoint.MAX_MANIFEST_BYTES) == content
    except (FileNotFoundError, files.Unusable):
        return False


def _complete(folder: int, manifest: Manifest, content: bytes) -> None:
    """Compare what was sent with the manifest, make the links, and write the manifest."""
    expected = {file.path: file.size for file in manifest.files}
    wrong = sorted(path for path, size in expected.items() if _size(folder, path) != size)
    if wrong:
        raise Conflict(
            f"{len(wrong)} files of the manifest are missing or of another size, such as "
            f"{wrong[0]!r:.200}; send them, then commit again.",
            files=wrong[:1000],
        )
    for top, folders, names, opened in os.fwalk(".", topdown=False, dir_fd=folder):
        prefix = top[2:] + "/" if top != "." else ""
        for name in names:
            if prefix + name not in expected and prefix + name != MANIFEST:
                os.unlink(name, dir_fd=opened)
        for name in folders:
            with suppress(OSError):
                os.rmdir(name, dir_fd=opened)  # an empty one is in no manifest
        os.fsync(opened)
    for link in manifest.links:
        *folders, name = link.path.split("/")
        with _inner(folder, folders, make=True) as opened:
            with suppress(FileExistsError):
                os.symlink(link.target, name, dir_fd=opened)
            os.fsync(opened)
    files.write(folder, MANIFEST, content)
    os.fsync(folder)


@contextmanager
def _inner(folder: int, names: list[str], make: bool = False) -> Iterator[int]:
    """Open a folder of an upload, never through a link."""
    opened = os.dup(folder)
    try:
        for name in names:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=opened)
            with files.inner(opened, name) as inner:
                os.close(opened)
                opened = os.dup(inner)
        yield opened
    finally:
        os.close(opened)


def _size(folder: int, path: str) -> int | None:
    *folders, name = path.split("/")
    try:
        with _inner(folder, folders) as opened:
            file = files.open_file(opened, name)
    except (FileNotFoundError, files.Unusable):
        return None
    try:
        return os.fstat(file).st_size
    finally:
        os.close(file)


def open_file(data_dir: Path, path: CheckpointPath, file: str) -> int:
    """Open a file of a committed checkpoint; return its descriptor. Raises NotFound, OSError."""
    *folders, name = file.split("/")
    try:
        with (
            _open_run(data_dir, path) as parent,
            files.inner(parent, path.name) as folder,
            _inner(folder, folders) as opened,
        ):
            return files.open_file(opened, name)
    except (FileNotFoundError, NotADirectoryError, files.Unusable):
        raise NotFound(f"There is no file {file!r:.200} in {path}.") from None


async def read_file(opened: int, size: int) -> AsyncIterator[bytes]:
    """Yield `size` bytes of an open file, then close it."""
    try:
        while size and (piece := await asyncio.to_thread(os.read, opened, min(size, READ_BYTES))):
            size -= len(piece)
            yield piece
    finally:
        os.close(opened)


def _waiting(path: CheckpointPath, attempt: int) -> str:
    return f".tmp-{path.name[:100]}-of-attempt-{attempt}"


def _waiting_bytes(data_dir: Path, path: CheckpointPath) -> int:
    """Return how much a run has sent that is not committed."""
    run = _run_directory(data_dir, path)
    size = 0
    try:
        with files.directory(run.parents[1], run.parent.name, run.name) as folder:
            for name in files.names(folder):
                if name.startswith(".tmp-"):
                    for _, _, names, inner in os.fwalk(name, dir_fd=folder):
                        size += sum(
                            os.stat(each, dir_fd=inner, follow_symlinks=False).st_size
                            for each in names
                        )
    except (FileNotFoundError, NotADirectoryError, files.Unusable):
        return 0
    return size


def _run_directory(data_dir: Path, path: CheckpointPath) -> Path:
    return data_dir.absolute() / "ckpts" / path.experiment_id / path.run_id


def _open_run(data_dir: Path, path: CheckpointPath) -> AbstractContextManager[int]:
    return files.directory(data_dir / "ckpts", path.experiment_id, path.run_id)
