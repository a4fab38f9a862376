"""Checkpoints on disk: a directory either holds a committed checkpoint, or it does not.

begin(parent, name)             a temporary directory beside where the checkpoint will stand
commit(temporary, name, step)   hash, fsync, manifest.json, rename, fsync: only now does it exist
verify(directory)               everything on disk against the manifest

A name is never a reason to lose a save: `safe_name` gives a checkpoint a name that the service
takes, and `commit` renames the few files that a manifest cannot list. A symbolic link that leads to
nothing outside is kept, other links (hard links too) become copies of the file.

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
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

MANIFEST = "manifest.json"
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")

CHUNK = 1 << 20
MAX_MANIFEST_BYTES = 4 << 20  # about 25,000 files
MAX_PATH = 1024
MAX_DEPTH = 64
TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
"""Errors of a rename onto a name that is taken."""

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_RESERVED = re.compile(r"cancel-\d+")  # promised by a cancel, before the trainer has saved it
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


class CheckpointError(Exception):
    """The directory is not a whole, unchanged checkpoint; the message says what is wrong."""


class File(NamedTuple):
    """One file: POSIX path relative to the checkpoint, size in bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


class Link(NamedTuple):
    """One symbolic link: POSIX path relative to the checkpoint, and what it says."""

    path: str
    target: str


class Manifest(NamedTuple):
    """What a committed checkpoint holds. `sha256` is that of the bytes of manifest.json."""

    step: int
    files: tuple[File, ...]
    created_at: str
    sha256: str
    links: tuple[Link, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Sum of the sizes of the files, without the manifest."""
        return sum(file.size for file in self.files)


def safe_name(name: str, default: str) -> str:
    """Return `name` where it can name a checkpoint, else what is left of it without its unsafe
    characters, or `default` where nothing is.
    """
    if not NAME.fullmatch(name):
        name = _UNSAFE.sub("-", name).lstrip(".-")[:128].rstrip("-") or default
    return f"own-{name}" if _RESERVED.fullmatch(name) else name


def begin(parent: Path, name: str) -> Path:
    """Make a temporary directory in `parent` for the files of checkpoint `name`.

    Raises ValueError when `name` cannot name a checkpoint; see `safe_name`.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a checkpoint: use 1 to 128 of A-Z a-z 0-9 . _ -, no leading dot"
        )
    _make_directory(parent)
    temporary = parent / f".tmp-{name}-{secrets.token_hex(4)}"
    temporary.mkdir()
    return temporary


def commit(
    temporary: Path, name: str, step: int, note: Callable[[str], None] = lambda message: None
) -> tuple[Path, Manifest]:
    """Turn a directory from `begin` into a checkpoint; return where it stands and its manifest.

    Committed checkpoints never change: when `name` is taken, this one becomes `name.2`, `name.3`, …
    Empty directories are dropped. Until the rename nothing is visible under the name.

    Args:
        temporary: the directory. Links in it are kept or replaced by copies.
        name: the checkpoint's name.
        step: the step of the training loop.
        note: called with a sentence for each file that is not saved as it was written.

    Raises:
        CheckpointError: there is nothing to commit, or something other than files, directories
            and links.
        OSError: the disk refuses.
    """
    with _directory(temporary) as root:
        sealing = _Sealing(temporary, note).seal(root, "")
        entries = sorted(sealing, key=lambda entry: entry.path)
        files = [entry for entry in entries if isinstance(entry, File)]
        links = [entry for entry in entries if isinstance(entry, Link)]
        if not files:
            raise CheckpointError("nothing was written into the checkpoint")
        created_at = (
            datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )
        content = json.dumps(
            {
                "format": 1,
                "step": step,
                "files": [file._asdict() for file in files],
                **({"links": [link._asdict() for link in links]} if links else {}),
                "created_at": created_at,
            },
            indent=1,
        ).encode()
        manifest = parse(content)  # what verify would refuse is refused now
        with open(
            MANIFEST, "xb", opener=lambda path, flags: os.open(path, flags, 0o666, dir_fd=root)
        ) as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.fsync(root)

    for candidate in candidate_names(name):
        final = temporary.with_name(candidate)
        try:
            temporary.rename(final)
            break
        except OSError as error:  # rename itself decides, so two writers cannot both win
            if error.errno not in TAKEN:
                raise
    _fsync_directory(final.parent)
    return final, manifest


def candidate_names(name: str) -> Iterator[str]:
    """Yield the names that a checkpoint may get, in this order: `name`, `name.2`, `name.3`, …"""
    yield name
    for number in itertools.count(2):
        yield f"{name[:120]}.{number}"


