"""The event files below a run's directory, followed as they grow.

A trainer may put anything there: folders are opened relative to their parent and never through a
link, and what is no event file ends being followed. Nothing here is remembered on disk: after a
restart all is read again, and the same points change nothing.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from app.domain.event_files import (
    HEAD,
    MAX_RECORD,
    TAIL,
    NoEventFile,
    Scalar,
    parse_scalars,
    record_length,
)
from app.storage import files

MAX_FILES = 200
MAX_FOLDERS = 1_000
MAX_DEPTH = 12
READ_BYTES = 4 << 20
"""How much one call of `read` reads."""
_NAME = re.compile(r"events\.out\.tfevents\..{1,200}", re.DOTALL)


class EventFiles:
    """Follows the event files in those folders of a run's directory that a pattern names.

    `*` in the pattern stands for any name and `**` for any number of folders. Of several folders
    with the same tag the first has it, the others put their name before it.
    """

    def __init__(self, run_dir: Path, pattern: str) -> None:
        self._run_dir, self._pattern = run_dir, tuple(pattern.strip("/").split("/"))
        self._offsets: dict[str, int] = {}
        self._broken: set[str] = set()
        self._owners: dict[str, str] = {}

    def read(self, since: float) -> list[Scalar]:
        """Return new scalars whose wall time is not before `since`; [] means none for now.

        Of many it returns a part; call it again until there are none. Raises OSError.
        """
        while True:
            before = dict(self._offsets)
            values = self._read(since)
            if values or self._offsets == before:
                return values

    def _read(self, since: float) -> list[Scalar]:
        values: list[Scalar] = []
        left = READ_BYTES
        for path in self._find():
            if left <= 0:
                break
            before = self._offsets.get(path, 0)
            own = self._read_file(path, left)
            left -= self._offsets.get(path, 0) - before
            folder = path.rpartition("/")[0]
            values += [
                scalar._replace(tag=self._key(folder, scalar.tag))
                for scalar in own
                if scalar.wall_time >= since
            ]
        return values

    def _key(self, folder: str, tag: str) -> str:
        owner = self._owners.setdefault(tag, folder)
        return tag if owner == folder else f"{folder.rpartition('/')[2]}/{tag}"

    def _find(self) -> list[str]:
        """Return the paths of event files, relative to the run's directory, sorted."""
        try:
            with files.directory(self._run_dir) as folder:
                paths = sorted(self._walk(folder, "", [self._pattern], 0, [MAX_FOLDERS]))
        except FileNotFoundError:
            return []
        return [path for path in paths if path not in self._broken][:MAX_FILES]

    def _walk(
        self, folder: int, prefix: str, patterns: list[tuple[str, ...]], depth: int, left: list[int]
    ) -> Iterator[str]:
        """Yield the event files of a folder if a pattern ends here, and of those below it."""
        left[0] -= 1
        if depth > MAX_DEPTH or left[0] < 0:
            return
        is_wanted = any(pattern in ((), ("**",)) for pattern in patterns)
        for name in files.list_names(folder):
            below = [rest for pattern in patterns for rest in _match(pattern, name)]
            if is_wanted and _NAME.fullmatch(name) and files.is_file(folder, name):
                yield prefix + name
            elif below:
                try:
                    with files.inner(folder, name) as inner:
                        yield from self._walk(inner, f"{prefix}{name}/", below, depth + 1, left)
                except (files.Unusable, FileNotFoundError):
                    continue

    def _read_file(self, path: str, most: int) -> list[Scalar]:
        *folders, name = path.split("/")
        try:
            with files.directory(self._run_dir, *folders) as folder:
                opened = files.open_file(folder, name)
        except (files.Unusable, FileNotFoundError):
            return []
        values: list[Scalar] = []
        with os.fdopen(opened, "rb") as stream:
            size = os.fstat(opened).st_size
            at = start = self._offsets.get(path, 0)
            while at - start < most:
                stream.seek(at)
                head = stream.read(HEAD)
                if len(head) < HEAD:
                    break
                try:
                    length = record_length(head)
                except NoEventFile:
                    self._broken.add(path)
                    break
                if at + HEAD + length + TAIL > size:
                    break  # a record that is still being written
                if length <= MAX_RECORD:
                    values += parse_scalars(stream.read(length))
                at += HEAD + length + TAIL
            self._offsets[path] = at
        return values


def _match(pattern: tuple[str, ...], name: str) -> list[tuple[str, ...]]:
    """Return the rest of a pattern behind a folder of this name: several with `**`."""
    if not pattern:
        return []
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        return [pattern, *_match(rest, name)]
    parts = map(re.escape, first.split("*"))
    return [rest] if re.fullmatch("[^/]*".join(parts), name, re.DOTALL) else []
