"""Files that belong to a run and are no checkpoints: streamed in and out, replaced, deleted.

    size = artifacts.put(owner, "plots/loss.png", pieces)     there whole, or not at all
    for piece in artifacts.read(owner, "plots/loss.png"): …

`open_artifacts` returns those of the storage that keeps the checkpoints. Methods block: see
`streams.py` for how an endpoint uses them.
"""

import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import quote, unquote

from llm_train.descriptors import CHUNK
from llm_train.manifest import CheckpointError, check_path

from app.errors import Conflict, InvalidInput, NotFound, Unavailable
from app.storage import files

if TYPE_CHECKING:  # the extra [s3] may not be installed
    from app.storage.objects import Bucket

_DRAFT = ".part-"


class Owner(NamedTuple):
    """The run whose files these are. The ids are the service's own, never a client's text."""

    experiment_id: str
    run_id: str


class Artifact(NamedTuple):
    """One entry of a folder. A folder's size is 0."""

    path: str
    size: int
    is_folder: bool = False


class ArtifactStorage(Protocol):
    """Keeps files of runs, by relative POSIX paths.

    Every method raises InvalidInput for a path that is none, and Unavailable if the storage
    cannot answer now.
    """

    def put(self, owner: Owner, file: str, content: Iterable[bytes]) -> int:
        """Write a file, in the place of one of this name; return its size.

        If `content` raises, nothing has changed. Raises Conflict where a folder has the name, or a
        file that of a folder on the way.
        """

    def size(self, owner: Owner, file: str) -> int:
        """Return the size of a file. Raises NotFound."""

    def read(self, owner: Owner, file: str, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes of a file from `offset` on. Raises NotFound with the first piece."""

    def list_folder(self, owner: Owner, folder: str = "") -> list[Artifact]:
        """Return what is directly in a folder, sorted by path; nothing if there is none."""

    def delete(self, owner: Owner, path: str) -> None:
        """Remove a file, or a folder with all in it. One that is not there is not an error."""

    def remove_all(self, owner: Owner) -> None:
        """Remove every file of an owner. May be repeated."""


def check(path: str) -> list[str]:
    """Return the names in a relative path. Raises InvalidInput."""
    try:
        check_path(path)
    except CheckpointError as error:
        raise InvalidInput(
            f"The path of the artifact: {error}.",
            errors=[{"pointer": "", "parameter": "path", "detail": str(error)}],
        ) from None
    names = path.split("/")
    if any(name.startswith(_DRAFT) or len(name.encode()) > 255 for name in names):
        raise InvalidInput(
            f"The path of the artifact: {path!r:.200} has a name that cannot be stored.",
            errors=[{"pointer": "", "parameter": "path", "detail": "a name cannot be stored"}],
        )
    return names


class DirectoryArtifacts:
    """Implements `ArtifactStorage` in `artifacts/` of the data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._top = data_dir.absolute() / "artifacts"

    def put(self, owner: Owner, file: str, content: Iterable[bytes]) -> int:
        *folders, name = check(file)
        with _answering(file), self._open(owner, folders, make=True) as folder:
            draft = f"{_DRAFT}{secrets.token_hex(8)}"
            opened = files.open_file(folder, draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                with os.fdopen(opened, "wb") as stream:
                    for piece in content:
                        stream.write(piece)
                    stream.flush()
                    os.fsync(opened)
                    size = stream.tell()
                os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(draft, dir_fd=folder)
                raise
            os.fsync(folder)
            return size

    def size(self, owner: Owner, file: str) -> int:
        *folders, name = check(file)
        with _answering(file), self._open(owner, folders) as folder:
            opened = files.open_file(folder, name)
            try:
                return os.fstat(opened).st_size
            finally:
                os.close(opened)

    def read(self, owner: Owner, file: str, offset: int = 0) -> Iterator[bytes]:
        *folders, name = check(file)
        with _answering(file):
            with self._open(owner, folders) as folder:
                opened = files.open_file(folder, name)
            with os.fdopen(opened, "rb") as stream:
                stream.seek(offset)
                while piece := stream.read(CHUNK):
                    yield piece

    def list_folder(self, owner: Owner, folder: str = "") -> list[Artifact]:
        names = check(folder) if folder else []
        prefix = f"{folder}/" if folder else ""
        with suppress(NotFound), _answering(folder), self._open(owner, names) as opened:
            artifacts = []
            for name in files.list_names(opened):
                status = os.stat(name, dir_fd=opened, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    artifacts.append(Artifact(prefix + name, 0, is_folder=True))
                elif stat.S_ISREG(status.st_mode) and not name.startswith(_DRAFT):
                    artifacts.append(Artifact(prefix + name, status.st_size))
            return artifacts
        return []

    def delete(self, owner: Owner, path: str) -> None:
        *folders, name = check(path)
        with suppress(NotFound), _answering(path), self._open(owner, folders) as folder:
            try:
                os.unlink(name, dir_fd=folder)
            except (IsADirectoryError, PermissionError):  # macOS has the second one
                shutil.rmtree(name, dir_fd=folder)

    def remove_all(self, owner: Owner) -> None:
        with suppress(NotFound), _answering(""), files.directory(self._top, owner[0]) as folder:
            files.remove(folder, owner.run_id)

    def _open(
        self, owner: Owner, folders: list[str], make: bool = False
    ) -> AbstractContextManager[int]:
        if make:
            with files.directory(self._top, *owner, make=True) as folder:
                _make_folders(folder, folders)
        return files.directory(self._top, *owner, *folders)


def _make_folders(folder: int, names: list[str]) -> None:
    opened = os.dup(folder)
    try:
        for name in names:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=opened)
            with files.inner(opened, name) as inner:
                os.close(opened)
                opened = os.dup(inner)
    finally:
        os.close(opened)


@contextmanager
def _answering(path: str) -> Iterator[None]:
    try:
        yield
    except (IsADirectoryError, NotADirectoryError, files.Unusable):
        raise Conflict(f"{path!r:.200} is a folder, or a file is on the way to it.") from None
    except FileNotFoundError:
        raise NotFound(f"There is no artifact {path!r:.200}.") from None
    except OSError as error:
        raise Unavailable(
            f"The artifact {path!r:.200} cannot be reached: {error.strerror}.", retry_after=5
        ) from error


class BucketArtifacts:
    """Implements `ArtifactStorage` in a bucket, under `artifacts/`."""

    def __init__(self, bucket: "Bucket") -> None:
        self._bucket = bucket

    def put(self, owner: Owner, file: str, content: Iterable[bytes]) -> int:
        key = self._key(owner, file)
        self._check_free(owner, file)
        size = 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for piece in content:
                size += len(piece)
                yield piece

        self._bucket.put_stream(key, counted())
        return size

    def _check_free(self, owner: Owner, file: str) -> None:
        """Raise Conflict where a folder has the name, or a file that of a folder on the way."""
        names = file.split("/")
        parents = ["/".join(names[:count]) for count in range(1, len(names))]
        is_below = any(self._bucket.head(self._key(owner, parent)) for parent in parents)
        if is_below or self._bucket.entries(self._key(owner, file)):
            raise Conflict(f"{file!r:.200} is a folder, or a file is on the way to it.")

    def size(self, owner: Owner, file: str) -> int:
        meta = self._bucket.head(self._key(owner, file))
        if meta is None:
            raise NotFound(f"There is no artifact {file!r:.200}.")
        return meta.size

    def read(self, owner: Owner, file: str, offset: int = 0) -> Iterator[bytes]:
        if offset >= self.size(owner, file):  # a range that begins at the end is refused
            return
        try:
            yield from self._bucket.stream(self._key(owner, file), offset)
        except FileNotFoundError:
            raise NotFound(f"There is no artifact {file!r:.200}.") from None

    def list_folder(self, owner: Owner, folder: str = "") -> list[Artifact]:
        top = self._key(owner, folder) if folder else _top(owner)
        prefix = f"{folder}/" if folder else ""
        by_name: dict[str, Artifact] = {}
        for key, entry in self._bucket.entries(top).items():
            name, is_below, _ = unquote(key.removeprefix(f"{top}/")).partition("/")
            by_name[name] = Artifact(prefix + name, 0 if is_below else entry.size, bool(is_below))
        return [by_name[name] for name in sorted(by_name)]

    def delete(self, owner: Owner, path: str) -> None:
        key = self._key(owner, path)
        self._bucket.delete([key, *self._bucket.entries(key)])

    def remove_all(self, owner: Owner) -> None:
        self._bucket.delete(self._bucket.entries(_top(owner)))

    def _key(self, owner: Owner, path: str) -> str:
        return f"{_top(owner)}/{'/'.join(map(_quote_name, check(path)))}"


def _top(owner: Owner) -> str:
    return f"artifacts/{owner.experiment_id}/{owner.run_id}"


def _quote_name(name: str) -> str:
    """Return a name as it stands in a key: stores and URLs take other characters for something."""
    return quote(name, safe=" !'()*+,=@")


def open_artifacts(storage: object, data_dir: Path) -> ArtifactStorage:
    """Return the artifacts beside the checkpoints of a storage: in its bucket, if it has one."""
    bucket = getattr(storage, "bucket", None)
    return DirectoryArtifacts(data_dir) if bucket is None else BucketArtifacts(bucket)
