"""Checkpoints between this machine and the service, file by file.

`Uploads.run` sends what the trainer has committed (a directory with manifest.json), oldest first:
each file, then the manifest, which is the commit. `download` fetches the checkpoint to start from,
and compares every byte with its manifest.
"""

import hashlib
import json
import os
import sys
import threading
import time
from typing import Any
from urllib.parse import quote

from .client import Client, Refused, Unreachable

MANIFEST = "manifest.json"
CHUNK = 1 << 20
MAX_MANIFEST_BYTES = 4 << 20
PATIENCE_SECONDS = 600.0


class DownloadError(Exception):
    """The checkpoint cannot be had; the message says why."""


class Uploads:
    """The checkpoints of one directory. What was sent is not sent again."""

    def __init__(self, client: Client, path: str, directory: str) -> None:
        self._client, self._path, self._directory = client, f"{path}/checkpoints", directory
        self._done: set[str] = set()  # names
        self._sent: set[tuple[str, str]] = set()  # names and files of one that is under way
        self.is_shared_work = False  # True: the trainer uploads, and this what it has left
        self._lock = threading.Lock()

    def run(self) -> None:
        """Upload what is committed here and not there. Raises OSError; Refused if it is over."""
        with self._lock:
            for name, content in self._list_waiting():
                try:
                    self._upload(name, content)
                except Refused as error:
                    if error.code in ("stale_attempt", "run_finished", "not_found"):
                        raise
                    if error.answer.get("files"):
                        self._sent = {sent for sent in self._sent if sent[0] != name}
                        raise Unreachable(str(error)) from error
                    sys.stderr.write(f"llm-train agent: checkpoint {name} is not taken: {error}\n")
                self._done.add(name)

    def _list_waiting(self) -> "list[tuple[str, bytes]]":
        """Return names and manifests of the checkpoints that were not uploaded, oldest first."""
        waiting = []
        for name in os.listdir(self._directory) if self._directory else ():
            if name.startswith(".") or name in self._done:
                continue
            path = os.path.join(self._directory, name, MANIFEST)
            try:
                with open(path, "rb") as file:
                    content = file.read(MAX_MANIFEST_BYTES + 1)
                waiting.append((os.stat(path).st_mtime_ns, name, content))
            except (FileNotFoundError, NotADirectoryError):
                continue  # not a checkpoint
        return [(name, content) for _, name, content in sorted(waiting)]

    def _is_committed(self, name: str, content: bytes) -> bool:
        """Return True if the trainer's own upload has arrived: a commit says so by itself."""
        try:
            self._client.post(f"{self._path}/{name}/commit", content, json_type=True)
        except Refused as error:
            if error.answer.get("files"):
                return False
            raise
        return True

    def _upload(self, name: str, content: bytes) -> None:
        if self.is_shared_work and self._is_committed(name, content):
            return
        for entry in _parse_files(content):
            path = entry["path"]
            if (name, path) in self._sent:
                continue
            local = os.path.join(self._directory, name, path)
            with open(local, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._client.put(f"{self._path}/{name}/files/{quote(path)}", file, size)
            self._sent.add((name, path))
        self._client.post(f"{self._path}/{name}/commit", content, json_type=True)


def download(client: Client, path: str, directory: str) -> None:
    """Fetch a checkpoint into a directory, and verify it. Raises DownloadError.

    The service may be away for PATIENCE_SECONDS.
    """
    content = _fetch(client, f"{path}/{MANIFEST}", None)
    assert content is not None
    try:
        entries = _parse_files(content)
        links = [
            (_check_path(link["path"]), str(link["target"]))
            for link in json.loads(content).get("links", [])
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DownloadError(f"its manifest cannot be read ({error})") from None
    for entry in entries:
        local = os.path.join(directory, entry["path"])
        os.makedirs(os.path.dirname(local), exist_ok=True)
        _fetch(client, f"{path}/{quote(entry['path'])}", local, entry)
    for path_of_link, target in links:
        local = os.path.join(directory, path_of_link)
        if os.path.normpath(os.path.join(os.path.dirname(path_of_link), target)).startswith(
            ("/", "..")
        ):
            raise DownloadError(f"a link leads outside: {path_of_link!r:.200}")
        os.makedirs(os.path.dirname(local), exist_ok=True)
        os.symlink(target, local)
    with open(os.path.join(directory, MANIFEST), "wb") as file:
        file.write(content)


def _fetch(
    client: Client, path: str, local: "str | None", entry: "dict[str, Any] | None" = None
) -> "bytes | None":
    """Return the content of a small file; of one with `entry`, write and verify it."""
    deadline, pause, damaged = time.monotonic() + PATIENCE_SECONDS, 0.5, 0
    while True:
        try:
            with client.get(path) as body:
                if local is None or entry is None:
                    return body.read(MAX_MANIFEST_BYTES)
                if _copy(body, local) == (entry["size"], entry["sha256"]):
                    return None
                trouble = f"{entry['path']!r:.200} is not what was saved"
                damaged += 1  # or cut off on the way
        except Refused as error:
            raise DownloadError(str(error)) from None
        except Unreachable as error:
            trouble = str(error)
        except OSError as error:  # the network's or the disk's
            trouble = str(error)
        if time.monotonic() > deadline or damaged > 2:
            raise DownloadError(trouble)
        time.sleep(pause)
        pause = min(2 * pause, 8.0)


def _copy(body: Any, local: str) -> "tuple[int, str]":
    digest, size = hashlib.sha256(), 0
    with open(local, "wb") as file:
        while piece := body.read(CHUNK):
            digest.update(piece)
            size += len(piece)
            file.write(piece)
    return size, digest.hexdigest()


def _parse_files(content: bytes) -> "list[dict[str, Any]]":
    """Return the files that a manifest lists. Raises ValueError, TypeError, KeyError."""
    return [
        {"path": _check_path(file["path"]), "size": file["size"], "sha256": file["sha256"]}
        for file in json.loads(content)["files"]
    ]


def _check_path(path: str) -> str:
    if path.startswith("/") or not {"", ".", ".."}.isdisjoint(path.split("/")) or "\0" in path:
        raise ValueError(f"{path!r:.200} is not a plain relative path")
    return path
