"""A store without a `location`: trainers of this machine save into the data directory before it.

They save there as if there were no store (`DirectoryStorage`, `location`). What is verified is
first taken into the store, under the same name and with the same manifest, and read there. The
newest copy of a run stays for a resume on this machine; of the others only manifest.json is left,
which keeps their names taken. While the store is away, the copy here is as good.
"""

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from llm_train.manifest import File, parse
from llm_train.threads import run_all

from app.domain.paths import CheckpointPath
from app.errors import CheckpointUnreadable
from app.storage.base import (
    MANIFEST,
    Abandoned,
    CheckpointStorage,
    Committed,
    Damaged,
    Draft,
    Incomplete,
    Manifest,
    Transfer,
)
from app.storage.directory import DirectoryStorage

COPY_SECONDS = 86_400.0
"""How long the newest copy of a run stays here beside the store."""
SWEEP_SECONDS = 6 * 3600.0

log = logging.getLogger(__name__)


class StagedStorage:
    """Implements `CheckpointStorage`: in a store, with the data directory before it."""

    def __init__(self, store: CheckpointStorage, data_dir: Path) -> None:
        self.store, self.local = store, DirectoryStorage("directory:", data_dir)
        self.has_urls = store.has_urls
        self._swept_at = time.monotonic()

    @property
    def is_attested(self) -> bool:
        return self.store.is_attested

    def prepare(self) -> None:
        self.store.prepare()

    def begin(self, path: CheckpointPath, key: str | None = None) -> Draft:
        return self.store.begin(path, key)

    def write(self, draft: Draft, file: str, content: Iterable[bytes], offset: int = 0) -> int:
        return self.store.write(draft, file, content, offset)

    def commit(self, draft: Draft, content: bytes) -> Committed:
        return self.store.commit(draft, content)

    def abandon(self, draft: Draft) -> None:
        self.store.abandon(draft)

    def remove_drafts(self, experiment_id: str, run_id: str) -> None:
        self.local.remove_drafts(experiment_id, run_id)
        self.store.remove_drafts(experiment_id, run_id)

    def remove_run(self, experiment_id: str, run_id: str) -> None:
        self.store.remove_run(experiment_id, run_id)
        self.local.remove_run(experiment_id, run_id)

    def draft_bytes(self, experiment_id: str, run_id: str) -> int:
        return self.store.draft_bytes(experiment_id, run_id)

    def verify(self, path: CheckpointPath) -> Manifest:
        try:
            self.take_in(path)
            manifest = self.store.verify(path)
        except CheckpointUnreadable:
            if not self.local.is_whole(path):
                raise
            return self.local.verify(path)  # `clean_up` takes it into the store
        self._strip_older(path)
        return manifest

    def take_in(self, path: CheckpointPath) -> bool:
        """Copy a checkpoint from here into the store, unless it is there. May be repeated.

        Returns False if there is no whole one here. Raises Damaged if it cannot be committed, or
        another checkpoint has its name.
        """
        if not self.local.is_whole(path):
            return False
        manifest = self.local.manifest(path)
        with suppress(Damaged):
            if self.store.manifest(path).sha256 == manifest.sha256:
                return True
        try:
            self._send(path, manifest, manifest.sha256[:32])  # and so it is gone on with
        except Abandoned:  # the end of its run removes drafts, while this one is written
            self._send(path, manifest, None)
        return True

    def _send(self, path: CheckpointPath, manifest: Manifest, key: str | None) -> None:
        content = b"".join(self.local.read(path, MANIFEST))
        draft = self.store.begin(path, key)
        try:
            committed = self.store.commit(draft, content)
        except Incomplete as incomplete:
            run_all(lambda file: self._copy(path, draft, file), incomplete.files)
            committed = self.store.commit(draft, content)
        if committed.path != path:
            self.store.delete(committed.path, manifest.sha256)
            raise Damaged(f"The store has another checkpoint of the name {path.name}.")

    def _copy(self, path: CheckpointPath, draft: Draft, file: str) -> None:
        self.store.write(draft, file, self.local.read(path, file))

    def _strip_older(self, path: CheckpointPath) -> None:
        """Free the disk of a verified checkpoint once a newer one of its run is here."""
        with suppress(Damaged):
            copies = self._list_copies(path.experiment_id, path.run_id)
            if path in copies[:-1]:
                self.local.strip(path)
            # Those before it were verified before it, or are verified again.
            for older in copies[: copies.index(path)] if path in copies else ():
                if self._is_stored(older):
                    self.local.strip(older)

    def _list_copies(self, experiment_id: str, run_id: str) -> list[CheckpointPath]:
        """Return the whole checkpoints of a run that are here, oldest first."""
        whole = filter(self.local.is_whole, self.local.list_run(experiment_id, run_id))
        return sorted(whole, key=self.local.modified_at)

    def _is_stored(self, path: CheckpointPath) -> bool:
        """Return True if the store has the checkpoint that is here."""
        try:
            return self.store.manifest(path).sha256 == self.local.manifest(path).sha256
        except Damaged:
            return False

    def manifest(self, path: CheckpointPath) -> Manifest:
        with suppress(Damaged):
            return self.local.manifest(path)
        return self.store.manifest(path)

    def size(self, path: CheckpointPath, most: int) -> int:
        here = self.local.is_whole(path)
        return (self.local if here else self.store).size(path, most)

    def exists(self, path: CheckpointPath) -> bool:
        return self.local.exists(path) or self.store.exists(path)

    def read(self, path: CheckpointPath, file: str, offset: int = 0) -> Iterator[bytes]:
        here = self.local.is_whole(path)
        return (self.local if here else self.store).read(path, file, offset)

    def delete(self, path: CheckpointPath, sha256: str | None) -> None:
        self.store.delete(path, sha256)
        self.local.delete(path, sha256)

    def list_run(self, experiment_id: str, run_id: str) -> list[CheckpointPath]:
        own = (experiment_id, run_id)
        return sorted({*self.local.list_run(*own), *self.store.list_run(*own)})

    def is_in_place(self, data_dir: str) -> bool:
        return self.local.is_in_place(data_dir) and self.store.is_in_place(data_dir)

    def location(self, experiment_id: str, run_id: str, name: str | None = None) -> str | None:
        return self.local.location(experiment_id, run_id, name)

    def stage(self, experiment_id: str, run_id: str, source: CheckpointPath | None) -> None:
        try:
            for path in self.store.list_run(experiment_id, run_id):
                if not self.local.exists(path):
                    self.local.put_stub(path, self._content(path))
        except CheckpointUnreadable as error:
            log.warning("%s A name that is taken there may be used again.", error.detail)
        if source is not None and not self.local.is_whole(source):
            self._fetch(source)

    def _content(self, path: CheckpointPath) -> bytes:
        return b"".join(self.store.read(path, MANIFEST))

    def _fetch(self, path: CheckpointPath) -> None:
        """Copy a checkpoint from the store to where a trainer of this machine finds it."""
        content = self._content(path)
        manifest = parse(content)
        draft = self.local.begin(path, f"copy-{manifest.sha256[:16]}")

        def fetch(file: File) -> None:
            pieces = self.store.read(path, file.path)
            self.local.write(draft, file.path, _check_content(pieces, file))

        try:
            run_all(fetch, manifest.files)
            self.local.restore(draft, content)
        except BaseException:
            self.local.abandon(draft)
            raise

    def sign_uploads(self, draft: Draft, content: bytes) -> list[Transfer] | None:
        return self.store.sign_uploads(draft, content) if self.has_urls else None

    def sign_downloads(self, path: CheckpointPath) -> list[Transfer] | None:
        return self.store.sign_downloads(path) if self.has_urls else None

    def clean_up(self) -> None:
        """Take in what could not be when it was verified, and free the disk of old copies."""
        for run in self.local.list_runs():
            for number, path in enumerate(copies := self._list_copies(*run)):
                with suppress(Damaged):  # its verification tells
                    self.take_in(path)
                    is_newest = number == len(copies) - 1
                    age = time.time() - self.local.modified_at(path)
                    if not is_newest or age > COPY_SECONDS:
                        self.store.verify(path)
                        self.local.strip(path)
        if time.monotonic() - self._swept_at > SWEEP_SECONDS:
            self._swept_at = time.monotonic()
            self.store.clean_up()


def _check_content(pieces: Iterable[bytes], file: File) -> Iterator[bytes]:
    """Yield the bytes of a file. Raises Damaged at the end if they are not what was written."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        yield piece
    if digest.hexdigest() != file.sha256:
        raise Damaged(f"{file.path!r:.200} is not what was written: SHA-256 differs.")
