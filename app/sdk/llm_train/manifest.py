"""The manifest of a checkpoint: its files, sizes and SHA-256, and what may be in it.

`build` makes the bytes of a manifest.json, and `parse` validates them, which may come from anybody;
checkpoint.py compares them with a directory.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from llm_train.values import MAX_KEY_LENGTH, NOT_FINITE

MANIFEST = "manifest.json"
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")

MAX_MANIFEST_BYTES = 4 << 20  # about 25,000 files
MAX_PATH = 1024
MAX_DEPTH = 64
MAX_METRICS = 200

UNLISTABLE = re.compile("[\0\ud800-\udfff]")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_RESERVED = re.compile(r"cancel-\d+")  # promised by a cancel, before the trainer has saved it


class CheckpointError(Exception):
    """The directory is not a whole, unchanged checkpoint; the message says what is wrong."""


class File(NamedTuple):
    """One file: POSIX path relative to the checkpoint, size in bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


class Link(NamedTuple):
    """One symbolic link: POSIX path relative to the checkpoint, and its target."""

    path: str
    target: str


class Quality(NamedTuple):
    """The trainer's knowledge of the model in a checkpoint.

    `healthy`: False if the weights hold NaN or an infinity; None: they were not checked.
    """

    metrics: Mapping[str, float] = {}
    healthy: bool | None = None


NO_QUALITY = Quality()


class Manifest(NamedTuple):
    """The files of a committed checkpoint. `sha256` is the hash of manifest.json itself.

    `attempt`: which attempt of a run has saved it; None: the manifest does not say.
    """

    step: int
    files: tuple[File, ...]
    created_at: str
    sha256: str
    links: tuple[Link, ...] = ()
    quality: Quality = NO_QUALITY
    attempt: int | None = None

    @property
    def size_bytes(self) -> int:
        """Return the sum of the sizes of the files, without the manifest."""
        return sum(file.size for file in self.files)


def safe_name(name: str, default: str) -> str:
    """Return `name` if it can name a checkpoint, else its safe characters.

    Args:
        name: 1 to 128 of `A-Z a-z 0-9 . _ -` without a leading dot are safe.
        default: returned if nothing safe is left.
    """
    if not NAME.fullmatch(name):
        name = _UNSAFE.sub("-", name).lstrip(".-")[:128].rstrip("-") or default
    return f"own-{name}" if _RESERVED.fullmatch(name) else name


def build(
    step: int,
    files: Sequence[File],
    links: Sequence[Link] = (),
    quality: Quality = NO_QUALITY,
    attempt: int | None = None,
) -> bytes:
    """Return the bytes of a manifest.json.

    Args:
        step: the step of the training loop.
        files: sorted by path, as are `links`.
        links: the symbolic links.
        quality: what the trainer knows of the model.
        attempt: which attempt of the run saves it; None: of a trainer that was not launched.
    """
    created_at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    content = {
        "format": 1,
        "step": step,
        "files": [file._asdict() for file in files],
        **({"links": [link._asdict() for link in links]} if links else {}),
        **({"metrics": _to_json(quality.metrics)} if quality.metrics else {}),
        **({} if attempt is None else {"attempt": attempt}),
        **({} if quality.healthy is None else {"healthy": quality.healthy}),
        "created_at": created_at.replace("+00:00", "Z"),
    }
    return json.dumps(content, indent=1).encode()


