"""A run's train.log: what its trainers printed, read in parts.

The file is the trainer's. An offset counts every byte that was printed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app import files
from app.errors import NotFound


def size(run_dir: Path) -> int:
    """Return the offset of the end; 0 when there is no log yet. Raises NotFound."""
    try:
        with _open(run_dir) as log:
            return os.fstat(log).st_size
    except FileNotFoundError:
        return 0


def read(run_dir: Path, offset: int, most: int) -> bytes:
    """Return up to `most` bytes from `offset`; nothing at the end or beyond it.

    Raises NotFound when the trainer has put something else in the place of its log.
    """
    try:
        with _open(run_dir) as log:
            if offset >= os.fstat(log).st_size:  # some file systems cannot even seek that far
                return b""
            return os.pread(log, most, offset)
    except FileNotFoundError:
        return b""


@contextmanager
def _open(run_dir: Path) -> Iterator[int]:
    try:
        with files.directory(run_dir.parent, run_dir.name) as folder:
            log = files.open_file(folder, "train.log")
    except files.Unusable as error:
        raise NotFound(f"The log cannot be shown: {error.strerror}.") from error
    try:
        yield log
    finally:
        os.close(log)
