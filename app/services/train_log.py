"""A run's train.log: what its trainers printed, read in parts.

The file is the trainer's. An offset counts every byte that was printed, also those that the agent
has dropped since (`LogLimit` in app/agent/directory.py), which are passed over.

read(…), size(…)    for those who look
measure(…)          what it takes of the disk
append(…)           the output of an agent that does not share the service's files, piece by piece
remove(…)           what retention no longer keeps

Where the output of such an attempt begins stands in `log_owner.json` beside the log, before its
first byte does: so the log's size alone says what has arrived, also after a crash.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from app.agent.directory import BLOCK, cut_middle, punch_hole
from app.errors import LogOffset, NotFound, StaleAttempt
from app.storage import files

PATIENCE_SECONDS = 1.0
_OWNER = "log_owner.json"
_DROPPED = "dropped.json"


class Part(NamedTuple):
    """Some of a log, and the offset of what follows it."""

    content: bytes
    next_offset: int


class _Dropped(NamedTuple):
    """The offsets of what was dropped; `is_moving`: what follows is written again just now."""

    range: range
    is_moving: bool


class _Log(NamedTuple):
    folder: int
    descriptor: int
    size: int


def measure_size(run_dir: Path) -> int:
    """Return the offset of the end; 0 when there is no log yet. Raises NotFound."""
    try:
        with _open(run_dir) as log:
            return log.size
    except FileNotFoundError:
        return 0


def measure(run_dir: Path) -> int:
    """Return the bytes that a log takes of the disk; 0 if there is none that could be read."""
    try:
        with _open(run_dir) as log:
            return os.fstat(log.descriptor).st_blocks * 512  # whatever the blocks of the disk are
    except (OSError, NotFound):
        return 0


def read(run_dir: Path, offset: int, most: int) -> Part:
    """Return up to `most` bytes from `offset`, or from the first after it that was not dropped;
    nothing at the end or beyond it.

    Raises NotFound when the trainer has put something else in the place of its log.
    """
    try:
        with _open(run_dir) as log:
            if offset >= log.size:  # some file systems cannot even seek that far
                return Part(b"", offset)
            dropped, is_locked = _read_dropped(log.folder), False
            while True:
                # Where holes cannot be made the end is written again, and is zeros meanwhile.
                if dropped.is_moving and not is_locked:
                    is_locked = _lock_to_read(log.descriptor)
                    if not is_locked:
                        return Part(b"", offset)
                    dropped = _read_dropped(log.folder)
                part = _read(log, offset, most, dropped.range)
                before, dropped = dropped, _read_dropped(log.folder)
                if dropped == before:  # else it may have been dropped while it was read: as zeros
                    return part
    except FileNotFoundError:
        return Part(b"", offset)


def _lock_to_read(log: int) -> bool:
    """Lock a log until it is closed, so that nobody drops some of it; return False if somebody
    still does after a second.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        except OSError:  # a file system without locks
            return True
        else:
            return True


def _read(log: _Log, offset: int, most: int, dropped: range) -> Part:
    if offset in dropped:
        offset = dropped.stop
    elif offset < dropped.start:
        most = min(most, dropped.start - offset)
    content = os.pread(log.descriptor, most, offset)
    return Part(content, offset + len(content))


@contextmanager
def _open(run_dir: Path) -> Iterator[_Log]:
    try:
        with files.directory(run_dir.parent, run_dir.name) as folder:
            descriptor = files.open_file(folder, "train.log")
            try:
                yield _Log(folder, descriptor, os.fstat(descriptor).st_size)
            finally:
                os.close(descriptor)
    except files.Unusable as error:
        raise NotFound(f"The log cannot be shown: {error.strerror}.") from error


def _read_dropped(folder: int) -> _Dropped:
    """Return the offsets of what the agent has dropped; empty where nothing tells of any."""
    try:
        record = json.loads(files.read(folder, _DROPPED, 1024))
        dropped = range(int(record["start"]), int(record["end"]))
        return _Dropped(dropped, bool(record.get("is_moving")))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return _Dropped(range(0), False)