def verify(directory: Path, parent: int | None = None) -> Manifest:
    """Check that `directory` holds exactly what its manifest says; return the manifest.

    `parent`: a descriptor of the directory that it is in, where the path to it may not be trusted.

    Reads every byte, 1 MiB at a time. Raises CheckpointError for anything missing, extra,
    truncated, changed or linked; OSError where that cannot be told now.
    """
    with _directory(directory, parent) as root:
        manifest = _load(root)
        expected: dict[str, File | Link] = {file.path: file for file in manifest.files}
        expected |= {link.path: link for link in manifest.links}
        directories = {
            path[: slash.start()] for path in expected for slash in re.finditer("/", path)
        }
        _compare(root, "", expected, directories)
    if expected:
        raise CheckpointError(f"{min(expected)!r} is missing")
    return manifest


def _compare(
    directory: int, prefix: str, expected: dict[str, File | Link], directories: set[str]
) -> None:
    """Take each file found below `directory` out of `expected`; anything unexpected is an error."""
    with os.scandir(directory) as entries:
        for entry in entries:
            path = prefix + entry.name
            if path in directories:
                with _open(directory, entry.name, path, stat.S_IFDIR) as inner:
                    _compare(inner, path + "/", expected, directories)
            elif path in expected:
                file = expected.pop(path)
                if isinstance(file, Link):
                    if _read_link(directory, entry.name) != file.target:
                        raise CheckpointError(f"{path!r:.200} is not the link that was written")
                    continue
                with _open(directory, entry.name, path, stat.S_IFREG) as opened:
                    size = os.fstat(opened).st_size
                    if size != file.size:
                        raise CheckpointError(
                            f"{path!r:.200} has {size} bytes instead of {file.size}"
                        )
                    if _sha256(opened, size, path) != file.sha256:
                        raise CheckpointError(
                            f"{path!r:.200} is not what was written: SHA-256 differs"
                        )
            elif path != MANIFEST:
                raise CheckpointError(f"{path!r:.200} is not in the manifest")


class _Sealing:
    """Hashes and fsyncs everything in a directory, and makes it fit for a manifest."""

    def __init__(self, top: Path, note: Callable[[str], None]) -> None:
        self._top, self._note = top, note

    def seal(self, directory: int, prefix: str) -> Iterator[File | Link]:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            name = self._listable(directory, prefix, name)
            path = prefix + name
            check_path(path)
            target = _read_link(directory, name)
            if target is not None:
                target = self._target(path, target)
                if _stays_inside(path, target):
                    if target != _read_link(directory, name):
                        os.unlink(name, dir_fd=directory)
                        os.symlink(target, name, dir_fd=directory)
                    yield Link(path, target)
                    continue
                if not self._resolve(directory, name, path):
                    continue
            with _open(directory, name, path) as opened:
                status = os.fstat(opened)
                if stat.S_ISDIR(status.st_mode):
                    inner = list(self.seal(opened, path + "/"))
                elif status.st_nlink > 1:  # whoever has the other name could change it later
                    _copy(directory, name)
                else:
                    yield _hash_and_sync(opened, path)
                    continue
            if stat.S_ISDIR(status.st_mode):
                yield from inner
                if not inner:
                    os.rmdir(name, dir_fd=directory)
            else:
                with _open(directory, name, path, stat.S_IFREG) as opened:
                    yield _hash_and_sync(opened, path)
        os.fsync(directory)

    def _listable(self, directory: int, prefix: str, name: str) -> str:
        """Return the name, or the one that the entry gets since a manifest cannot list its own."""
        if not _NO_TEXT.search(name) and prefix + name != MANIFEST:
            return name
        wanted = os.fsencode(name).decode("utf-8", "backslashreplace")
        if prefix + wanted == MANIFEST:
            wanted += ".own"
        taken = set(os.listdir(directory))
        numbered = (wanted if n == 1 else f"{wanted}.{n}" for n in itertools.count(1))
        new = next(each for each in numbered if each not in taken)
        os.rename(name, new, src_dir_fd=directory, dst_dir_fd=directory)
        self._note(f"the checkpoint's file {prefix + name!r:.200} is saved as {new!r:.200}")
        return new

    def _target(self, path: str, target: str) -> str:
        """Return what the link says, relative where it leads into this directory by its path."""
        for top in {str(self._top), str(self._top.absolute()), str(self._top.resolve())}:
            if target.startswith(f"{top}/"):
                return os.path.relpath(target, os.path.join(top, os.path.dirname(path)))  # noqa: PTH118, PTH120
        return target

    def _resolve(self, directory: int, name: str, path: str) -> bool:
        """Replace a link that leads outside by a copy. False: to nothing, so it is dropped."""
        try:
            kind = stat.S_IFMT(os.stat(name, dir_fd=directory).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            os.unlink(name, dir_fd=directory)
            self._note(f"the checkpoint's link {path!r:.200} leads to nothing and is left out")
            return False
        if kind != stat.S_IFREG:
            raise CheckpointError(
                f"{path!r:.200} is a symbolic link to something outside of the checkpoint that is "
                "not a file"
            )
        _copy(directory, name)
        return True


def _hash_and_sync(opened: int, path: str) -> File:
    size = os.fstat(opened).st_size
    digest = _sha256(opened, size, path)
    os.fsync(opened)
    return File(path, size, digest)


def _copy(directory: int, name: str) -> None:
    """Replace a link by a copy of the file that it leads to."""
    temporary = f".copy-{secrets.token_hex(8)}"

    def opener(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, 0o600, dir_fd=directory)

    with open(name, "rb", opener=opener) as source, open(temporary, "xb", opener=opener) as copy:
        shutil.copyfileobj(source, copy, CHUNK)
        os.fchmod(copy.fileno(), stat.S_IMODE(os.fstat(source.fileno()).st_mode))
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)


