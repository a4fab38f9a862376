"""The mailbox on files: the directory of an attempt, which the service reads and writes as well.

    identity.json   the agent that claimed the attempt, linked into place once; its time is the
                    pulse, by which servers on other machines know that the agent lives
    age.json        how long the attempt has run, renewed with the pulse
    stop.json       a stop or a kill is asked for
    exit.json       how the attempt ended

    ../train.log, ../dropped.json   the output of all attempts, and which bytes were dropped of it

The trainer may put links, FIFOs and directories in place of any of these: files are opened
relative to their directory, without following links and without waiting.
"""

import json
import os
import sys
import time
from functools import partial
from typing import Any

from .mailbox import Directive, ExitRecord, LaunchConfig
from .process import host_namespace, start_time

_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK
_RESERVED = ".exit.json"
_MAX_RECORD = 4096
BLOCK = 4096
"""A hole is made of whole ones."""
_LINUX = sys.platform == "linux"
_FALLOC_KEEP_SIZE_AND_PUNCH_HOLE = 3


class DirectoryMailbox:
    """The agent's side of the files. Its stdout is the run's train.log, opened for appending."""

    def __init__(self, run_dir: str, attempt: int, config: LaunchConfig) -> None:
        self.output = 1
        self.folder = open_directory(os.path.join(run_dir, f"attempt-{attempt}"))
        self._run_dir, self._config = run_dir, config
        self._log_limit = LogLimit(run_dir, config["max_log_bytes"])

    def claim(self) -> LaunchConfig | None:
        """Publish identity.json; None if another agent has done so."""
        identity = {
            "format": 1,
            "pid": os.getpid(),
            "start_time": start_time(os.getpid()),
            "place": host_namespace(),
            "nonce": self._config["nonce"],
            "stop_signal": self._config["stop_signal"],
            "grace_seconds": self._config["grace_seconds"],
            "started": time.monotonic(),
        }
        return self._config if claim(self.folder, identity) else None

    def pulse(self, ran_seconds: float) -> Directive:
        """Renew the time of identity.json and age.json, and read stop.json."""
        try:
            _write_age(self.folder, ran_seconds)
        except OSError:
            pass  # such as a full disk: the pulse must go on
        os.utime("identity.json", dir_fd=self.folder, follow_symlinks=False)
        # The listing, since a client of NFS remembers for long that a file is not there.
        if "stop.json" not in os.listdir(self.folder):
            return "go"
        opened = os.open("stop.json", os.O_RDONLY | _SAFE, dir_fd=self.folder)
        try:
            return "kill" if b'"kill": true' in os.read(opened, _MAX_RECORD) else "stop"
        finally:
            os.close(opened)

    def begin_stop(self) -> None:
        """Do nothing: the service that asked for it knows."""

    def log(self) -> None:
        """Keep train.log within its limit."""
        self._log_limit.apply()

    def prepare_finish(self) -> None:
        """Take the room for exit.json: trainers fill the disk, and their end must be recorded."""
        try:
            _write(self.folder, _RESERVED, b" " * _MAX_RECORD)
        except OSError:
            return  # it is full already: as long as it is, the end cannot be recorded

    def finish(self, record: ExitRecord) -> None:
        """Publish exit.json."""
        write_exit(self.folder, record)


def open_directory(path: str) -> int:
    """Open a directory, not through a link. What is in it is opened relative to that: the trainer
    can swap directories and leave links in them."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def claim(folder: int, identity: dict[str, Any]) -> bool:
    """Publish identity.json, whole and at most once. Return False if there is one."""
    draft = f".identity-{os.urandom(8).hex()}"
    _write(folder, draft, _encode_json(identity))
    try:
        os.link(draft, "identity.json", src_dir_fd=folder, dst_dir_fd=folder)
    except FileExistsError:
        return False
    finally:
        os.unlink(draft, dir_fd=folder)
    return True


def write_exit(folder: int, record: ExitRecord) -> None:
    """Publish exit.json, in the room that was reserved for it if there is any. Raises OSError."""
    reserved = _RESERVED if _exists(_RESERVED, folder) else None
    replace(folder, "exit.json", _encode_json(record.to_dict()), reserved)


def replace(folder: int, name: str, content: bytes, draft: "str | None" = None) -> None:
    """Write a file so that it is there whole, or not at all. Raises OSError.

    `draft`: a file to write it over, before that takes the name.
    """
    draft = draft or f".{name}-{os.urandom(8).hex()}"
    try:
        _write(folder, draft, content)
        try:
            os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
        except IsADirectoryError:
            _discard(folder, name)
            os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        _discard(folder, draft)
        raise
    os.fsync(folder)


def _discard(folder: int, name: str) -> None:
    """Remove a file; rename a directory that the trainer put in its place."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
    except OSError:
        aside = f".{name}.aside-{os.urandom(8).hex()}"
        os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)


