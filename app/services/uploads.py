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
from typing import NamedTuple

from llm_train.manifest import MANIFEST, CheckpointError, check_path, parse

from app.domain.paths import CheckpointPath
from app.errors import Conflict, InvalidInput, NotFound, RunLimit
from app.storage.base import (
    CheckpointStorage,
    Committed,
    Damaged,
    Draft,
    Incomplete,
    Manifest,
    Transfer,
)
from app.storage.readers import Readers
from app.storage.streams import drain, pour

MOST_AT_A_TIME = 64
"""Files that arrive at the same time; each has a thread."""
MOST_NAMED = 1000
MOST_SIGNED = 1000
"""URLs in one answer; those of what is missing then come with the next."""


class Signed(NamedTuple):
    """A checkpoint's manifest.json, and the URLs of the pieces of its files."""

    manifest: bytes
    downloads: list[Transfer]


class Uploads:
    """The uploads to this server. A run may have up to `most` bytes that are not committed yet."""

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
            raise self._too_much()
        self._held[run_id] = self._held.get(run_id, 0) + size
        try:
            yield
        except BaseException:
            self._held[run_id] = max(0, self._held.get(run_id, 0) - size)
            raise

    def _too_much(self) -> RunLimit:
        return RunLimit(
            f"The files of this run that wait to be committed may have {self._most} bytes: "
            "commit the checkpoint, or raise LLM_TRAIN_MAX_UPLOAD_GB.",
            errors=[{"pointer": "", "detail": "too much waits to be committed"}],
        )

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
        return self._commit_draft(self._storage.begin(path, _key(attempt)), content)

    def _commit_draft(self, draft: Draft, content: bytes) -> Committed:
        try:
            return self._storage.commit(draft, content)
        except Incomplete as error:
            raise Conflict(
                f"{error} Send them, then commit again.", files=error.files[:MOST_NAMED]
            ) from None
        except Damaged as error:
            raise Conflict(f"The checkpoint cannot be committed: {error}") from None

    async def sign(
        self, path: CheckpointPath, content: bytes, key: str | None = None
    ) -> list[Transfer] | None:
        """Return where the trainer puts what the storage lacks of a checkpoint, the first of it.

        None: the storage has no such URLs. Nothing: all has come, commit it.

        Args:
            content: the bytes of its manifest.json, or of one of a part of its files.
            key: what the parts of one checkpoint have in common.

        Raises:
            InvalidInput: that is no manifest.
            RunLimit: it is larger than what may wait.
        """
        manifest = check_manifest(content)
        if manifest.size_bytes > self._most:
            raise self._too_much()
        key = key or _signed_key(manifest.sha256)
        return await asyncio.to_thread(self._sign, path, key, content)

    def _sign(self, path: CheckpointPath, key: str, content: bytes) -> list[Transfer] | None:
        try:
            wanted = self._storage.sign_uploads(self._storage.begin(path, key), content)
        except Damaged as error:  # it was committed meanwhile, or removed
            raise Conflict(f"The checkpoint cannot be uploaded: {error}") from None
        return None if wanted is None else wanted[:MOST_SIGNED]

    async def commit_signed(
        self, path: CheckpointPath, content: bytes, key: str | None = None
    ) -> Committed:
        """Turn what the trainer put there into a checkpoint; as `commit`."""
        sha256 = check_manifest(content).sha256
        draft = Draft(path, key or _signed_key(sha256))
        return await asyncio.to_thread(self._commit_draft, draft, content)

    async def sign_downloads(self, path: CheckpointPath) -> Signed | None:
        """Return the manifest of a checkpoint and where its files are; None: there are no URLs.

        Raises NotFound.
        """
        try:
            wanted = await asyncio.to_thread(self._storage.sign_downloads, path)
            if wanted is None:
                return None
            content = await asyncio.to_thread(_read_manifest, self._storage, path)
        except Damaged as error:
            raise NotFound(f"The checkpoint {path} cannot be had: {error}") from None
        return Signed(content, wanted)

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


def _signed_key(sha256: str) -> str:
    """Return the key of a draft that is gone on with whenever the same checkpoint is sent."""
    return sha256[:32]


def check_manifest(content: bytes) -> Manifest:
    """Return the manifest of these bytes. Raises InvalidInput."""
    try:
        return parse(content)
    except CheckpointError as error:
        raise InvalidInput(
            f"The manifest: {error}.", errors=[{"pointer": "", "detail": str(error)}]
        ) from None
