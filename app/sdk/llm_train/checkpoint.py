"""Commits and verifies checkpoints on a disk: a directory holds a whole checkpoint, or none.

begin(parent, name)             a temporary directory beside the checkpoint's own
commit(temporary, name, step)   hash, fsync, manifest.json, rename, fsync: only now does it exist
verify(directory)               compare everything on disk with the manifest

`commit` renames the few files that a manifest cannot list. A symbolic link that leads to nothing
outside is kept; other links (hard links too) become copies of the file: preparing.py. manifest.py
has the manifest's format; saving.py and `Reporter.checkpoint` are what a training loop uses.

Standard library only, and nothing is ever unpickled. A directory may come from anybody: files are
opened by the names that the directory itself lists, one level at a time, and never through a
symbolic link.
"""

import errno
import itertools
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from llm_train.descriptors import (
    fsync_directory,
    open_directory,
    open_entry,
    read_link,
    read_sha256,
)
from llm_train.hashing import hash_files
from llm_train.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    NAME,
    NO_QUALITY,
    CheckpointError,
    File,
    Link,
    Manifest,
    Quality,
    build,
    check_path,
    parse,
    safe_name,
)
from llm_train.preparing import Preparation

__all__ = [
    "MANIFEST",
    "MAX_MANIFEST_BYTES",
    "NAME",
    "TAKEN",
    "CheckpointError",
    "File",
    "Link",
    "Manifest",
    "Quality",
    "begin",
    "candidate_names",
    "check_path",
    "commit",
    "is_committed",
    "load",
    "parse",
    "safe_name",
    "verify",
]

TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
"""Errors of a rename onto a name that is taken."""


