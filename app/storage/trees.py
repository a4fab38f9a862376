"""Contents of an open directory: sizes, manifests, and the commit of a draft.

Every function takes a descriptor and follows no link. `files` has the single steps; the layout of
the directories is in `directory`.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO

from llm_train.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest

from app.storage import files
from app.storage.base import Incomplete


def replace_file(folder: int, name: str, content: Iterable[bytes]) -> int:
    """Write a file in the place of one of this name, which stays until all has come."""
    draft = f".part-{secrets.token_hex(8)}"
    opened = files.open_file(folder, draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(opened, "wb") as stream:
            size = fill(stream, content)
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft, dir_fd=folder)
        raise
    return size


def fill(stream: IO[bytes], content: Iterable[bytes]) -> int:
    """Write the rest of a file, to the disk; return its size."""
    for chunk in content:
        stream.write(chunk)
    stream.flush()
    os.fsync(stream.fileno())
    return stream.tell()


def complete(folder: int, manifest: Manifest, content: bytes) -> None:
    """Compare a draft's sizes with its manifest, make the links, and write the manifest."""
    expected = {file.path: file.size for file in manifest.files}
    wrong = sorted(path for path, size in expected.items() if file_size(folder, path) != size)
    if wrong:
        raise Incomplete(wrong)
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
    """Open a folder of a draft, never through a link."""
    with ExitStack() as stack:
        for name in names:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=folder)
            folder = stack.enter_context(files.inner(folder, name))
        yield folder


def file_size(folder: int, path: str) -> int | None:
    """Return the size of a file below a directory, or None if there is none."""
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


def tree_size(folder: int, name: str, most: int = 1 << 62) -> int:
    """Return the bytes below a directory; counting may end above `most`."""
    size = 0
    for _, _, names, inner in os.fwalk(name, dir_fd=folder):
        for file in names:
            size += os.stat(file, dir_fd=inner, follow_symlinks=False).st_size
        if size > most:
            break
    return size


def manifest_digest(folder: int, name: str) -> str | None:
    """Return the SHA-256 of the manifest in a directory, valid or not; None if there is none."""
    try:
        with files.inner(folder, name) as opened:
            content = files.read(opened, MANIFEST, MAX_MANIFEST_BYTES)
    except (FileNotFoundError, files.Unusable):
        return None
    return hashlib.sha256(content).hexdigest()


def has_manifest(folder: int, name: str) -> bool:
    """Return True if a directory is a committed checkpoint, or cannot be read now."""
    try:
        with files.inner(folder, name) as opened:
            return files.is_file(opened, MANIFEST)
    except (FileNotFoundError, files.Unusable):
        return False
    except OSError:  # reading it will tell
        return True
