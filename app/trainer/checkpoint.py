"""Checkpoints on disk: a directory either holds a committed checkpoint, or it does not.

begin(parent, name)             a temporary directory beside where the checkpoint will stand
commit(temporary, name, step)   hash, fsync, manifest.json, rename, fsync: only now does it exist
verify(directory)               everything on disk against the manifest

Standard library only, nothing is ever unpickled, and what is read may come from anybody: the only
names ever opened are those that the directory itself lists, one level at a time and never through
a symbolic link.
"""

import errno
import hashlib
import itertools
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

MANIFEST = "manifest.json"
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")

CHUNK = 1 << 20
MAX_MANIFEST_BYTES = 4 << 20  # about 25,000 files
MAX_PATH = 1024
MAX_DEPTH = 16

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SHA256 = re.compile(r"[0-9a-f]{64}")


class CheckpointError(Exception):
    """The directory is not a whole, unchanged checkpoint; the message says what is wrong."""


class File(NamedTuple):
    """One file: POSIX path relative to the checkpoint, size in bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


class Manifest(NamedTuple):
    """What a committed checkpoint holds. `sha256` is that of the bytes of manifest.json."""

    step: int
    files: tuple[File, ...]
    created_at: str
    sha256: str

    @property
    def size_bytes(self) -> int:
        """Sum of the sizes of the files, without the manifest."""
        return sum(file.size for file in self.files)


def begin(parent: Path, name: str) -> Path:
    """Make a temporary directory in `parent` for the files of checkpoint `name`.

    Raises ValueError when `name` cannot name a checkpoint.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a checkpoint: use 1 to 128 of A-Z a-z 0-9 . _ -, no leading dot"
        )
    _make_directory(parent)
    temporary = parent / f".tmp-{name}-{secrets.token_hex(4)}"
    temporary.mkdir()
    return temporary


def commit(temporary: Path, name: str, step: int) -> tuple[Path, Manifest]:
    """Turn a directory from `begin` into a checkpoint; return where it stands and its manifest.

    Committed checkpoints never change: when `name` is taken, this one becomes `name.2`, `name.3`, …
    Empty directories are dropped. Raises CheckpointError when there is nothing to commit, or
    something other than plain files and directories; OSError when the disk refuses. Until the
    rename nothing is visible under the name.
    """
    with _directory(temporary) as root:
        files = sorted(_seal(root, ""), key=lambda file: file.path)
        if not files:
            raise CheckpointError("nothing was written into the checkpoint")
        created_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        content = json.dumps(
            {
                "format": 1,
                "step": step,
                "files": [
                    {"path": file.path, "size": file.size, "sha256": file.sha256} for file in files
                ],
                "created_at": created_at,
            },
            indent=1,
        ).encode()
        manifest = _parse(content)  # what verify would refuse is refused now
        with open(
            MANIFEST, "xb", opener=lambda path, flags: os.open(path, flags, 0o666, dir_fd=root)
        ) as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.fsync(root)

    for number in itertools.count(1):
        final = temporary.with_name(name if number == 1 else f"{name[:120]}.{number}")
        try:
            temporary.rename(final)
            break
        except OSError as error:  # rename itself decides, so two writers cannot both win
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
    _fsync_directory(final.parent)
    return final, manifest


def verify(directory: Path, parent: int | None = None) -> Manifest:
    """Check that `directory` holds exactly what its manifest says; return the manifest.

    `parent`: a descriptor of the directory that it is in, where the path to it may not be trusted.

    Reads every byte, 1 MiB at a time. Raises CheckpointError for anything missing, extra,
    truncated, changed or linked; OSError where that cannot be told now.
    """
    with _directory(directory, parent) as root:
        manifest = _load(root)
        expected = {file.path: file for file in manifest.files}
        directories = {
            path[: slash.start()] for path in expected for slash in re.finditer("/", path)
        }
        _compare(root, "", expected, directories)
    if expected:
        raise CheckpointError(f"{min(expected)!r} is missing")
    return manifest


def _compare(directory: int, prefix: str, expected: dict[str, File], directories: set[str]) -> None:
    """Take each file found below `directory` out of `expected`; anything unexpected is an error."""
    with os.scandir(directory) as entries:
        for entry in entries:
            path = prefix + entry.name
            if path in directories:
                with _open(directory, entry.name, path, stat.S_IFDIR) as inner:
                    _compare(inner, path + "/", expected, directories)
            elif path in expected:
                file = expected.pop(path)
                with _open(directory, entry.name, path, stat.S_IFREG) as opened:
                    size = os.fstat(opened).st_size
                    if size != file.size:
                        raise CheckpointError(f"{path!r} has {size} bytes instead of {file.size}")
                    if _sha256(opened, size, path) != file.sha256:
                        raise CheckpointError(f"{path!r} is not what was written: SHA-256 differs")
            elif path != MANIFEST:
                raise CheckpointError(f"{path!r} is not in the manifest")


