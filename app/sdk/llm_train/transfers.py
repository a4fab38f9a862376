"""Checkpoints between this machine and a bucket, by URLs that the service signs.

Uploader     sends committed checkpoints in the background; the service commits them in the bucket
fetch        brings a checkpoint into a cache, verified, keyed by its manifest's SHA-256

This side holds no credentials. A URL lasts an hour: one that has expired is asked for again, and
what has arrived is not sent twice. While the service or the bucket is away, uploads wait, and the
copy here stays. Standard library only.
"""

import base64
import fcntl
import hashlib
import math
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from llm_train.buffer import warn
from llm_train.checkpoint import load, verify
from llm_train.connection import ApiConnection, Response, explain, proxy_of
from llm_train.descriptors import CHUNK
from llm_train.manifest import MANIFEST, CheckpointError, parse
from llm_train.threads import run_all

TIMEOUT_SECONDS = 60.0
PAUSE_SECONDS = 1.0, 30.0
MAX_ANSWER_BYTES = 64 << 20
PATIENCE_SECONDS = 30.0
"""For so long what is in the way of the last uploads is waited out."""
CACHE_SECONDS = 7 * 86_400.0
_EXPIRED = (401, 403)


class Service(NamedTuple):
    """Access to the service for the files of one run."""

    api_url: str
    run_id: str
    token: str
    identity: dict[str, Any]
    """The fields `attempt` or `session`, as in every report."""

    def ask(self, path: str, body: bytes | None = None) -> Response:
        """Send a request below `/v1/runs/{run_id}`. Never raises for what the network does."""
        query = urlencode(self.identity)
        resource = f"/v1/runs/{self.run_id}{path}?{query}"
        with closing(
            ApiConnection(self.api_url, resource, self.token, MAX_ANSWER_BYTES)
        ) as connection:
            return connection.get() if body is None else connection.post(body)


class Uploader:
    """Uploads checkpoints one after the other, in a daemon thread."""

    def __init__(self, service: Service, declare: Callable[[dict[str, Any]], None]) -> None:
        """`declare`: called with a checkpoint that the service has no bucket for."""
        self._service, self._declare = service, declare
        self._queue: queue.SimpleQueue[tuple[Path, dict[str, Any]]] = queue.SimpleQueue()
        self._left = 0
        self._trouble_since = math.inf
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="checkpoint-uploads", daemon=True).start()

    def add(self, directory: Path, report: dict[str, Any]) -> None:
        """Queue a committed checkpoint; `report` is what the service is told of it."""
        with self._changed:
            self._left += 1
        self._queue.put((directory, report))

    def wait(self, patience: float = PATIENCE_SECONDS) -> bool:
        """Wait until all is uploaded, however long that takes while it moves on.

        Returns False if the service or the bucket has not answered for `patience` seconds.
        """
        with self._changed:
            while self._left:
                if time.monotonic() - self._trouble_since > patience:
                    warn(f"{self._left} checkpoints are not uploaded; they stay here")
                    return False
                self._changed.wait(0.2)
        return True

    def _run(self) -> None:
        while True:
            directory, report = self._queue.get()
            try:
                self._upload(directory, report)
            except Exception as error:  # one bad checkpoint must not keep the others here
                warn(f"checkpoint {directory.name} is not uploaded ({error!r}); it stays here")
            self._trouble_since = math.inf
            with self._changed:
                self._left -= 1
                self._changed.notify_all()

    def _upload(self, directory: Path, report: dict[str, Any]) -> None:
        """Upload one checkpoint, for as long as it takes."""
        content = (directory / MANIFEST).read_bytes()
        pause, warned = PAUSE_SECONDS[0], False
        while True:
            trouble = self._try(directory, content, report)
            if trouble is None:
                return
            self._trouble_since = min(self._trouble_since, time.monotonic())
            if not warned:
                warn(f"checkpoint {directory.name} waits to be uploaded: {trouble}")
                warned = True
            time.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS[1])

    def _try(self, directory: Path, content: bytes, report: dict[str, Any]) -> str | None:
        """Send what is missing, and commit. Return what is in the way for now, or None."""
        path = f"/checkpoints/{directory.name}"
        while True:
            answer = self._service.ask(f"{path}/uploads", content)
            if not answer.delivered:
                return self._refused(directory, answer)
            uploads = answer.body.get("uploads")
            if uploads is None:
                self._declare(report)
                return None
            if not uploads:
                break
            try:
                put_all(directory, answer.body, uploads)
            except Unreachable as error:
                return str(error)
            self._trouble_since = math.inf
        answer = self._service.ask(f"{path}/commit", content)
        return None if answer.delivered else self._refused(directory, answer)

    def _refused(self, directory: Path, answer: Response) -> str | None:
        if answer.is_retryable or answer.body.get("files"):
            return answer.reason
        warn(f"checkpoint {directory.name} is not taken ({answer.reason}); it stays here")
        return None


class Unreachable(Exception):
    """The bucket does not answer, or not yet; the message says how."""


def put_all(directory: Path, answer: dict[str, Any], uploads: list[dict[str, Any]]) -> None:
    """Send pieces of files to their URLs, then ask for the next. Raises Unreachable, OSError."""
    put = partial(_put, directory, answer.get("headers") or {})
    if not any(run_all(put, uploads)):
        raise Unreachable("the bucket refuses every URL as expired; are the clocks right?")


