"""How batches reach the server: each at least once, in order, and harmlessly again.

Spool    numbered batches in order until each is acknowledged; on disk, so SIGKILL loses none
Link     one keep-alive connection; a post is answered, worth another try, or refused: this
         batch only, or all that could follow
"""

import errno
import fcntl
import json
import os
import re
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import http.client

TIMEOUT_SECONDS = 10.0
MAX_ANSWER_BYTES = 1 << 20
MAX_RETRY_AFTER_SECONDS = 60.0
_FINAL = (401, 403, 404, 409)
_SENDABLE = re.compile("[!-~]+")


class Spool:
    """A queue of encoded batches that a server restart, and with a path also SIGKILL, cannot empty.

    With `path` every batch is a line of that file before anybody tries to send it, memory holds
    only positions, and the file shrinks to one acknowledged heartbeat whenever all is delivered:
    whoever opens it next (a trainer restarted within the attempt, the server when the run has
    ended) finds what is owed and the number to go on from. Without, or when the disk is full, the
    batches are in memory and `in_memory` asks the caller to keep them few. Thread-safe.
    """

    def __init__(self, path: Path | None, identity: dict[str, Any]) -> None:
        """Raises BlockingIOError when another process has this spool; OSError from the disk."""
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
        """The oldest batch; None when `timeout` seconds brought none."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout)
            if not self._items:
                return None
            item = self._items[0]
            return item if isinstance(item, bytes) else os.pread(self._file, item[1], item[0])

    def pop(self, batch: int) -> None:
        """The head is acknowledged: the server has everything up to this `batch`."""
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
        """Let go of the file. What is undelivered stays in it."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self.abandon()
            self._changed.notify_all()

    def abandon(self) -> None:
        """Close the file without any lock: for a forked child, where nobody would release one."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _recover(self, path: Path) -> None:
        """Queue what an earlier process of this attempt left; a torn last line is overwritten."""
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


class Reply(NamedTuple):
    """`status` 0: no whole answer came. `retry_after` in seconds."""

    status: int
    answer: dict[str, Any]
    retry_after: float = 0.0

    @property
    def delivered(self) -> bool:
        return 200 <= self.status < 300

    @property
    def worth_retrying(self) -> bool:
        return self.status in (0, 408, 429) or self.status >= 500

    @property
    def of_batch(self) -> bool:
        """Refused for what this batch says, and not whatever we say: not this run's token, no
        such run, a later attempt, its end."""
        return 400 <= self.status < 500 and self.status not in (*_FINAL, 408, 429)


class Link:
    """JSON from and to one path over one connection that is kept open. For one thread."""

    def __init__(self, api_url: str, path: str, token: str) -> None:
        """Raises ValueError when these cannot make a request to http(s)://host[:port]/prefix."""
        token = token.strip()
        if not _SENDABLE.fullmatch(token):
            raise ValueError("the run's token must be printable ASCII without spaces")
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._connection: http.client.HTTPConnection | None = None
        self._resource = path
        self.aim(api_url)

    def aim(self, api_url: str) -> None:
        """POST to this server from now on. Raises ValueError, having changed nothing."""
        parts = urlsplit(api_url.strip())
        try:
            host = (parts.hostname or "").encode("idna").decode()
        except UnicodeError:
            host = ""
        path = parts.path.rstrip("/") + self._resource
        if parts.scheme not in ("http", "https") or not _SENDABLE.fullmatch(host):
            raise ValueError(f"the API's URL must be http(s)://host[:port], not {api_url!r}")
        if not _SENDABLE.fullmatch(path):
            raise ValueError(f"{path!r} must be printable ASCII without spaces")
        port = parts.port
        self.close()
        self._secure, self._host, self._port = parts.scheme == "https", host, port
        self._path = path

    def get(self) -> Reply:
        """Ask for what is there. Never raises for what the network or the server does."""
        return self._ask("GET", None)

    def post(self, body: bytes) -> Reply:
        """Send one batch. Never raises for what the network or the server does."""
        return self._ask("POST", body)

    def _ask(self, method: str, body: bytes | None) -> Reply:
        import http.client  # 60 ms that a trainer's start does not wait for

        while True:
            reused = self._connection is not None
            try:
                return self._exchange(method, body)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if not reused or isinstance(error, TimeoutError):
                    return Reply(0, {})
                # The server had closed an idle connection: that says nothing about a new one.

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, method: str, body: bytes | None) -> Reply:
        import http.client

        if self._connection is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            self._connection = kind(self._host, self._port, timeout=TIMEOUT_SECONDS)
        self._connection.request(method, self._path, body, self._headers)
        response = self._connection.getresponse()
        content = response.read(MAX_ANSWER_BYTES)
        if not response.isclosed():
            raise http.client.HTTPException("the answer is too long")
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        status = response.status
        if not isinstance(answer, dict):
            answer = {}
        if status < 400 or status in _FINAL:
            # A page of a proxy whose service is away is no acknowledgement, and no refusal.
            ours = (200 <= status < 300 and answer) or "code" in answer
            status = status if ours else 0
        try:
            delay = float(response.headers.get("Retry-After", 0))
        except ValueError:  # an HTTP date: the back-off will do
            delay = 0.0
        return Reply(status, answer, min(max(delay, 0.0), MAX_RETRY_AFTER_SECONDS))
