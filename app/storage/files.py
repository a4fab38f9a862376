"""Files that a trainer can reach, opened so that nothing it puts there can harm the service.

A trainer may leave a link, a FIFO or 30 GB where the service expects a small plain file. So each
name below a trusted directory is opened relative to its parent, never through a link and never
waiting for another process, and is used only if it is what belongs there:

    with directory(data_dir / "runs", run_id, "attempt-1") as folder:
        record = read(folder, "exit.json", 65_536)

`trusted` itself (and what leads to it) belongs to the operator and may be a link. All functions
block on the disk only. Raises OSError: FileNotFoundError where there is nothing, `Unusable` where
there is something else.
"""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WRONG_KIND = {errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EISDIR, errno.ENODEV}


class Unusable(OSError):
    """Something else stands where a file or directory of the service belongs."""

    def __init__(self, name: str, expected: str) -> None:
        super().__init__(errno.EINVAL, f"{name} is not {expected}")


@contextmanager
def directory(trusted: Path, *names: str, make: bool = False) -> Iterator[int]:
    """Open the directory `trusted/names[0]/…` and yield its descriptor.

    `make`: create what is missing (mode 0700), and set aside what is no directory.
    """
    if make:
        with suppress(FileExistsError):  # a file, as opening it tells
            trusted.mkdir(parents=True, exist_ok=True)
    opened = os.open(trusted, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            inner = _make_directory(opened, name) if make else _open_directory(opened, name)
            os.close(opened)
            opened = inner
        yield opened
    finally:
        os.close(opened)


@contextmanager
def inner(folder: int, name: str) -> Iterator[int]:
    """Open a directory of `folder` and yield its descriptor."""
    opened = _open_directory(folder, name)
    try:
        yield opened
    finally:
        os.close(opened)


def open_file(folder: int, name: str, flags: int = os.O_RDONLY) -> int:
    """Open a plain file of `folder` and return its descriptor."""
    try:
        opened = os.open(name, flags | _SAFE, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno in _WRONG_KIND:
            raise Unusable(name, "a plain file") from None
        raise
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise Unusable(name, "a plain file")
    return opened


def read(folder: int, name: str, most: int) -> bytes:
    """Return the content of a plain file of at most `most` bytes."""
    with os.fdopen(open_file(folder, name), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise Unusable(name, f"a file of at most {most} bytes")
    return content


def write(folder: int, name: str, content: bytes) -> None:
    """Replace a file of `folder`: after a crash it holds the old content or the new one.

    A directory in its place is set aside.
    """
    draft = f".{name}-{secrets.token_hex(8)}"
    opened = open_file(folder, draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(opened, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
        except IsADirectoryError:
            set_aside(folder, name)
            os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with suppress(OSError):
            os.unlink(draft, dir_fd=folder)
        raise


def list_names(folder: int) -> list[str]:
    """Return the names in a directory, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries)


def exists(folder: int, name: str) -> bool:
    """Return True if `folder` has an entry of this name, of whatever kind."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def is_file(folder: int, name: str) -> bool:
    """Return True if a plain file has this name."""
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def is_directory(folder: int, name: str) -> bool:
    """Return True if a directory has this name; a link to one is none."""
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def set_aside(folder: int, name: str) -> None:
    """Rename what stands where something of the service belongs; its content may be somebody's."""
    aside = f".{name[:200]}.aside-{secrets.token_hex(8)}"
    with suppress(FileNotFoundError):
        os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)


def _open_directory(folder: int, name: str) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | _SAFE, dir_fd=folder)
    except OSError as error:
        if error.errno in _WRONG_KIND:
            raise Unusable(name, "a directory of the service") from None
        raise


def _make_directory(folder: int, name: str) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=folder)
    try:
        return _open_directory(folder, name)
    except Unusable:
        set_aside(folder, name)
        os.mkdir(name, 0o700, dir_fd=folder)
        return _open_directory(folder, name)


def remove(folder: int, name: str) -> None:
    """Remove a directory with all in it, a file, or a link; nothing if there is none."""
    if not exists(folder, name):
        return
    if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        shutil.rmtree(name, dir_fd=folder)
    else:
        os.unlink(name, dir_fd=folder)
