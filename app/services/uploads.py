"""Checkpoints that arrive over HTTP, file by file, on their way into the storage.

    put(…) each file → commit(…) with the manifest: only now the checkpoint exists

The files of one checkpoint are a draft (`app.storage.base`) whose key is the attempt's, which is
removed when the attempt is over. That every byte is right is found by the verification that each
saved checkpoint gets. `Uploads` bounds what waits.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice

from llm_train.manifest import MANIFEST, CheckpointError, check_path, parse

from app.domain.paths import CheckpointPath
from app.errors import Conflict, InvalidInput, NotFound, RunLimit
from app.storage.base import CheckpointStorage, Committed, Damaged, Incomplete
from app.storage.readers import Readers
from app.storage.streams import drain, pour

MOST_AT_A_TIME = 64
"""Files that arrive at the same time; each has a thread."""
MOST_NAMED = 1000


class Uploads:
    """What is uploaded to this server. A run may have `most` bytes that wait to be committed."""

    def __init__(self, storage: CheckpointStorage, most: int) -> None:
        self._storage, self._most = storage, most
        self._held: dict[str, int] = {}
        self._threads = Readers(MOST_AT_A_TIME)

    async def put(
        self, path: CheckpointPath, attempt: int, file: str, size: int, body: AsyncIterator[bytes]
    ) -> int:
        """Write one file of a checkpoint that is being uploaded; return its size.

        It is there whole or not at all; sent again, it is replaced.

        Args:
            size: its announced size, which counts from now on.

        Raises:
            InvalidInput: the path is none of a file in a checkpoint.
            RunLimit: it would be too much that waits.
            Conflict: another file or folder is in its way.
        """
        check_file_path(file)
        if path.run_id not in self._held:
            waiting = await asyncio.to_thread(self._storage.draft_bytes, *path[:2])
            self._held.setdefault(path.run_id, waiting)
        with self._hold(path.run_id, size):
            return await pour(self._threads, partial(self._write, path, attempt, file), body)

    def _write(self, path: CheckpointPath, attempt: int, file: str, pieces: Iterator[bytes]) -> int:
        draft = self._storage.begin(path, _key(attempt))
        try:
            return self._storage.write(draft, file, pieces)
        except Damaged as error:
            raise Conflict(f"The file is not taken: {error}") from None

    @contextmanager
    def _hold(self, run_id: str, size: int) -> Iterator[None]:
        """Count a file that is about to arrive. Raises RunLimit if it is too much."""
        if self._held.get(run_id, 0) + size > self._most:
            raise RunLimit(
                f"The files of this run that wait to be committed may have {self._most} bytes: "
                "commit the checkpoint, or raise LLM_TRAIN_MAX_UPLOAD_GB.",
                errors=[{"pointer": "", "detail": "too much waits to be committed"}],
            )
        self._held[run_id] = self._held.get(run_id, 0) + size
        try:
            yield
        except BaseException:
            self._held[run_id] = max(0, self._held.get(run_id, 0) - size)
            raise

    async def commit(self, path: CheckpointPath, attempt: int, content: bytes) -> Committed:
        """Turn the files that were sent into a checkpoint. May be repeated: the answer is the same.

        Where the name is taken, `name.2` follows.

        Args:
            content: the bytes of manifest.json.

        Raises:
            InvalidInput: that is no manifest.
            Conflict: the files are not those of the manifest; it says which to send.
        """
        self._held.pop(path.run_id, None)  # counted again at the next file
        return await asyncio.to_thread(self._commit, path, attempt, content)

    def _commit(self, path: CheckpointPath, attempt: int, content: bytes) -> Committed:
        check_manifest(content)
        try:
            return self._storage.commit(self._storage.begin(path, _key(attempt)), content)
        except Incomplete as error:
            raise Conflict(
                f"{error} Send them, then commit again.", files=error.files[:MOST_NAMED]
            ) from None
        except Damaged as error:
            raise Conflict(f"The checkpoint cannot be committed: {error}") from None

    async def read(self, path: CheckpointPath, file: str) -> "tuple[int, AsyncIterator[bytes]]":
        """Return the size and the bytes of a file of a checkpoint, or of its manifest.json.

        Raises InvalidInput, NotFound.
        """
        if file != MANIFEST:
            check_file_path(file)
        try:
            if file == MANIFEST:
                content = await asyncio.to_thread(_read_manifest, self._storage, path)
                return len(content), drain(iter([content]))
            manifest = await asyncio.to_thread(self._storage.manifest, path)
            size = next(listed.size for listed in manifest.files if listed.path == file)
            # The first piece is read before the answer begins: what cannot be read is told by it.
            pieces = self._storage.read(path, file)
            first = await asyncio.to_thread(lambda: list(islice(pieces, 1)))
        except (Damaged, StopIteration):
            raise NotFound(f"There is no file {file!r:.200} in {path}.") from None
        return size, _chain(first, drain(pieces))


async def _chain(first: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for piece in first:
        yield piece
    async for piece in rest:
        yield piece


def _read_manifest(storage: CheckpointStorage, path: CheckpointPath) -> bytes:
    return b"".join(storage.read(path, MANIFEST))


def _key(attempt: int) -> str:
    return f"attempt-{attempt}"


def check_file_path(text: str) -> None:
    """Raise InvalidInput if this is no path of a file in a checkpoint."""
    try:
        check_path(text)
    except CheckpointError as error:
        raise InvalidInput(
            f"The path of the file: {error}.",
            errors=[{"pointer": "", "parameter": "path", "detail": str(error)}],
        ) from None


def check_manifest(content: bytes) -> None:
    """Raise InvalidInput if these are not the bytes of a manifest.json."""
    try:
        parse(content)
    except CheckpointError as error:
        raise InvalidInput(
            f"The manifest: {error}.", errors=[{"pointer": "", "detail": str(error)}]
        ) from None
