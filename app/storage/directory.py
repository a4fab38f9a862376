"""Checkpoints in the data directory: `ckpts/{experiment_id}/{run_id}/{name}/`.

The manifest and the commit protocol are the trainer's (`llm_train.checkpoint`): trainers of this
machine save there by themselves, and others through `begin`, `write` and `commit`. A trainer may
put links and worse there, so every directory below `ckpts` is opened relative to its parent and
never through a link (`app.storage.files`, `app.storage.trees`).
"""

import errno
import itertools
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from llm_train import checkpoint
from llm_train.descriptors import CHUNK
from llm_train.manifest import (
    MANIFEST,
    CheckpointError,
    Manifest,
    check_path,
    parse,
)

from app.domain import paths
from app.domain.paths import CheckpointPath
from app.errors import CheckpointUnreadable
from app.storage import data_dir as data_dirs
from app.storage import files
from app.storage.base import Abandoned, Committed, Damaged, Draft, is_key
from app.storage.trees import (
    complete,
    file_size,
    fill,
    has_manifest,
    manifest_digest,
    replace_file,
    tree_size,
)

_DRAFT, _TRASH = ".tmp-", ".trash-"
_NO_PLACE = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR)


class DirectoryStorage:
    """Implements `CheckpointStorage` in the data directory. URL: `directory:`."""

    def __init__(self, url: str, data_dir: Path) -> None:
        if url.partition(":")[2]:
            raise ValueError(
                f"LLM_TRAIN_STORAGE: {url!r}: this storage is in LLM_TRAIN_DATA_DIR and has no "
                "place of its own"
            )
        self._data_dir = data_dir.absolute()
        self._top = self._data_dir / "ckpts"

    def prepare(self) -> None:
        """Do nothing: `data_dir.make` has looked at the directory."""

    def begin(self, path: CheckpointPath, key: str | None = None) -> Draft:
        draft = Draft(path, secrets.token_hex(4) if key is None else key)
        with _answering(path, "written"):
            with suppress(FileNotFoundError), self._open_run(path):
                pass  # a link in the place of the run's directory ends here
            if not is_key(draft.key):
                raise CheckpointError(f"{draft.key!r:.200} is no key of a draft")
            checkpoint.begin(self._directory(path).parent, path.name, draft.key)
        return draft

    def write(self, draft: Draft, file: str, content: Iterable[bytes], offset: int = 0) -> int:
        with _answering(draft.path, "written"), ExitStack() as stack:
            check_path(file)
            folder = stack.enter_context(self._open_draft(draft))
            *directories, name = file.split("/")
            try:
                for directory in directories:
                    with suppress(FileExistsError):
                        os.mkdir(directory, dir_fd=folder)
                    folder = stack.enter_context(files.inner(folder, directory))
                if not offset:
                    return replace_file(folder, name, content)
                opened = files.open_file(folder, name, os.O_WRONLY | os.O_CREAT)
            except OSError as error:
                if error.errno in _NO_PLACE or isinstance(error, files.Unusable):
                    raise CheckpointError(f"{file!r:.200}: {error.strerror}") from None
                raise
            with os.fdopen(opened, "wb") as stream:
                if offset > os.fstat(opened).st_size:
                    raise CheckpointError(f"{file!r:.200} has fewer than {offset} bytes")
                os.ftruncate(opened, offset)
                stream.seek(offset)
                return fill(stream, content)

    def commit(self, draft: Draft, content: bytes) -> Committed:
        path = draft.path
        with _answering(path, "committed"):
            manifest = parse(content)
            names = checkpoint.candidate_names(path.name)
            with suppress(FileNotFoundError), self._open_run(path) as parent:
                for name in itertools.takewhile(lambda name: files.exists(parent, name), names):
                    if manifest_digest(parent, name) == manifest.sha256:
                        self.abandon(draft)  # the answer was lost, or two have sent it
                        return Committed(path._replace(name=name), manifest)
            with self._open_draft(draft) as folder:
                complete(folder, manifest, content)
            with self._open_run(path) as parent:
                name = self._publish(parent, draft)
                os.fsync(parent)
        return Committed(path._replace(name=name), manifest)

    def _publish(self, parent: int, draft: Draft) -> str:
        """Rename a whole draft to the first name that is free, and return that."""
        temporary = self._temporary(draft).name
        for name in checkpoint.candidate_names(draft.path.name):
            try:
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
                return name
            except OSError as error:  # rename itself decides, so two writers cannot both win
                if error.errno not in checkpoint.TAKEN:
                    raise
        raise AssertionError("there is always another name")

    def abandon(self, draft: Draft) -> None:
        name = self._temporary(draft).name
        missing = suppress(FileNotFoundError, NotADirectoryError)
        with _answering(draft.path, "removed"), missing, self._open_run(draft.path) as folder:
            shutil.rmtree(name, dir_fd=folder)

    def remove_drafts(self, experiment_id: str, run_id: str) -> None:
        path = CheckpointPath(experiment_id, run_id, "")
        missing = suppress(FileNotFoundError, NotADirectoryError)
        with _answering(path, "removed"), missing, self._open_run(path) as folder:
            for name in files.list_names(folder):
                if name.startswith(_DRAFT):
                    shutil.rmtree(name, ignore_errors=True, dir_fd=folder)

    def remove_run(self, experiment_id: str, run_id: str) -> None:
        path = CheckpointPath(experiment_id, run_id, "")
        missing = suppress(FileNotFoundError, NotADirectoryError)
        own = files.directory(self._top, experiment_id)
        with _answering(path, "removed"), missing, own as folder:
            files.remove(folder, run_id)

    def draft_bytes(self, experiment_id: str, run_id: str) -> int:
        path = CheckpointPath(experiment_id, run_id, "")
        missing = suppress(FileNotFoundError, NotADirectoryError)
        size = 0
        with _answering(path), missing, self._open_run(path) as folder:
            for name in files.list_names(folder):
                if name.startswith(_DRAFT):
                    size += tree_size(folder, name)
        return size

    def verify(self, path: CheckpointPath) -> Manifest:
        with _answering(path), self._open_run(path) as folder:
            return checkpoint.verify(self._directory(path), folder)

    def manifest(self, path: CheckpointPath) -> Manifest:
        with _answering(path), self._open_run(path) as folder:
            return checkpoint.load(self._directory(path), folder)

    def size(self, path: CheckpointPath, most: int) -> int:
        with suppress(OSError), self._open_run(path) as folder:
            return tree_size(folder, path.name, most)
        return 0

    def exists(self, path: CheckpointPath) -> bool:
        try:
            with self._open_run(path) as folder:
                return files.exists(folder, path.name)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True

    def read(self, path: CheckpointPath, file: str, offset: int = 0) -> Iterator[bytes]:
        with _answering(path), ExitStack() as stack:
            if file != MANIFEST:
                check_path(file)
            folder = stack.enter_context(self._open_run(path))
            *directories, name = [path.name, *file.split("/")]
            try:
                for directory in directories:
                    folder = stack.enter_context(files.inner(folder, directory))
                opened = files.open_file(folder, name)
            except (FileNotFoundError, files.Unusable) as error:
                raise CheckpointError(f"{file!r:.200}: {error.strerror}") from None
            stream = stack.enter_context(os.fdopen(opened, "rb"))
            stream.seek(offset)
            while chunk := stream.read(CHUNK):
                yield chunk

    def delete(self, path: CheckpointPath, sha256: str | None) -> None:
        name, trash = path.name, f"{_TRASH}{path.name}"
        missing = suppress(FileNotFoundError)
        with _answering(path, "deleted"), missing, self._open_run(path) as folder:
            files.remove(folder, trash)  # what a server that died has left
            if files.exists(folder, name) and manifest_digest(folder, name) in (None, sha256):
                os.rename(name, trash, src_dir_fd=folder, dst_dir_fd=folder)
                files.remove(folder, trash)

    def list_run(self, experiment_id: str, run_id: str) -> list[CheckpointPath]:
        path = CheckpointPath(experiment_id, run_id, "")
        try:
            with _answering(path), self._open_run(path) as folder:
                return [
                    path._replace(name=name)
                    for name in files.list_names(folder)
                    if paths.is_name(name) and has_manifest(folder, name)
                ]
        except Damaged:  # the run has no directory
            return []

    def is_in_place(self, data_dir: str) -> bool:
        with _answering("The data directory"):
            return data_dirs.identity(self._data_dir) == data_dir

    def location(self, experiment_id: str, run_id: str, name: str | None = None) -> str | None:
        directory = self._top / experiment_id / run_id
        return str(directory if name is None else directory / name)

    has_urls = is_attested = False

    def stage(self, experiment_id: str, run_id: str, source: CheckpointPath | None) -> None:
        """Do nothing: everything is at its location."""

    def sign_uploads(self, draft: Draft, content: bytes) -> None:
        """Return None: trainers elsewhere send files through the service."""

    def sign_downloads(self, path: CheckpointPath) -> None:
        """Return None, as `sign_uploads`."""

    def clean_up(self) -> None:
        """Do nothing: drafts are removed with the attempt that they are of."""

    # ------------------------------------- copies of what is in a store (staged.py)

    def list_runs(self) -> list[tuple[str, str]]:
        """Return the experiment and run of every directory of checkpoints, sorted."""
        with _answering("The data directory"), suppress(FileNotFoundError):
            return sorted(
                (run.parent.name, run.name) for run in self._top.glob("*/*") if run.is_dir()
            )
        return []

    def is_whole(self, path: CheckpointPath) -> bool:
        """Return True if all files of the manifest are there, in their sizes."""
        try:
            with _answering(path), self._open_run(path) as run, files.inner(run, path.name) as top:
                listed = checkpoint.load(self._directory(path), run).files
                return all(file_size(top, file.path) == file.size for file in listed)
        except Damaged:
            return False

    def modified_at(self, path: CheckpointPath) -> float:
        """Return when the checkpoint was committed here, in seconds since 1970."""
        with _answering(path), self._open_run(path) as run, files.inner(run, path.name) as top:
            return os.stat(MANIFEST, dir_fd=top, follow_symlinks=False).st_mtime

    def strip(self, path: CheckpointPath) -> None:
        """Remove all files of a checkpoint but manifest.json, which keeps its name taken."""
        with _answering(path, "removed"), self._open_run(path) as run:
            for top, folders, names, opened in os.fwalk(path.name, topdown=False, dir_fd=run):
                for name in names:
                    if (top, name) != (path.name, MANIFEST):
                        os.unlink(name, dir_fd=opened)
                for name in folders:
                    with suppress(NotADirectoryError):  # a link to a directory
                        os.rmdir(name, dir_fd=opened)
                        continue
                    os.unlink(name, dir_fd=opened)

    def put_stub(self, path: CheckpointPath, content: bytes) -> None:
        """Take a name, as `strip` leaves it; one that is taken stays what it is."""
        draft = self.begin(path, "stub")
        with _answering(path, "written"), self._open_run(path) as run:
            temporary = self._temporary(draft).name
            with files.inner(run, temporary) as folder:
                files.write(folder, MANIFEST, content)
            try:
                os.rename(temporary, path.name, src_dir_fd=run, dst_dir_fd=run)
            except OSError as error:
                shutil.rmtree(temporary, dir_fd=run)
                if error.errno not in checkpoint.TAKEN:
                    raise

    def restore(self, draft: Draft, content: bytes) -> None:
        """Commit a draft under its very name, in the place of what `strip` has left of it."""
        path, manifest = draft.path, parse(content)
        with _answering(path, "written"):
            with self._open_draft(draft) as folder:
                complete(folder, manifest, content)
            with self._open_run(path) as run:
                if (
                    files.exists(run, path.name)
                    and manifest_digest(run, path.name) == manifest.sha256
                ):
                    os.rename(path.name, f"{_TRASH}{path.name}", src_dir_fd=run, dst_dir_fd=run)
                temporary = self._temporary(draft).name
                os.rename(temporary, path.name, src_dir_fd=run, dst_dir_fd=run)
                os.fsync(run)
                files.remove(run, f"{_TRASH}{path.name}")

    def _directory(self, path: CheckpointPath) -> Path:
        return self._top / path.experiment_id / path.run_id / path.name

    def _temporary(self, draft: Draft) -> Path:
        key = draft.key if is_key(draft.key) else "none"
        return self._directory(draft.path).with_name(f"{_DRAFT}{draft.path.name}-{key}")

    def _open_run(self, path: CheckpointPath) -> AbstractContextManager[int]:
        """Open the directory of a run's checkpoints."""
        return files.directory(self._top, path.experiment_id, path.run_id)

    @contextmanager
    def _open_draft(self, draft: Draft) -> Iterator[int]:
        with ExitStack() as stack:
            try:
                run = stack.enter_context(self._open_run(draft.path))
                opened = stack.enter_context(files.inner(run, self._temporary(draft).name))
            except (FileNotFoundError, NotADirectoryError):
                raise Abandoned(draft.path) from None
            yield opened


@contextmanager
def _answering(path: object, done: str = "read") -> Iterator[None]:
    """Raise Damaged for what is wrong with the files, CheckpointUnreadable for the disk."""
    try:
        yield
    except CheckpointError as error:
        text = str(error)
        raise Damaged(f"{text[:1].upper()}{text[1:]}.") from None
    except OSError as error:
        if done == "read" and isinstance(error, FileNotFoundError | NotADirectoryError):
            raise Damaged(f"No checkpoint directory at {path}: {error.strerror}.") from None
        raise CheckpointUnreadable(
            f"{path} could not be {done}: {error.strerror}.", retry_after=5
        ) from error