class LogLimit:
    """Keeps what train.log takes of the disk near `most` bytes: its beginning and its end stay,
    the middle becomes a hole. So no offset changes, and no trainer blocks as at a pipe.

    dropped.json records those bytes: {"start": …, "end": …}. A line for people is at their end.
    """

    punches = True
    """False, for tests: as if the file system could not make holes."""

    def __init__(self, run_dir: str, most: int) -> None:
        self._run_dir, self._most = run_dir, most
        self._kept_from = _read_dropped(run_dir)

    def apply(self) -> None:
        """Drop the middle if the log is over its limit. Raises OSError, such as of a full disk."""
        head, tail = max(self._most // 8, BLOCK) & -BLOCK, self._most // 2
        size = os.fstat(1).st_size
        if size - self._kept_from <= self._most - head:
            return
        cut = (size - tail) & -BLOCK
        if cut > head:
            self._drop(head, cut)
        self._kept_from = cut

    def _drop(self, start: int, cut: int) -> None:
        """Drop the bytes from `start` to `cut`, and write a line that says so in the last ones."""
        line = b"\n[%d bytes of output were dropped here: the recipe's max_log_mb]\n" % (
            cut - start
        )
        folder = open_directory(self._run_dir)
        try:
            # Our own descriptor appends whatever the offset.
            path = "/proc/self/fd/1" if _LINUX else "train.log"
            log = os.open(path, os.O_RDWR | (0 if _LINUX else _SAFE), dir_fd=folder)
            try:
                dropped = {"start": start, "end": cut - len(line)}
                # In this order: who reads finds a hole on record before there are zeros, and the
                # line where it ends.
                replace(folder, "dropped.json", _encode_json(dropped))
                os.pwrite(log, line, dropped["end"])
                if not (self.punches and punch_hole(log, start, cut - BLOCK - start)):
                    self._write_end_again(folder, log, dropped)
            finally:
                os.close(log)
        finally:
            os.close(folder)

    def _write_end_again(self, folder: int, log: int, dropped: dict[str, int]) -> None:
        """Free what was dropped where the file system makes no holes, such as NFS before 4.2.

        Output between the two truncations is lost, uncounted. Who reads meanwhile waits for the
        lock; after a crash in between the record says that the log's end is gone as well.
        """
        import fcntl  # seldom needed

        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # somebody reads it: the next time is early enough
        except OSError:
            pass  # a file system without locks
        self._kept_from = os.fstat(log).st_size  # until it is there again
        moving = dropped | {"end": self._kept_from, "is_moving": True}
        replace(folder, "dropped.json", _encode_json(moving))
        cut_middle(log, dropped["start"], dropped["end"])
        replace(folder, "dropped.json", _encode_json(dropped))


def _read_dropped(run_dir: str) -> int:
    """Return the end of what earlier attempts dropped of the log; 0 if nothing tells of any.

    The trainer may have written the record: what it says of bytes that are not there yet is void.
    """
    folder = open_directory(run_dir)
    try:
        with open("dropped.json", "rb", opener=partial(_open_safely, folder)) as file:
            end = int(json.loads(file.read(_MAX_RECORD))["end"])
        return min(max(end, 0), os.fstat(1).st_size)
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return 0
    finally:
        os.close(folder)


def _open_safely(folder: int, path: str, flags: int) -> int:
    return os.open(path, flags | _SAFE, dir_fd=folder)


def cut_middle(file: int, start: int, end: int) -> None:
    """Free these bytes of a file without a hole: its end, meanwhile zeros, is written again."""
    size = os.fstat(file).st_size
    kept = os.pread(file, size - end, end)
    os.truncate(file, start)
    os.truncate(file, size)
    os.pwrite(file, kept, end)


def punch_hole(file: int, start: int, length: int) -> bool:
    """Free these bytes of a file. Return False where the file system cannot."""
    if length <= 0:
        return True
    if not _LINUX:
        return False
    import ctypes  # seldom needed

    fallocate = ctypes.CDLL(None).fallocate
    offsets = ctypes.c_long(start), ctypes.c_long(length)
    return bool(fallocate(file, _FALLOC_KEEP_SIZE_AND_PUNCH_HOLE, *offsets) == 0)


def _write_age(folder: int, seconds: float) -> None:
    """Record how long the attempt has run, for servers that cannot read this machine's clock.

    Always as many bytes: they are written over, so that this needs no room on the disk.
    """
    flags = os.O_WRONLY | os.O_CREAT | _SAFE
    descriptor = os.open("age.json", flags, 0o600, dir_fd=folder)
    try:
        os.write(descriptor, b'{"ran_seconds": %20.1f}\n' % seconds)
    finally:
        os.close(descriptor)


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def _write(folder: int, name: str, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | _SAFE
    descriptor = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        if os.write(descriptor, content) < len(content):
            raise OSError("short write")
        os.truncate(descriptor, len(content))  # fails where this is a FIFO
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode_json(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"