def append(run_dir: Path, attempt: int, offset: int, content: bytes, most: int) -> int:
    """Add output of an attempt to the log, and return how much of the attempt's is there then.

    The log takes about `most` bytes of the disk; the middle of a longer one is dropped.

    Args:
        offset: where `content` begins in the attempt's output. What is there already is passed
            over, so a piece may be sent again.

    Raises:
        LogOffset: there would be a gap; its `offset` says where the output goes on.
        StaleAttempt: a later attempt has begun to write.
        NotFound: the trainer has put something else in the place of the log.
        OSError: the disk refuses.
    """
    with _own(run_dir, attempt) as (folder, log, start):
        end = os.fstat(log).st_size
        there = end - start
        if offset > there or offset + len(content) < there:
            raise LogOffset(f"The output goes on at byte {there}.", offset=there)
        rest = memoryview(content)[there - offset :]
        while rest:
            written = os.pwrite(log, rest, end)
            rest, end = rest[written:], end + written
        _drop_middle(folder, log, end, most)
        return end - start


def remove(run_dir: Path) -> None:
    """Remove a log; nothing if there is none. A directory in its place is somebody's, and stays.

    Raises OSError.
    """
    try:
        with files.directory(run_dir.parent, run_dir.name) as folder:
            for name in ("train.log", _DROPPED, _OWNER):
                if files.exists(folder, name) and not files.is_directory(folder, name):
                    files.remove(folder, name)
            os.fsync(folder)
    except (FileNotFoundError, files.Unusable):
        return


def measure_received(run_dir: Path, attempt: int) -> tuple[int, int]:
    """Return where the output of an attempt begins in the log, and how much of it is there.

    Raises like `append`.
    """
    with _own(run_dir, attempt) as (_, log, start):
        return start, os.fstat(log).st_size - start


@contextmanager
def _own(run_dir: Path, attempt: int) -> Iterator[tuple[int, int, int]]:
    """Yield the run's directory, its log, locked, and where the attempt's output begins."""
    try:
        with files.directory(run_dir.parent, run_dir.name, make=True) as folder:
            log = files.open_file(folder, "train.log", os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(log, fcntl.LOCK_EX)  # one writer, of whichever server
                yield folder, log, _start(folder, log, attempt)
            finally:
                os.close(log)
    except files.Unusable as error:
        raise NotFound(f"The log cannot be written: {error.strerror}.") from error


def _start(folder: int, log: int, attempt: int) -> int:
    """Return where the output of the attempt begins: at the log's end, if it is new."""
    try:
        record = json.loads(files.read(folder, _OWNER, 1024))
        owner, start = int(record["attempt"]), int(record["start"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        owner, start = 0, 0
    if owner > attempt:
        raise StaleAttempt(f"Attempt {attempt} of this run is over.", attempt=owner)
    if owner < attempt:
        start = os.fstat(log).st_size
        files.write(folder, _OWNER, json.dumps({"attempt": attempt, "start": start}).encode())
    return start


def _drop_middle(folder: int, log: int, size: int, most: int) -> None:
    """Make a hole of the middle of a log that is too long, as the agent does where it can."""
    head, tail = max(most // 8, BLOCK) & -BLOCK, most // 2
    kept_from = _read_dropped(folder).range.stop
    cut = (size - tail) & -BLOCK
    if size - kept_from <= most - head or cut <= head:
        return
    said = b"\n[%d bytes of output were dropped here: the recipe's max_log_mb]\n" % (cut - head)
    record = {"start": head, "end": cut - len(said)}
    # In this order: who reads finds a hole on record before there are zeros, and the line where it
    # ends.
    files.write(folder, _DROPPED, json.dumps(record).encode())
    os.pwrite(log, said, record["end"])
    if not punch_hole(log, head, cut - BLOCK - head):
        # The log is locked. After a crash in between its end is on record as dropped, too.
        moving = record | {"end": size, "is_moving": True}
        files.write(folder, _DROPPED, json.dumps(moving).encode())
        cut_middle(log, head, record["end"])
        files.write(folder, _DROPPED, json.dumps(record).encode())