def _read_link(directory: int, name: str) -> str | None:
    """Return what a symbolic link says; None for anything else."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        if error.errno == errno.ENOENT:
            raise CheckpointError(f"{name!r:.200} is missing") from None
        raise


def _stays_inside(path: str, target: str) -> bool:
    """Return True if a link at `path` leads nowhere outside, wherever other such links lead.

    So it goes up first, as far as the checkpoint's own directory at most, and then only down.
    """
    if _NO_TEXT.search(target) or not 0 < len(target) <= MAX_PATH or target.startswith("/"):
        return False
    parts = [part for part in target.split("/") if part not in ("", ".")]
    up = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    return up <= path.count("/") and ".." not in parts[up:]


def _load(root: int) -> Manifest:
    with (
        _open(root, MANIFEST, MANIFEST, stat.S_IFREG) as opened,
        open(opened, "rb", closefd=False) as stream,
    ):
        return parse(stream.read(MAX_MANIFEST_BYTES + 1))


def parse(content: bytes) -> Manifest:
    """Return the manifest that these bytes of manifest.json are. Raises CheckpointError."""
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
    links = data.get("links", [])
    if not isinstance(links, list):
        raise CheckpointError(f"{MANIFEST}: links must be a list")
    parsed_links = tuple(_parse_link(entry) for entry in links)
    for paths in ([file.path for file in parsed], [link.path for link in parsed_links]):
        if paths != sorted(set(paths)):
            raise CheckpointError(f"{MANIFEST}: files and links must be sorted by path, each once")
    if not {file.path for file in parsed}.isdisjoint(link.path for link in parsed_links):
        raise CheckpointError(f"{MANIFEST}: a path is a file and a link")
    return Manifest(step, parsed, created_at, hashlib.sha256(content).hexdigest(), parsed_links)


def _parse_file(entry: Any) -> File:
    match entry:
        case {"path": str(path), "size": int(size), "sha256": str(sha256)}:
            check_path(path)
            if type(size) is int and 0 <= size < 2**63 and _SHA256.fullmatch(sha256):
                return File(path, size, sha256)
    raise CheckpointError(f"{MANIFEST}: each file needs a path, a size in bytes and a SHA-256")


def _parse_link(entry: Any) -> Link:
    match entry:
        case {"path": str(path), "target": str(target)}:
            check_path(path)
            if _stays_inside(path, target):
                return Link(path, target)
    raise CheckpointError(f"{MANIFEST}: each link needs a path and a target in the checkpoint")


def check_path(path: str) -> None:
    """Raise CheckpointError if a manifest cannot list a file of this path."""
    parts = path.split("/")
    if len(path) > MAX_PATH or len(parts) > MAX_DEPTH:
        raise CheckpointError(f"path too long or too deep: {path[:80]!r}…")
    if _NO_TEXT.search(path) or not {"", ".", ".."}.isdisjoint(parts):
        raise CheckpointError(f"{path!r:.200} is not a plain relative path")
    if path == MANIFEST:
        raise CheckpointError(f"{MANIFEST} lists itself")


def _sha256(opened: int, size: int, path: str) -> str:
    """Hash the `size` bytes of an open file. Raises CheckpointError when there are fewer."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(min(size, CHUNK)))
    while size:
        count = os.readv(opened, [buffer[:size]])
        if not count:
            raise CheckpointError(f"{path!r:.200} became shorter while it was read")
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
            raise CheckpointError(f"{path!r:.200} is missing") from None
        if error.errno == errno.ELOOP:
            raise CheckpointError(f"{path!r:.200} is a symbolic link") from None
        if error.errno == errno.ENXIO:
            raise CheckpointError(f"{path!r:.200} is a socket or a device") from None
        raise  # tells of the disk or of this machine now, and nothing of the file
    try:
        found = stat.S_IFMT(os.fstat(opened).st_mode)
        if found not in ((stat.S_IFREG, stat.S_IFDIR) if kind is None else (kind,)):
            raise CheckpointError(
                f"{path!r:.200} is not a plain file or directory where one belongs"
            )
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
