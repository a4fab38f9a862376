"""How batches reach the server: each at least once, in order, and harmlessly again.

Spool    numbered batches in order until each is acknowledged; on disk, so SIGKILL loses none
Link     one keep-alive connection; a post is answered, worth another try, or refused: this
         batch only, or all that could follow. Only this service refuses: an answer without one of
         its codes (a proxy's page) is no answer
"""

import base64
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
from urllib.parse import unquote, urlsplit

from llm_train.buffer import warn

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
    """`status` 0: no answer of this service came, and `trouble` says what did.

    `retry_after` in seconds. `too_large`: something on the way takes no body of this size.
    """

    status: int
    answer: dict[str, Any]
    retry_after: float = 0.0
    trouble: str = ""
    too_large: bool = False

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

    @property
    def code(self) -> str:
        """The service's code of a refusal."""
        return str(self.answer.get("code", ""))

    @property
    def why(self) -> str:
        """What a person should know of a reply that is not a success."""
        if not self.status:
            return self.trouble
        reason = self.answer.get("detail") or self.code or self.trouble or "no reason given"
        return f"{self.status}: {reason}"


class Link:
    """JSON from and to one path over one connection that is kept open. For one thread.

    Goes through the proxy that HTTPS_PROXY or HTTP_PROXY names, unless NO_PROXY excepts the
    server; a server on this machine is always reached directly.
    """

    def __init__(self, api_url: str, path: str, token: str) -> None:
        """Raises ValueError when these cannot make a request to http(s)://host[:port]/prefix."""
        token = token.strip()
        if not _SENDABLE.fullmatch(token):
            raise ValueError("the run's token must be printable ASCII without spaces")
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._connection: http.client.HTTPConnection | None = None
        self._target, self._more = "", dict[str, str]()
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
        at = f"[{host}]" if ":" in host else host
        self._origin = f"{parts.scheme}://{at}" + (f":{port}" if port else "")

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
                    return Reply(0, {}, trouble=f"{self._origin}: {explain(error)}")
                # The server had closed an idle connection: that says nothing about a new one.

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> None:
        """Make the connection that requests are sent over, and the target they name."""
        import http.client

        scheme = "https" if self._secure else "http"
        proxy = proxy_of(scheme, self._host, self._port)
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        if proxy is None:
            self._connection = kind(self._host, self._port, timeout=TIMEOUT_SECONDS)
            self._target, self._more = self._path, {}
        elif self._secure:
            self._connection = kind(proxy.host, proxy.port, timeout=TIMEOUT_SECONDS)
            self._connection.set_tunnel(self._host, self._port, proxy.headers)
            self._target, self._more = self._path, {}
        else:
            self._connection = kind(proxy.host, proxy.port, timeout=TIMEOUT_SECONDS)
            self._target, self._more = self._origin + self._path, proxy.headers

    def _exchange(self, method: str, body: bytes | None) -> Reply:
        import http.client

        if self._connection is None:
            self._connect()
        assert self._connection is not None
        self._connection.request(method, self._target, body, {**self._headers, **self._more})
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
        try:
            delay = float(response.headers.get("Retry-After", 0))
        except ValueError:  # an HTTP date: the back-off will do
            delay = 0.0
        delay = min(max(delay, 0.0), MAX_RETRY_AFTER_SECONDS)
        # A page of a proxy, whatever its status, is no acknowledgement, and no refusal.
        ours = isinstance(answer.get("code"), str) or (200 <= status < 300 and answer)
        if ours or status in (408, 429) or status >= 500:
            return Reply(status, answer, delay, f"{self._origin}: {status}", status == 413)
        where = response.headers.get("Location")
        trouble = (
            f"{self._origin}{self._path} answers {status}"
            + (f" and names {where!r:.200}" if where else "")
            + ", and not as this service does: check the address in LLM_TRAIN_API_URL, its prefix "
            "too, and any proxy"
        )
        return Reply(0, {}, delay, trouble, status == 413)


class Proxy(NamedTuple):
    """Where a proxy listens, and the headers that it wants."""

    host: str
    port: int
    headers: dict[str, str]


def proxy_of(scheme: str, host: str, port: int | None) -> Proxy | None:
    """Return the proxy that the environment names for a server, or None for a direct connection.

    A proxy whose URL is none of http://[user:password@]host[:port] is not used, with a warning.
    """
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    import urllib.request  # only where there may be a proxy

    url = urllib.request.getproxies_environment()
    named = url.get(scheme) or url.get("all")
    if not named or _is_loopback(host):
        return None
    if urllib.request.proxy_bypass(f"{host}:{port}" if port else host):
        return None
    try:
        parts = urlsplit(named if "://" in named else f"http://{named}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError
        at, headers = parts.port or 80, {}
    except ValueError:
        warn(f"the proxy of {scheme} must be http://host[:port], so it is not used")
        return None
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    return Proxy(parts.hostname, at, headers)


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host) is not None


def explain(error: Exception) -> str:
    """Return why a connection failed, and what a person can do about it."""
    if isinstance(error, TimeoutError):
        return "it gave no answer in time"
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}); if your own authority "
            "signed it, name that one's file in SSL_CERT_FILE"
        )
    return str(error) or type(error).__name__