def parse(content: bytes) -> Manifest:
    """Return the manifest in the bytes of a manifest.json.

    Raises:
        CheckpointError: they are not a manifest of format 1; the message says why.
    """
    if len(content) > MAX_MANIFEST_BYTES:
        raise CheckpointError(f"{MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        data: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{MANIFEST} is not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("format") != 1:
        raise CheckpointError(f"{MANIFEST} is not of format 1")
    step, files, created_at = data.get("step"), data.get("files"), data.get("created_at")
    if type(step) is not int or not 0 <= step < 2**63:
        raise CheckpointError(f"{MANIFEST}: step must be a whole number from 0")
    if type(created_at) is not str or len(created_at) > 64:
        raise CheckpointError(f"{MANIFEST}: created_at must be a time")
    if not isinstance(files, list) or not files:
        raise CheckpointError(f"{MANIFEST}: files must be a list that is not empty")
    parsed = tuple(_parse_file(entry) for entry in files)
    links, attempt = data.get("links", []), data.get("attempt")
    if attempt is not None and (type(attempt) is not int or not 0 < attempt < 2**31):
        raise CheckpointError(f"{MANIFEST}: attempt must be a whole number from 1")
    if not isinstance(links, list):
        raise CheckpointError(f"{MANIFEST}: links must be a list")
    parsed_links = tuple(_parse_link(entry) for entry in links)
    for paths in ([file.path for file in parsed], [link.path for link in parsed_links]):
        if paths != sorted(set(paths)):
            raise CheckpointError(f"{MANIFEST}: files and links must be sorted by path, each once")
    if not {file.path for file in parsed}.isdisjoint(link.path for link in parsed_links):
        raise CheckpointError(f"{MANIFEST}: a path is a file and a link")
    sha256 = hashlib.sha256(content).hexdigest()
    quality = _parse_quality(data)
    return Manifest(step, parsed, created_at, sha256, parsed_links, quality, attempt)


def _to_json(metrics: Mapping[str, float]) -> dict[str, float | str]:
    return {
        key: value if math.isfinite(value) else NOT_FINITE[str(value)]
        for key, value in metrics.items()
    }


def _parse_quality(data: dict[str, Any]) -> Quality:
    """Return what a manifest says of the model. Raises CheckpointError."""
    metrics, healthy = data.get("metrics", {}), data.get("healthy")
    wrong = CheckpointError(f"{MANIFEST}: metrics must be at most {MAX_METRICS} numbers by name")
    if not isinstance(metrics, dict) or len(metrics) > MAX_METRICS:
        raise wrong
    if healthy is not None and type(healthy) is not bool:
        raise CheckpointError(f"{MANIFEST}: healthy must be true or false")
    parsed = {}
    for key, value in metrics.items():
        is_text = isinstance(value, str)
        if value not in NOT_FINITE.values() if is_text else type(value) not in (int, float):
            raise wrong
        try:
            parsed[key] = float(value)
        except OverflowError:
            raise wrong from None
        if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isprintable():
            raise wrong
    return Quality(parsed, healthy)


def _parse_file(entry: Any) -> File:
    """Return one entry of `files`. Raises CheckpointError."""
    match entry:
        case {"path": str(path), "size": int(size), "sha256": str(sha256)}:
            check_path(path)
            if type(size) is int and 0 <= size < 2**63 and _SHA256.fullmatch(sha256):
                return File(path, size, sha256)
    raise CheckpointError(f"{MANIFEST}: each file needs a path, a size in bytes and a SHA-256")


def _parse_link(entry: Any) -> Link:
    """Return one entry of `links`. Raises CheckpointError."""
    match entry:
        case {"path": str(path), "target": str(target)}:
            check_path(path)
            if stays_inside(path, target):
                return Link(path, target)
    raise CheckpointError(f"{MANIFEST}: each link needs a path and a target in the checkpoint")


def check_path(path: str) -> None:
    """Raise CheckpointError if a manifest cannot list a file of this path."""
    parts = path.split("/")
    if len(path) > MAX_PATH or len(parts) > MAX_DEPTH:
        raise CheckpointError(f"path too long or too deep: {path[:80]!r}…")
    if UNLISTABLE.search(path) or not {"", ".", ".."}.isdisjoint(parts):
        raise CheckpointError(f"{path!r:.200} is not a plain relative path")
    if path == MANIFEST:
        raise CheckpointError(f"{MANIFEST} lists itself")


def stays_inside(path: str, target: str) -> bool:
    """Return True if a link at `path` stays in the checkpoint, wherever other such links lead.

    It may go up first, as far as the checkpoint's own directory, and then only down.
    """
    if UNLISTABLE.search(target) or not 0 < len(target) <= MAX_PATH or target.startswith("/"):
        return False
    parts = [part for part in target.split("/") if part not in ("", ".")]
    up = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    return up <= path.count("/") and ".." not in parts[up:]