def begin(parent: Path, name: str, key: str | None = None) -> Path:
    """Make a temporary directory in `parent` for the files of checkpoint `name`.

    Args:
        parent: is made if it is missing.
        name: the checkpoint's name.
        key: tells several of this name apart; with it, one that is there already is returned.
            None: a random one.

    Raises:
        ValueError: `name` cannot name a checkpoint; see `safe_name`.
        OSError: the disk refuses.

    Example:
        temporary = begin(Path("checkpoints"), "step-000100")
        torch.save(state, temporary / "state.pt")
        directory, manifest = commit(temporary, "step-000100", step=100)
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a checkpoint: use 1 to 128 of A-Z a-z 0-9 . _ -, no leading dot"
        )
    _make_directory(parent)
    temporary = parent / f".tmp-{name}-{key or secrets.token_hex(4)}"
    temporary.mkdir(exist_ok=key is not None)
    return temporary


def commit(
    temporary: Path,
    name: str,
    step: int,
    note: Callable[[str], None] = lambda message: None,
    *,
    quality: Quality = NO_QUALITY,
    hashed: Iterable[File] = (),
    attempt: int | None = None,
) -> tuple[Path, Manifest]:
    """Turn a directory from `begin` into a checkpoint; return its directory and manifest.

    Committed checkpoints never change: when `name` is taken, this one becomes `name.2`, `name.3`, …
    Empty directories are dropped. Until the rename nothing is visible under the name.

    Args:
        temporary: the directory. Links in it are kept or replaced by copies.
        name: the checkpoint's name.
        step: the step of the training loop.
        note: called with a sentence for each file that is not saved as it was written.
        quality: what the trainer knows of the model.
        hashed: files that somebody else has hashed and written to disk, such as another rank.
        attempt: which attempt of a run saves it.

    Raises:
        CheckpointError: there is nothing to commit, or something other than files, directories
            and links.
        OSError: the disk refuses.
    """
    with open_directory(temporary) as root:
        entries = dict(Preparation(temporary, note).prepare(root, ""))
        links = [Link(path, target) for path, target in entries.items() if isinstance(target, str)]
        sizes = {path: size for path, size in entries.items() if isinstance(size, int)}
        files = _hash(root, sizes, hashed)
        content = build(step, files, sorted(links), quality, attempt)
        manifest = parse(content)  # what verify would refuse is refused now
        _write_manifest(root, content)
    final = _rename_to_free(temporary, name)
    fsync_directory(final.parent)
    return final, manifest


def _hash(root: int, sizes: dict[str, int], hashed: Iterable[File]) -> list[File]:
    """Return the files by path; those that somebody else has hashed are not read again."""
    if not sizes:
        raise CheckpointError("nothing was written into the checkpoint")
    files = [file for file in hashed if sizes.get(file.path) == file.size]
    for file in files:
        del sizes[file.path]
    return sorted(files + hash_files(root, sizes))


def _write_manifest(root: int, content: bytes) -> None:
    """Write the manifest and the names beside it to the disk."""
    with open(
        MANIFEST, "xb", opener=lambda path, flags: os.open(path, flags, 0o666, dir_fd=root)
    ) as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.fsync(root)


def _rename_to_free(temporary: Path, name: str) -> Path:
    """Give the directory the first of the candidate names that is free; return its new path."""
    for candidate in candidate_names(name):
        final = temporary.with_name(candidate)
        try:
            temporary.rename(final)
            return final
        except OSError as error:  # rename itself decides, so two writers cannot both win
            if error.errno not in TAKEN:
                raise
    raise AssertionError("unreachable")


def candidate_names(name: str) -> Iterator[str]:
    """Yield the names that a checkpoint may get, in this order: `name`, `name.2`, `name.3`, …"""
    yield name
    for number in itertools.count(2):
        yield f"{name[:120]}.{number}"


def verify(directory: Path, parent: int | None = None) -> Manifest:
    """Return the manifest of `directory` after reading every byte, 1 MiB at a time.

    Args:
        directory: a committed checkpoint.
        parent: a descriptor of the directory that it is in, where the path to it is not trusted.

    Raises:
        CheckpointError: a file is missing, extra, truncated, changed or a link.
        OSError: the disk fails; that proves nothing about the checkpoint.
    """
    with open_directory(directory, parent) as root:
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


def load(directory: Path, parent: int | None = None) -> Manifest:
    """Return the manifest of `directory` without reading its files. Raises like `verify`."""
    with open_directory(directory, parent) as root:
        return _load(root)


def is_committed(directory: Path) -> bool:
    """Return True if `directory` is a checkpoint: it may be damaged since, and is not read."""
    return (directory / MANIFEST).is_file()


def _compare(
    directory: int, prefix: str, expected: dict[str, File | Link], directories: set[str]
) -> None:
    """Remove each file below `directory` from `expected`. Raises CheckpointError for others."""
    with os.scandir(directory) as entries:
        for entry in entries:
            path = prefix + entry.name
            if path in directories:
                with open_entry(directory, entry.name, path, stat.S_IFDIR) as inner:
                    _compare(inner, path + "/", expected, directories)
            elif path in expected:
                file = expected.pop(path)
                if isinstance(file, Link):
                    if read_link(directory, entry.name) != file.target:
                        raise CheckpointError(f"{path!r:.200} is not the link that was written")
                    continue
                with open_entry(directory, entry.name, path, stat.S_IFREG) as opened:
                    size = os.fstat(opened).st_size
                    if size != file.size:
                        raise CheckpointError(
                            f"{path!r:.200} has {size} bytes instead of {file.size}"
                        )
                    if read_sha256(opened, size, path) != file.sha256:
                        raise CheckpointError(
                            f"{path!r:.200} is not what was written: SHA-256 differs"
                        )
            elif path != MANIFEST:
                raise CheckpointError(f"{path!r:.200} is not in the manifest")


def _load(root: int) -> Manifest:
    """Return the manifest in an open directory."""
    with (
        open_entry(root, MANIFEST, MANIFEST, stat.S_IFREG) as opened,
        open(opened, "rb", closefd=False) as stream,
    ):
        return parse(stream.read(MAX_MANIFEST_BYTES + 1))


def _make_directory(directory: Path) -> None:
    """Make a directory and its parents so that the new names survive a power cut."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    fsync_directory(directory.parent)
