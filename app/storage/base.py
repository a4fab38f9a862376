"""The contract of a storage: it keeps the files of checkpoints under their logical paths.

    draft = storage.begin(path)                    nothing is visible under the path yet
    storage.write(draft, "model.bin", chunks)      once for each file, or for each piece of one
    committed = storage.commit(draft, manifest)    now the checkpoint exists, whole, for ever
    storage.verify(committed.path)                 every byte against the manifest

The manifest is the trainer's, byte for byte: a checkpoint has the same SHA-256 in every storage.

`directory.py` keeps them in the data directory, where trainers of this machine save by
themselves with the same protocol (`llm_train.checkpoint`); `s3.py` in an object store, which
`buckets.py` opens. `staged.py` puts the data directory before every storage without a `location`.
What the service knows of a checkpoint is in the database (`app.services.checkpoints`); which may be
deleted, `app.services.retention`.

How to add a storage
--------------------
1. Write a class with the methods of `CheckpointStorage`. Commit must be atomic: until it returns
   nothing is found under the path, and of two writers of one path the second gets another name.
   `tests/support/memory_storage.py` is the smallest one.
2. Add a function `open_storage(url, data_dir)` that returns it (the class itself, if it takes these
   two), and raises ValueError with one sentence for a URL that it does not understand. What a table
   `[stores.NAME]` says beside the URL comes as keyword arguments.
3. Name that function in your package as an entry point; its name is the scheme of the URL:

       [project.entry-points."llm_train.storage"]
       memory = "memory_storage:MemoryStorage"

4. Install the package beside the service, and choose it with `LLM_TRAIN_STORAGE=memory:`.
5. Hold it to the contract: `tests/support/storage_contract.py` says how, in one class with two
   fixtures. One of this repository also joins STORAGES in `app/storage/__init__.py`.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from llm_train.manifest import MANIFEST, Manifest

from app.domain.paths import CheckpointPath

__all__ = [
    "MANIFEST",
    "Abandoned",
    "CheckpointStorage",
    "Committed",
    "Damaged",
    "Draft",
    "Incomplete",
    "Manifest",
    "Transfer",
    "is_key",
]

URL_SECONDS = 3600.0
"""How long a signed URL lasts."""
_KEY = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


def is_key(text: str) -> bool:
    """Return True if a caller may give a draft this key."""
    return _KEY.fullmatch(text) is not None


class Damaged(Exception):
    """A checkpoint is missing, torn or changed, or cannot become one; one sentence says why.

    What cannot be read at the moment is not damaged: that is `app.errors.CheckpointUnreadable`.
    """


class Abandoned(Damaged):
    """A draft is not there: it was never begun, or somebody has removed it."""

    def __init__(self, path: CheckpointPath) -> None:
        super().__init__(f"{path} is not being written.")


class Incomplete(Damaged):
    """A draft lacks files of its manifest, or has them in another size: `files` says which."""

    def __init__(self, files: list[str]) -> None:
        super().__init__(
            f"{len(files)} files of the manifest are missing or of another size, such as "
            f"{files[0]!r:.200}."
        )
        self.files = files


class Transfer(NamedTuple):
    """A piece of a file, and the URL that takes it (PUT) or has it (GET), for a while."""

    file: str
    offset: int
    size: int
    url: str


class Draft(NamedTuple):
    """A checkpoint that is being written. With its path, `key` is all that names it."""

    path: CheckpointPath
    key: str


class Committed(NamedTuple):
    """A committed checkpoint. Its path is another than the draft's if that was taken."""

    path: CheckpointPath
    manifest: Manifest


