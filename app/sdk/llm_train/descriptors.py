"""Reading a directory that anybody may have written: by descriptors, and never through a link.

Whatever is not what it should be raises CheckpointError; an error of the disk or of this machine
is an OSError, which proves nothing about the checkpoint.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_train.manifest import CheckpointError

CHUNK = 1 << 20

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def open_entry(directory: int, name: str, path: str, kind: int | None = None) -> Iterator[int]:
    """Open one entry of an open directory; a link, a device or the wrong kind is an error."""
    try:
        opened = os.open(name, _OPEN, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise CheckpointError(f"{path!r:.200} is missing") from None
        if error.errno == errno.ELOOP:
            raise CheckpointError(f"{path!r:.200} is a symbolic link") from None
        if error.errno == errno.ENXIO:
            raise CheckpointError(f"{path!r:.200} is a socket or a device") from None
        raise  # an error of the disk or of this machine (EMFILE): it proves nothing about the file
    try:
        actual = stat.S_IFMT(os.fstat(opened).st_mode)
        if actual not in ((stat.S_IFREG, stat.S_IFDIR) if kind is None else (kind,)):
            raise CheckpointError(
                f"{path!r:.200} is not a plain file or directory where one belongs"
            )
        yield opened
    finally:
        os.close(opened)


@contextmanager
def open_directory(directory: Path, parent: int | None = None) -> Iterator[int]:
    """Open a checkpoint's directory, never through a link."""
    name = directory if parent is None else directory.name
    try:
        opened = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=parent)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"no checkpoint directory at {str(directory)!r}: {reason}") from None
    except OSError as error:
        if error.errno == errno.ELOOP and directory.is_symlink():
            raise CheckpointError(
                f"no checkpoint directory at {str(directory)!r}: a link"
            ) from None
        raise
    try:
        yield opened
    finally:
        os.close(opened)


def read_link(directory: int, name: str) -> str | None:
    """Return the target of a symbolic link, or None for anything else."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        if error.errno == errno.ENOENT:
            raise CheckpointError(f"{name!r:.200} is missing") from None
        raise


def read_sha256(opened: int, size: int, path: str) -> str:
    """Hash the `size` bytes of an open file. Raises CheckpointError when there are fewer."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(min(size, CHUNK)))
    while size:
        count = os.readv(opened, [buffer[:size]])
        if not count:
            raise CheckpointError(f"{path!r:.200} became shorter while it was read")
        digest.update(buffer[:count])
        size -= count
    return digest.hexdigest()


def fsync_directory(directory: Path) -> None:
    """Write a directory's entries to disk."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
