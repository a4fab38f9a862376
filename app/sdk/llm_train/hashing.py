"""Hashes the files of a checkpoint, several at a time, and writes them to disk.

SHA-256 takes a second for 1.7 GB and leaves the interpreter free meanwhile, so threads help where
a checkpoint has more than one large file.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from llm_train.descriptors import open_entry, read_sha256
from llm_train.manifest import File
from llm_train.threads import run_all

THREADS = 8
SMALL_BYTES = 8 << 20
"""Below so many bytes in all, threads cost more than they save."""


def hash_files(root: int, sizes: Mapping[str, int]) -> list[File]:
    """Return the entries of these files below an open directory; they are on disk then.

    Raises:
        CheckpointError: one is missing, shorter than its size, or no plain file.
        OSError: the disk fails.
    """
    threads = min(THREADS, os.cpu_count() or 1, len(sizes))
    if threads < 2 or sum(sizes.values()) < SMALL_BYTES:
        return [_hash(root, path, size) for path, size in sizes.items()]
    largest_first = sorted(sizes.items(), key=lambda item: -item[1])
    return run_all(lambda item: _hash(root, *item), largest_first, threads)


def _hash(root: int, path: str, size: int) -> File:
    with _open_path(root, path) as opened:
        digest = read_sha256(opened, size, path)
        os.fsync(opened)
        return File(path, size, digest)


@contextmanager
def _open_path(root: int, path: str) -> Iterator[int]:
    """Open a file below an open directory, level by level and through no link."""
    *folders, name = path.split("/")
    if not folders:
        with open_entry(root, name, path, stat.S_IFREG) as opened:
            yield opened
        return
    with (
        open_entry(root, folders[0], path, stat.S_IFDIR) as folder,
        _open_path(folder, path.partition("/")[2]) as opened,
    ):
        yield opened
