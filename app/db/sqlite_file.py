"""The database as a file: which process it belongs to, who may read it, and on what it lies."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from app.db.database import InUse

OWN_SECONDS = 1.0
"""How long a server waits for one before it that is ending."""


def own(lock: Path) -> int:
    """Take a lock file for this process's life. Raises InUse when another holds it.

    Group commit, wake-ups and keys in flight live in one process: a second server on the
    same file would be a slow and confusing one. One that was killed a moment ago holds the lock
    until the last of its threads is gone: that is waited for.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor, time.monotonic() + OWN_SECONDS)
    except BlockingIOError as error:
        where = os.pread(descriptor, 1000, 0).decode()
        os.close(descriptor)
        raise InUse(where) from error
    except OSError:  # the file system has no locks
        os.close(descriptor)
        raise
    os.ftruncate(descriptor, 0)  # what it says is of another life
    return descriptor


def _lock(descriptor: int, until: float) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.02)


def make_private(path: Path) -> None:
    """Make the database a file of its owner only, and prove that it can be locked.

    It holds the secret of the run tokens. SQLite gives its other files the same mode, and says
    "database is locked" of a file system that has no locks. Raises OSError. Only before SQLite has
    the file open: to close it ends every lock that this process has on it.
    """
    if path.is_dir():
        return  # SQLite tells what is wrong with it
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
    except BlockingIOError:
        pass  # another program reads it
    finally:
        os.close(descriptor)
    for suffix in ("", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        with suppress(FileNotFoundError, PermissionError):  # another user's, who lets us write
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)


def file_system(path: Path) -> str:
    """Return the kind of the file system that a file is on, such as "nfs4"."""
    import psutil  # only for this message

    partitions = [
        partition
        for partition in psutil.disk_partitions(all=True)
        if path.resolve().is_relative_to(partition.mountpoint)
    ]
    return (
        max(partitions, key=lambda partition: len(partition.mountpoint)).fstype
        if partitions
        else "unknown"
    )