def _seal(directory: int, prefix: str) -> Iterator[File]:
    """Hash and fsync all that is below `directory`."""
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        path = prefix + name
        if path == MANIFEST:
            raise CheckpointError(f"{MANIFEST} belongs to the commit; give that file another name")
        _check_path(path)
        with _open(directory, name, path) as opened:
            status = os.fstat(opened)
            if stat.S_ISREG(status.st_mode):
                yield File(path, status.st_size, _sha256(opened, status.st_size, path))
                os.fsync(opened)
                continue
            inner = list(_seal(opened, path + "/"))
            yield from inner
        if not inner:
            os.rmdir(name, dir_fd=directory)
    os.fsync(directory)


def _load(root: int) -> Manifest:
    with (
        _open(root, MANIFEST, MANIFEST, stat.S_IFREG) as opened,
        open(opened, "rb", closefd=False) as stream,
    ):
        return _parse(stream.read(MAX_MANIFEST_BYTES + 1))


def _parse(content: bytes) -> Manifest:
    """Validate the bytes of a manifest. Raises CheckpointError."""
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
    paths = [file.path for file in parsed]
    if paths != sorted(set(paths)):
        raise CheckpointError(f"{MANIFEST}: files must be sorted by path, each once")
    return Manifest(step, parsed, created_at, hashlib.sha256(content).hexdigest())


def _parse_file(entry: Any) -> File:
    match entry:
        case {"path": str(path), "size": int(size), "sha256": str(sha256)}:
            _check_path(path)
            if type(size) is int and 0 <= size < 2**63 and _SHA256.fullmatch(sha256):
                return File(path, size, sha256)
    raise CheckpointError(f"{MANIFEST}: each file needs a path, a size in bytes and a SHA-256")


def _check_path(path: str) -> None:
    parts = path.split("/")
    if len(path) > MAX_PATH or len(parts) > MAX_DEPTH:
        raise CheckpointError(f"path too long or too deep: {path[:80]!r}…")
    if "\\" in path or not path.isprintable() or not {"", ".", ".."}.isdisjoint(parts):
        raise CheckpointError(f"{path!r} is not a plain relative path")
    if path == MANIFEST:
        raise CheckpointError(f"{MANIFEST} lists itself")


def _sha256(opened: int, size: int, path: str) -> str:
    """Hash the `size` bytes of an open file. Raises CheckpointError when there are fewer."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(min(size, CHUNK)))
    while size:
        count = os.readv(opened, [buffer[:size]])
        if not count:
            raise CheckpointError(f"{path!r} became shorter while it was read")
        digest.update(buffer[:count])
        size -= count
    return digest.hexdigest()


@contextmanager
def _open(directory: int, name: str, path: str, kind: int | None = None) -> Iterator[int]:
    """Open one entry of an open directory; a link, a device or the wrong kind is an error."""
    try:
        opened = os.open(name, _OPEN, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise CheckpointError(f"{path!r} is missing") from None
        if error.errno == errno.ELOOP:
            raise CheckpointError(f"{path!r} is a symbolic link") from None
        if error.errno == errno.ENXIO:
            raise CheckpointError(f"{path!r} is a socket or a device") from None
        raise  # tells of the disk or of this machine now, and nothing of the file
    try:
        found = stat.S_IFMT(os.fstat(opened).st_mode)
        if found not in ((stat.S_IFREG, stat.S_IFDIR) if kind is None else (kind,)):
            raise CheckpointError(f"{path!r} is not a plain file or directory where one belongs")
        yield opened
    finally:
        os.close(opened)


@contextmanager
def _directory(directory: Path, parent: int | None = None) -> Iterator[int]:
    name = directory if parent is None else directory.name
    try:
        opened = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=parent)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"no checkpoint directory at {str(directory)!r}: {reason}") from None
    except OSError as error:
        if error.errno == errno.ELOOP and directory.is_symlink():
            raise CheckpointError(
                f"no checkpoint directory at {str(directory)!r}: a link"
            ) from None
        raise
    try:
        yield opened
    finally:
        os.close(opened)


def _make_directory(directory: Path) -> None:
    """Like mkdir -p, but the new names survive a power cut."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    _fsync_directory(directory.parent)


def _fsync_directory(directory: Path) -> None:
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
