"""Checkpoints in an object store: what is committed. Drafts are in s3_drafts.py, keys in keys.py.

A listing may lack what is there, so nothing is called missing without a request for its very key,
and not while the bucket lacks the mark of this service: "not found" is also the answer of a bucket
that was removed.
"""

import hashlib
import itertools
import secrets
from collections.abc import Iterator
from pathlib import Path

from llm_train.manifest import File
from llm_train.threads import run_all

from app.domain import paths
from app.domain.paths import CheckpointPath
from app.errors import CheckpointUnreadable
from app.storage.base import MANIFEST, URL_SECONDS, Damaged, Draft, Manifest, Transfer
from app.storage.envelope import Envelope, Piece, parse_envelope
from app.storage.keys import COMMITTED, DRAFT, draft_folder, draft_of, manifest_key, run_folder
from app.storage.objects import RACES, Bucket, Entry
from app.storage.s3_drafts import S3Drafts


class S3Storage(S3Drafts):
    """Implements `CheckpointStorage` in a bucket. `attested`: verify by checksums, not by bytes."""

    def __init__(self, bucket: Bucket, mark: Path, *, attested: bool = False) -> None:
        """`mark`: the file with the name that the bucket had when the service began with it."""
        self.bucket, self.is_attested, self._mark = bucket, attested, mark

    def prepare(self) -> None:
        """Check that the bucket can keep checkpoints, and is the one that this service began with.

        Raises ValueError in one sentence; CheckpointUnreadable if it cannot answer now, and it
        could never before.
        """
        known = self._read_mark()
        try:
            self.bucket.probe(1 if known else RACES)
            identity = self.bucket.identity(None if known else secrets.token_hex(16))
        except CheckpointUnreadable:
            if known is None:
                raise
            return  # it was fine, and will be again
        if known is None and identity is not None:
            self._mark.write_text(identity)
        elif identity != known:
            raise ValueError(
                f"LLM_TRAIN_STORAGE: {self.bucket.url} is not the store that this service keeps "
                f"its checkpoints in; if they were moved there, remove {self._mark}"
            )

    def _read_mark(self) -> str | None:
        try:
            return self._mark.read_text()
        except FileNotFoundError:
            return None

    def verify(self, path: CheckpointPath) -> Manifest:
        envelope = self._require(path)
        folder = draft_folder(envelope.draft)
        there = self.bucket.entries(folder)
        listed = {piece.key for pieces in envelope.pieces.values() for piece in pieces}
        for key in sorted(there):
            name = key.removeprefix(f"{folder}/")
            if name not in listed and name not in (DRAFT, COMMITTED):
                raise Damaged(f"{name!r:.200} is not in the manifest.")
        run_all(
            lambda file: self._verify_file(folder, file, envelope.pieces[file.path], there),
            envelope.manifest.files,
        )
        return envelope.manifest

    def _verify_file(
        self, folder: str, file: File, pieces: list[Piece], there: dict[str, Entry]
    ) -> None:
        """Raise Damaged unless a file is what the manifest says."""
        is_attested = self.is_attested
        for piece in pieces:
            key = f"{folder}/{piece.key}"
            entry = there.get(key)
            if entry is None or entry.size != piece.size or entry.tag != piece.tag:
                entry = self.bucket.head(key)  # the listing may be old
            if entry is None:
                self._require_in_place()
                raise Damaged(f"{file.path!r:.200} is missing.")
            if entry.size != piece.size:
                raise Damaged(
                    f"{file.path!r:.200} has {entry.size} bytes where {piece.size} were written."
                )
            is_attested &= piece.tag is not None and entry.tag == piece.tag
        if is_attested:
            return
        digest = hashlib.sha256()
        for content in self._stream(folder, pieces, 0, file.path):
            digest.update(content)
        if digest.hexdigest() != file.sha256:
            raise Damaged(f"{file.path!r:.200} is not what was written: SHA-256 differs.")

    def manifest(self, path: CheckpointPath) -> Manifest:
        return self._require(path).manifest

    def size(self, path: CheckpointPath, most: int) -> int:
        try:
            loaded = self._load(path)
        except (CheckpointUnreadable, Damaged):
            return 0
        return 0 if loaded is None else loaded.manifest.size_bytes

    def exists(self, path: CheckpointPath) -> bool:
        try:
            if self.bucket.head(manifest_key(path)) is not None:
                return True
            return bool(self._list_orphans(path))
        except CheckpointUnreadable:
            return True

    def read(self, path: CheckpointPath, file: str, offset: int = 0) -> Iterator[bytes]:
        envelope = self._require(path)
        if file == MANIFEST:
            yield envelope.content[offset:]
            return
        if file not in envelope.pieces:
            raise Damaged(f"There is no file {file!r:.200} in {path}.")
        yield from self._stream(draft_folder(envelope.draft), envelope.pieces[file], offset, file)

    def _stream(self, folder: str, pieces: list[Piece], offset: int, file: str) -> Iterator[bytes]:
        for piece in pieces:
            if offset >= piece.size:
                offset -= piece.size
                continue
            try:
                yield from self.bucket.stream(f"{folder}/{piece.key}", offset)
            except FileNotFoundError:
                self._require_in_place()
                raise Damaged(f"{file!r:.200} is missing.") from None
            offset = 0

    def delete(self, path: CheckpointPath, sha256: str | None) -> None:
        content = self.bucket.get(manifest_key(path))
        if content is None:
            self._remove_orphans(path)
            return
        try:
            envelope = parse_envelope(path, content)
        except Damaged:
            self.bucket.delete([manifest_key(path)])
            self._remove_orphans(path)
            return
        if envelope.manifest.sha256 != sha256:
            return
        # A draft again: after a crash in between the sweep finishes it.
        marker = f"{draft_folder(envelope.draft)}/{DRAFT}"
        self.bucket.put(marker, b"")
        self.bucket.delete([manifest_key(path)])
        self._remove_objects(envelope.draft)
        self.bucket.delete([marker])

    def remove_run(self, experiment_id: str, run_id: str) -> None:
        self._require_in_place()
        folder = f"ckpts/{experiment_id}/{run_id}"
        keys = self.bucket.entries(folder)
        # The manifests first: without one, nothing that is left looks like a checkpoint.
        self.bucket.delete([key for key in keys if key.endswith(f"/{MANIFEST}")])
        self.bucket.delete(keys)

    def _remove_orphans(self, path: CheckpointPath) -> None:
        for draft in self._list_orphans(path):
            self.bucket.put(f"{draft_folder(draft)}/{DRAFT}", b"")
            self.abandon(draft)

    def _list_orphans(self, path: CheckpointPath) -> list[Draft]:
        """Return what was committed under a path and has no manifest any more."""
        keys = self.bucket.entries(f"{run_folder(path)}/{path.name}")
        marked = [draft_of(key) for key in keys if key.endswith(f"/{COMMITTED}")]
        return [draft for draft in marked if draft is not None and not self._is_committed(draft)]

    def list_run(self, experiment_id: str, run_id: str) -> list[CheckpointPath]:
        prefix = f"ckpts/{experiment_id}/{run_id}"
        names = [
            key.split("/")[3]
            for key in self.bucket.entries(prefix)
            if key.count("/") == 4 and key.endswith(f"/{MANIFEST}")
        ]
        return [
            CheckpointPath(experiment_id, run_id, name)
            for name in sorted(names)
            if paths.is_name(name)
        ]

    def is_in_place(self, data_dir: str) -> bool:
        known = self._read_mark()
        return known is not None and self.bucket.identity() == known

    def location(self, experiment_id: str, run_id: str, name: str | None = None) -> str | None:
        return None

    has_urls = True

    def stage(self, experiment_id: str, run_id: str, source: CheckpointPath | None) -> None:
        """Do nothing: there is no location (staged.py)."""

    def sign_downloads(self, path: CheckpointPath) -> list[Transfer]:
        envelope = self._require(path)
        folder = draft_folder(envelope.draft)
        located: list[tuple[str, int, Piece]] = []
        for file, pieces in envelope.pieces.items():
            starts = itertools.accumulate((piece.size for piece in pieces), initial=0)
            located += [(file, at, piece) for at, piece in zip(starts, pieces, strict=False)]
        keys = [f"{folder}/{piece.key}" for _, _, piece in located]
        urls = self.bucket.sign("GET", keys, URL_SECONDS)
        return [
            Transfer(file, at, piece.size, url)
            for (file, at, piece), url in zip(located, urls, strict=True)
        ]

    def _require_in_place(self) -> None:
        """Raise CheckpointUnreadable if the bucket is not the one that the service began with."""
        known = self._read_mark()
        if known is not None and self.bucket.identity() != known:
            raise CheckpointUnreadable(
                f"{self.bucket.url} is not the store of this service any more.", retry_after=5
            )

    def _load(self, path: CheckpointPath) -> Envelope | None:
        content = self.bucket.get(manifest_key(path))
        return None if content is None else parse_envelope(path, content)

    def _require(self, path: CheckpointPath) -> Envelope:
        loaded = self._load(path)
        if loaded is None:
            self._require_in_place()
            raise Damaged(f"There is no manifest at {path}.")
        return loaded