class CheckpointStorage(Protocol):
    """Keeps the files of checkpoints under their logical paths.

    Methods block for as long as the storage takes, so callers use a thread. They may be called
    from several threads at a time and, unless it says otherwise, be repeated. A committed
    checkpoint never changes. Every method raises CheckpointUnreadable if the storage
    cannot answer now (it is away, no descriptors are left, access is denied): nothing may be
    concluded from that.
    """

    @property
    def has_urls(self) -> bool:
        """Return True if trainers elsewhere get URLs from `sign_uploads` and `sign_downloads`."""

    @property
    def is_attested(self) -> bool:
        """Return True if `verify` compares checksums that the storage keeps with those at the
        commit, and reads only what differs; else it reads every byte."""

    def prepare(self) -> None:
        """Check, once when a server starts, that the storage can keep checkpoints.

        Raises ValueError with one sentence if it cannot.
        """

    def begin(self, path: CheckpointPath, key: str | None = None) -> Draft:
        """Start a checkpoint that is to be committed under `path`.

        With a `key` (`is_key`) of the caller's it may be repeated: the draft of this path and key
        is gone on with. Without one it is new.
        """

    def write(self, draft: Draft, file: str, content: Iterable[bytes], offset: int = 0) -> int:
        """Write a file of a draft from `offset` on; return its size now.

        `file` is a relative POSIX path. What was written behind `offset` before is dropped, so a
        broken transfer is continued, or begun again. If `content` raises, so does this, and the
        file is what it was, or cut off. Raises Damaged for a path that a manifest cannot list and
        an offset behind the file's end; Abandoned for a draft that does not exist.
        """

    def commit(self, draft: Draft, content: bytes) -> Committed:
        """Turn a draft into a checkpoint whose manifest.json is `content`.

        Sizes are compared; that the bytes are right is for `verify` to find. What the manifest
        does not list is dropped. Its symbolic links are created in a storage with a `location`;
        in any other the manifest alone keeps them. Repeated, also after the answer was lost, it
        returns the same. Raises Damaged for what is no manifest; Abandoned if the draft does not
        exist; Incomplete if files are missing, and then the draft stays.
        """

    def abandon(self, draft: Draft) -> None:
        """Remove a draft; one that does not exist is not an error."""

    def remove_drafts(self, experiment_id: str, run_id: str) -> None:
        """Remove every draft of a run, of which nothing writes any more."""

    def remove_run(self, experiment_id: str, run_id: str) -> None:
        """Remove all that belongs to a run: checkpoints, whole or not, and drafts.

        Nobody writes or reads any of it. After a crash in between it is repeated.
        """

    def draft_bytes(self, experiment_id: str, run_id: str) -> int:
        """Return the bytes of all drafts of a run, about."""

    def verify(self, path: CheckpointPath) -> Manifest:
        """Read every byte of a checkpoint, and return the manifest that all files match.

        Raises Damaged if something is missing, extra, truncated or changed.
        """

    def manifest(self, path: CheckpointPath) -> Manifest:
        """Return the manifest, without reading the files. Raises Damaged if there is none."""

    def size(self, path: CheckpointPath, most: int) -> int:
        """Return the bytes of a checkpoint, as far as known; counting may end above `most`."""

    def exists(self, path: CheckpointPath) -> bool:
        """Return True if there is something under the path, whole or not, or it is not known."""

    def read(self, path: CheckpointPath, file: str, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes of a file (also of manifest.json) from `offset` on.

        They are not compared with the manifest: the reader does that. Raises Damaged if there is
        no such file.
        """

    def delete(self, path: CheckpointPath, sha256: str | None) -> None:
        """Remove the checkpoint whose manifest has this digest, or that has none.

        Another one that was committed under the path since stays. At no time does a part of
        the files look like a checkpoint; after a crash in between it is repeated.
        """

    def list_run(self, experiment_id: str, run_id: str) -> list[CheckpointPath]:
        """Return the paths of a run under which there is a manifest, sorted by name."""

    def is_in_place(self, data_dir: str) -> bool:
        """Return True if the files are here that the database knows of: a wrong or unmounted
        place must not be taken for lost files. `data_dir` is the name of the database's data
        directory (`data_dir.py`); a storage outside of it checks its own place.
        """

    def location(self, experiment_id: str, run_id: str, name: str | None = None) -> str | None:
        """Return the directory in which a trainer of this machine saves the checkpoints of a
        run, or finds the one called `name`.

        None, for every run: trainers cannot save there. `get_storage` then puts the data directory
        before this storage (staged.py), and takes over from there what they have committed.
        """

    def stage(self, experiment_id: str, run_id: str, source: CheckpointPath | None) -> None:
        """Make `location` fit for a trainer that is about to start on this machine.

        Names that are taken are taken there, too, and the checkpoint that it starts from is there.
        Raises Damaged if that one is not what was committed.
        """

    def sign_uploads(self, draft: Draft, content: bytes) -> list[Transfer] | None:
        """Return where a trainer without credentials puts what the storage lacks of a draft.

        `content` is the manifest that will be committed. None: the storage has no such URLs.
        Raises Damaged for what is no manifest, and for a draft that does not exist.
        """

    def sign_downloads(self, path: CheckpointPath) -> list[Transfer] | None:
        """Return where the pieces of a checkpoint are had without credentials, or None."""

    def clean_up(self) -> None:
        """Do what can wait: remove what nobody will commit, and the like.

        Called every few minutes, or every few hours if there is no `location` (staged.py).
        """
