"""The queue between a trainer and the service: each report on disk until it is acknowledged.

A trainer that is killed leaves its undelivered reports in `attempt-N/reports.jsonl`; the next
process of the attempt, or the service once the run has ended, reads them from there.
"""

import errno
import fcntl
import json
import os
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any


class Spool:
    """A queue of encoded batches that survives a server restart and, with a path, SIGKILL.

    With `path` every batch is a line of that file before it is sent, memory holds only positions,
    and the file shrinks to one acknowledged batch whenever all is delivered, so that the next
    process knows the number to continue from. Without one, or while the disk is full, batches are
    in memory; `in_memory` then asks the caller to keep them few. Thread-safe.
    """

    def __init__(self, path: Path | None, identity: dict[str, Any]) -> None:
        """Open the file and queue what it holds.

        Raises:
            BlockingIOError: another process has this spool open.
            OSError: the disk fails.
        """
        self._identity = identity
        self._items: deque[bytes | tuple[int, int]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._file = -1
        self._end = 0
        self.in_memory = path is None
        self.last_batch = 0
        if path is not None:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._recover(path)
            except OSError:
                self.close()
                raise

    def __len__(self) -> int:
        """Return the number of batches that are not acknowledged."""
        return len(self._items)

    def append(self, line: bytes) -> None:
        """Queue one batch: a line of JSON with its newline."""
        with self._changed:
            if self._closed:
                return
            if not self.in_memory:
                try:
                    if os.pwrite(self._file, line, self._end) < len(line):
                        raise OSError(errno.ENOSPC, "disk full")
                    self._items.append((self._end, len(line)))
                    self._end += len(line)
                except OSError:
                    self.in_memory = True
                    with suppress(OSError):
                        os.ftruncate(self._file, self._end)
            if self.in_memory:
                self._items.append(line)
            self._changed.notify_all()

    def head(self, timeout: float) -> bytes | None:
        """Return the oldest batch, or None if there is none for `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout)
            if not self._items:
                return None
            item = self._items[0]
            return item if isinstance(item, bytes) else os.pread(self._file, item[1], item[0])

    def pop(self, batch: int) -> None:
        """Remove the head: the service has everything up to this `batch`."""
        with self._changed:
            if self._closed:
                return
            self._items.popleft()
            if not self._items and self._file >= 0:
                mark = json.dumps({**self._identity, "batch": batch}).encode() + b"\n"
                try:
                    os.pwrite(self._file, mark, 0)
                    os.ftruncate(self._file, len(mark))
                    self._end, self.in_memory = len(mark), False
                except OSError:
                    self.in_memory = True
            self._changed.notify_all()

    def wait_empty(self, timeout: float) -> bool:
        """Wait until every batch is acknowledged, for at most `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._items, timeout)

    def close(self) -> None:
        """Close the file. Undelivered batches stay in it."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self.close_after_fork()
            self._changed.notify_all()

    def close_after_fork(self) -> None:
        """Close the file in a forked child, without the lock, which a lost thread may hold."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _recover(self, path: Path) -> None:
        """Queue the batches of an earlier process of this attempt; cut off a torn last line."""
        offset = 0
        with path.open("rb") as lines:
            for line in lines:
                try:
                    batch = json.loads(line)["batch"]
                except (ValueError, TypeError, KeyError):
                    batch = None
                if isinstance(batch, int) and line.endswith(b"\n"):
                    self._items.append((offset, len(line)))
                    self._end = offset + len(line)
                    self.last_batch = max(self.last_batch, batch)
                offset += len(line)
        os.ftruncate(self._file, self._end)
