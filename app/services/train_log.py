"""A run's train.log: what its trainers printed, read in parts.

The file is the trainer's. An offset counts every byte that was printed, also those that the wrapper
has dropped since (`_limit_log` in app/agent/wrapper.py), which are passed over.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from app import files
from app.errors import NotFound


class Part(NamedTuple):
    """Some of a log, and the offset of what follows it."""

    content: bytes
    next_offset: int


class _Log(NamedTuple):
    descriptor: int
    size: int
    dropped: range


def size(run_dir: Path) -> int:
    """Return the offset of the end; 0 when there is no log yet. Raises NotFound."""
    try:
        with _open(run_dir) as log:
            return log.size
    except FileNotFoundError:
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
            if offset in log.dropped:
                offset = log.dropped.stop
            elif offset < log.dropped.start:
                most = min(most, log.dropped.start - offset)
            content = os.pread(log.descriptor, most, offset)
            return Part(content, offset + len(content))
    except FileNotFoundError:
        return Part(b"", offset)


@contextmanager
def _open(run_dir: Path) -> Iterator[_Log]:
    try:
        with files.directory(run_dir.parent, run_dir.name) as folder:
            descriptor = files.open_file(folder, "train.log")
            dropped = _dropped(folder)
    except files.Unusable as error:
        raise NotFound(f"The log cannot be shown: {error.strerror}.") from error
    try:
        yield _Log(descriptor, os.fstat(descriptor).st_size, dropped)
    finally:
        os.close(descriptor)


def _dropped(folder: int) -> range:
    """Return the offsets of what the wrapper has dropped; empty where nothing tells of any."""
    try:
        record = json.loads(files.read(folder, "dropped.json", 1024))
        return range(int(record["start"]), int(record["end"]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return range(0)