class _Slice:
    """A part of a file as the body of a request."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file = path.open("rb")
        self._file.seek(offset)
        self._left = size

    def read(self, most: int = -1) -> bytes:
        most = min(self._left if most < 0 else most, self._left, CHUNK)
        content = self._file.read(most)
        self._left -= len(content)
        return content

    def close(self) -> None:
        self._file.close()


def _put(directory: Path, more: dict[str, str], upload: dict[str, Any]) -> bool:
    """Send one piece of a file; the bucket compares its MD5. Raises Unreachable, OSError.

    Returns False if its URL is refused, as one is that has expired.
    """
    path, size = directory / upload["file"], upload["size"]
    digest = hashlib.md5(usedforsecurity=False)
    with closing(_Slice(path, upload["offset"], size)) as body:
        while content := body.read():
            digest.update(content)
    headers = {
        "Content-Length": str(size),
        "Content-MD5": base64.b64encode(digest.digest()).decode(),
        **more,
    }
    with (
        closing(_Slice(path, upload["offset"], size)) as body,
        _open("PUT", upload["url"], body, headers) as response,
    ):
        text = response.read(2000)
        if response.status >= 300 and response.status not in _EXPIRED:
            raise Unreachable(f"the bucket answers {response.status}: {text[:300]!r}")
        return bool(response.status < 300)


@contextmanager
def _open(
    method: str, url: str, body: Any = None, headers: "dict[str, str] | None" = None
) -> Iterator[Any]:
    """Yield the response to a request. Raises Unreachable for what the network does."""
    import http.client

    parts = urlsplit(url)
    secure, host = parts.scheme == "https", parts.hostname or ""
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    target = f"{parts.path}?{parts.query}"
    headers = dict(headers or {})
    try:
        proxy = proxy_of(parts.scheme, host, parts.port)
        if proxy is None:
            connection = kind(host, parts.port, timeout=TIMEOUT_SECONDS)
        else:
            connection = kind(proxy.host, proxy.port, timeout=TIMEOUT_SECONDS)
            if secure:
                connection.set_tunnel(host, parts.port, proxy.headers)
            else:
                target, headers = url, {**headers, **proxy.headers}
        with closing(connection):
            connection.request(method, target, body, headers)
            yield connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{parts.scheme}://{host}: {explain(error)}") from error


def is_complete(directory: Path) -> bool:
    """Return True if a directory holds a checkpoint with all its files, in their sizes."""
    try:
        listed = load(directory).files
        return all((directory / file.path).stat().st_size == file.size for file in listed)
    except (CheckpointError, OSError):
        return False


def cache_directory() -> Path:
    """Return where downloaded checkpoints are kept for the processes of this machine."""
    top = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(top, "llm-train", "checkpoints")


def fetch(service: Service, cache: Path, patience: float = 600.0) -> Path:
    """Return the directory of the checkpoint that the run starts from, in the cache.

    It is there whole and verified, or not at all; of several processes one downloads it.

    Raises:
        ConnectionError: service or bucket do not answer for `patience` seconds.
        FileNotFoundError: the service has no such files, or they are not what was saved.
    """
    deadline = time.monotonic() + patience
    while True:
        answer = service.ask("/resume")
        if answer.delivered:
            final = cache / str(answer.body["sha256"])
            try:
                return _fetch(answer, final)
            except Unreachable as error:
                trouble = str(error)
        elif answer.is_retryable:
            trouble = answer.reason
        else:
            raise FileNotFoundError(f"the checkpoint cannot be had: {answer.reason}")
        if time.monotonic() > deadline:
            raise ConnectionError(f"the checkpoint cannot be downloaded: {trouble}")
        time.sleep(max(PAUSE_SECONDS[0], answer.retry_after))


def _fetch(answer: Response, final: Path) -> Path:
    """Download what `answer` lists, unless another process has. Raises Unreachable."""
    final.parent.mkdir(parents=True, exist_ok=True)
    _drop_old(final.parent)
    with final.with_name(f"{final.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if final.is_dir():
            os.utime(final)
            return final
        content = str(answer.body["manifest"]).encode()
        manifest = parse(content)
        if manifest.sha256 != final.name:
            raise FileNotFoundError("the service sends another manifest than it names")
        temporary = final.with_name(f".tmp-{final.name}")
        for file in manifest.files:
            path = temporary / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as opened:
                opened.truncate(file.size)
        run_all(partial(_get, temporary), answer.body["downloads"])
        for link in manifest.links:
            path = temporary / link.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                path.symlink_to(link.target)
        (temporary / MANIFEST).write_bytes(content)
        try:
            verify(temporary)
        except CheckpointError as error:
            shutil.rmtree(temporary)
            raise Unreachable(f"what came is not what was saved: {error}") from None
        temporary.rename(final)
        return final


def _drop_old(cache: Path) -> None:
    """Remove checkpoints that no process has asked for in a week."""
    for entry in cache.iterdir():
        with suppress(OSError):
            if time.time() - entry.stat().st_mtime > CACHE_SECONDS and entry.is_dir():
                shutil.rmtree(entry)


def _get(directory: Path, download: dict[str, Any]) -> None:
    """Write one piece of a file. Raises Unreachable."""
    left = download["size"]
    with (
        _open("GET", download["url"]) as response,
        (directory / download["file"]).open("r+b") as file,
    ):
        if response.status != 200:
            raise Unreachable(f"the bucket answers {response.status}: {response.read(300)!r}")
        file.seek(download["offset"])
        while left and (content := response.read(min(left, CHUNK))):
            file.write(content)
            left -= len(content)
    if left:
        raise Unreachable("the bucket's answer was cut off")
