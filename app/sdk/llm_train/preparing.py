"""Prepares what a training wrote for a manifest: renames, copies or drops what none can list.

Nothing is followed out of the directory: files are opened by the names that it lists itself, one
level at a time.
"""

import itertools
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from llm_train.descriptors import CHUNK, open_entry, read_link
from llm_train.manifest import MANIFEST, UNLISTABLE, CheckpointError, check_path, stays_inside


class Preparation:
    """Prepares everything in a directory for a manifest, and its directories with fsync."""

    def __init__(self, top: Path, note: Callable[[str], None]) -> None:
        self._top, self._note = top, note

    def prepare(self, directory: int, prefix: str) -> Iterator[tuple[str, int | str]]:
        """Yield the path of each entry of the manifest with a file's size or a link's target;
        rename, copy or drop what it cannot list."""
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            name = self._listable(directory, prefix, name)
            path = prefix + name
            check_path(path)
            target = read_link(directory, name)
            if target is not None:
                target = self._target(path, target)
                if stays_inside(path, target):
                    if target != read_link(directory, name):
                        os.unlink(name, dir_fd=directory)
                        os.symlink(target, name, dir_fd=directory)
                    yield path, target
                    continue
                if not self._resolve(directory, name, path):
                    continue
            with open_entry(directory, name, path) as opened:
                status = os.fstat(opened)
                if stat.S_ISDIR(status.st_mode):
                    inner = list(self.prepare(opened, path + "/"))
                elif status.st_nlink > 1:  # the file could be changed by its other name
                    _copy(directory, name)
                else:
                    yield path, status.st_size
                    continue
            if stat.S_ISDIR(status.st_mode):
                yield from inner
                if not inner:
                    os.rmdir(name, dir_fd=directory)
            else:
                with open_entry(directory, name, path, stat.S_IFREG) as opened:
                    yield path, os.fstat(opened).st_size
        os.fsync(directory)

    def _listable(self, directory: int, prefix: str, name: str) -> str:
        """Return the name, or a new one if a manifest cannot list it."""
        if not UNLISTABLE.search(name) and prefix + name != MANIFEST:
            return name
        wanted = os.fsencode(name).decode("utf-8", "backslashreplace")
        if prefix + wanted == MANIFEST:
            wanted += ".own"
        taken = set(os.listdir(directory))
        numbered = (wanted if n == 1 else f"{wanted}.{n}" for n in itertools.count(1))
        new = next(name for name in numbered if name not in taken)
        os.rename(name, new, src_dir_fd=directory, dst_dir_fd=directory)
        self._note(f"the checkpoint's file {prefix + name!r:.200} is saved as {new!r:.200}")
        return new

    def _target(self, path: str, target: str) -> str:
        """Return the link's target, made relative if it is an absolute path into this directory."""
        for top in {str(self._top), str(self._top.absolute()), str(self._top.resolve())}:
            if target.startswith(f"{top}/"):
                return os.path.relpath(target, os.path.join(top, os.path.dirname(path)))  # noqa: PTH118, PTH120
        return target

    def _resolve(self, directory: int, name: str, path: str) -> bool:
        """Replace a link that leads outside by a copy. Return False if it leads to nothing."""
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


def _copy(directory: int, name: str) -> None:
    """Replace a link by a copy of the file that it leads to."""
    temporary = f".copy-{secrets.token_hex(8)}"

    def opener(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, 0o600, dir_fd=directory)

    with open(name, "rb", opener=opener) as source, open(temporary, "xb", opener=opener) as copy:
        shutil.copyfileobj(source, copy, CHUNK)
        os.fchmod(copy.fileno(), stat.S_IMODE(os.fstat(source.fileno()).st_mode))
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
