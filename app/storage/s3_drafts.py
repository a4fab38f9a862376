"""Drafts in an object store: written, committed by one conditional put, or swept.

Each draft has objects of its own, so nobody overwrites what another has committed. The put of the
manifest is the commit; where `name` is taken, `name.2/manifest.json` lists the same objects, which
stay where they are. Drafts that nobody committed go after a day.
"""

import itertools
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress

from llm_train.checkpoint import candidate_names
from llm_train.manifest import CheckpointError, File, check_path, parse
from llm_train.threads import THREADS, run_all

from app.domain.paths import CheckpointPath
from app.storage.base import (
    MANIFEST,
    URL_SECONDS,
    Abandoned,
    Committed,
    Damaged,
    Draft,
    Incomplete,
    Manifest,
    Transfer,
    is_key,
)
from app.storage.envelope import Envelope, Piece, parse_envelope
from app.storage.keys import (
    COMMITTED,
    DRAFT,
    check_conflicts,
    draft_folder,
    draft_of,
    in_pieces,
    manifest_key,
    part_key,
    parts_of,
    plan_objects,
    run_folder,
    slug_of,
    slugs_of,
)
from app.storage.objects import Bucket, Entry

DRAFT_SECONDS = 86_400.0
"""Age at which an uncommitted draft is removed: a commit may be late by an outage of hours."""
_CANDIDATES_MISSING = 3


class S3Drafts:
    """The half of `CheckpointStorage` that writes."""

    bucket: Bucket

    def begin(self, path: CheckpointPath, key: str | None = None) -> Draft:
        draft = Draft(path, secrets.token_hex(8) if key is None else key)
        if not is_key(draft.key):
            raise Damaged(f"{draft.key!r:.200} is no key of a draft.")
        self.bucket.put(f"{draft_folder(draft)}/{DRAFT}", b"")
        return draft

    def write(self, draft: Draft, file: str, content: Iterable[bytes], offset: int = 0) -> int:
        try:
            check_path(file)
        except CheckpointError as error:
            raise Damaged(sentence(error)) from None
        folder, slug = draft_folder(draft), slug_of(file)
        there = self._list_draft(draft)
        check_conflicts(slug, slugs_of(there, folder))
        parts = parts_of(there, folder, slug)
        start, head = self._cut(there, folder, slug, offset)
        # Old objects go first: a transfer that breaks off must leave a shorter file, not a mix.
        self.bucket.delete(key for key, at in parts.items() if at > start or not offset)
        size, written = self._send(folder, slug, start, itertools.chain((head,), content))
        old = [*(key for key, at in parts.items() if at >= start), f"{folder}/files/{slug}"]
        self.bucket.delete(key for key in old if key in there and key not in written)
        return size

    def _list_draft(self, draft: Draft) -> dict[str, Entry]:
        """Return the objects of a draft. Raises Abandoned if there is none."""
        if not is_key(draft.key):
            raise Abandoned(draft.path)
        there = self.bucket.entries(draft_folder(draft))
        marker = f"{draft_folder(draft)}/{DRAFT}"
        if marker not in there and self.bucket.head(marker) is None:
            raise Abandoned(draft.path)
        return there

    def _cut(
        self, there: dict[str, Entry], folder: str, slug: str, offset: int
    ) -> tuple[int, bytes]:
        """Return where a file is written on from, at the beginning of an object, and the bytes
        that come first. Raises Damaged if the file ends before `offset`."""
        if not offset:
            return 0, b""
        whole = f"{folder}/files/{slug}"
        pieces = parts_of(there, folder, slug) or ({whole: 0} if whole in there else {})
        for key, start in pieces.items():
            end = start + there[key].size
            if offset == end and key != whole:
                return offset, b""
            if start <= offset <= end:
                return start, (self.bucket.get(key) or b"")[: offset - start]
        raise Damaged(f"{slug!r:.200} has fewer than {offset} bytes.")

    def _send(
        self, folder: str, slug: str, start: int, content: Iterable[bytes]
    ) -> tuple[int, set[str]]:
        """Write a file from `start` on, in one object if it is small; return its size and keys."""
        written: set[str] = set()
        position, batch = start, list[tuple[str, bytes]]()
        for piece, is_last in in_pieces(content):
            is_whole = is_last and position == 0
            key = f"{folder}/files/{slug}" if is_whole else part_key(folder, slug, position)
            if piece or is_whole:
                batch.append((key, piece))
                written.add(key)
            position += len(piece)
            if is_last or len(batch) == THREADS:
                run_all(lambda entry: self.bucket.put(*entry), batch)
                batch = []
        return position, written

    def commit(self, draft: Draft, content: bytes) -> Committed:
        try:
            manifest = parse(content)
        except CheckpointError as error:
            raise Damaged(sentence(error)) from None
        if (done := self._find(draft.path, content)) is not None:
            self.abandon(draft)
            return done
        there = self._list_draft(draft)
        pieces = self._pieces(draft, manifest, there)
        envelope = Envelope(draft, content, manifest, pieces)
        published = self._publish(envelope)
        if published is None:  # another request committed the same content first
            return self.commit(draft, content)
        path, is_first = published
        folder = draft_folder(draft)
        if is_first and not self._is_kept(folder):
            self.bucket.delete([manifest_key(path)])
            self._remove_objects(draft)  # `abandon` left them if it has seen the manifest
            raise Abandoned(draft.path)
        listed = {f"{folder}/{piece.key}" for of_file in pieces.values() for piece in of_file}
        self.bucket.put(f"{folder}/{COMMITTED}", b"")
        self.bucket.delete([key for key in there if key not in listed] + [f"{folder}/{DRAFT}"])
        return Committed(path, manifest)

    def _find(self, path: CheckpointPath, content: bytes) -> Committed | None:
        """Return the checkpoint that has this manifest already, as after a retry."""
        for name in candidate_names(path.name):
            candidate = path._replace(name=name)
            stored = self.bucket.get(manifest_key(candidate))
            if stored is None:
                return None
            with suppress(Damaged):  # the name is another checkpoint's
                envelope = parse_envelope(candidate, stored)
                if envelope.content == content:
                    return Committed(candidate, envelope.manifest)
        raise AssertionError("there is always another name")

    def _is_kept(self, folder: str) -> bool:
        """Return False if a draft is being removed by `abandon`, which saw no manifest of it."""
        return any(self.bucket.head(f"{folder}/{mark}") for mark in (DRAFT, COMMITTED))

    def _publish(self, envelope: Envelope) -> tuple[CheckpointPath, bool] | None:
        """Create the manifest under the first name that is free: this is the commit.

        Returns its path, and True if this call has created it; None if the same checkpoint was
        committed from another draft meanwhile.
        """
        content = envelope.dump()
        for name in candidate_names(envelope.draft.path.name):
            path = envelope.draft.path._replace(name=name)
            if self.bucket.create(manifest_key(path), content):
                return path, True
            stored = self.bucket.get(manifest_key(path)) or b""
            if stored == content:  # a put whose answer was lost looks like a defeat
                return path, False
            with suppress(Damaged):
                if parse_envelope(path, stored).content == envelope.content:
                    return None
        raise AssertionError("there is always another name")

    def _pieces(
        self, draft: Draft, manifest: Manifest, there: dict[str, Entry]
    ) -> dict[str, list[Piece]]:
        """Return the objects of each file. Raises Incomplete."""
        folder = draft_folder(draft)
        names = {file.path for file in manifest.files}
        for name in names:
            check_conflicts(name, names)
        by_file = {file.path: self._pieces_of(folder, file, there) for file in manifest.files}
        if wrong := [path for path, pieces in by_file.items() if pieces is None]:
            raise Incomplete(wrong)
        return {path: pieces for path, pieces in by_file.items() if pieces is not None}

    def _pieces_of(self, folder: str, file: File, there: dict[str, Entry]) -> list[Piece] | None:
        slug, parts, end = slug_of(file.path), list[Piece](), 0
        for key, start in parts_of(there, folder, slug).items():
            if start == end:
                parts.append(Piece(key.removeprefix(f"{folder}/"), there[key].size, there[key].tag))
                end += there[key].size
        if parts and end == file.size:
            return parts
        key = f"{folder}/files/{slug}"
        whole = there.get(key) or self.bucket.head(key)
        if whole is None or whole.size != file.size:
            return None
        return [Piece(f"files/{slug}", whole.size, whole.tag)]

    def abandon(self, draft: Draft) -> None:
        if not is_key(draft.key):
            return
        marker = f"{draft_folder(draft)}/{DRAFT}"
        if self.bucket.head(marker) is None:
            return
        if not self._is_committed(draft):
            # A commit that finds its marker gone gives up; the second look sees one that did not.
            self.bucket.delete([marker])
            if not self._is_committed(draft):
                self._remove_objects(draft)  # `clean_up` removes what a crash leaves
                return
        # By a server that died before it could say so, or that is committing it now.
        self.bucket.put(f"{draft_folder(draft)}/{COMMITTED}", b"")
        self.bucket.delete([marker])

    def _remove_objects(self, draft: Draft) -> None:
        marker = f"{draft_folder(draft)}/{DRAFT}"
        self.bucket.delete(key for key in self.bucket.entries(draft_folder(draft)) if key != marker)

    def _is_committed(self, draft: Draft) -> bool:
        """Return True if a manifest lists the objects of a draft. Asks for each by its key."""
        run = run_folder(draft.path)
        listed = {
            name
            for key in self.bucket.entries(run)
            if key.endswith(f"/{MANIFEST}") and (name := key.split("/")[-2])
        }
        missing = 0
        for name in itertools.chain(sorted(listed), candidate_names(draft.path.name)):
            path = draft.path._replace(name=name)
            content = self.bucket.get(manifest_key(path))
            with suppress(Damaged):  # somebody else's
                if content is not None and parse_envelope(path, content).draft == draft:
                    return True
            missing += content is None
            if missing >= _CANDIDATES_MISSING:
                return False
        return False

    def remove_drafts(self, experiment_id: str, run_id: str) -> None:
        for draft in self._list_drafts(f"ckpts/{experiment_id}/{run_id}"):
            self.abandon(draft)

    def _list_drafts(self, prefix: str) -> list[Draft]:
        marked = [key for key in self.bucket.entries(prefix) if key.endswith(f"/{DRAFT}")]
        return [draft for key in marked if (draft := draft_of(key)) is not None]

    def draft_bytes(self, experiment_id: str, run_id: str) -> int:
        there = self.bucket.entries(f"ckpts/{experiment_id}/{run_id}")
        drafts = tuple(key.removesuffix(DRAFT) for key in there if key.endswith(f"/{DRAFT}"))
        return sum(entry.size for key, entry in there.items() if key.startswith(drafts))

    def clean_up(self) -> None:
        """Remove what nobody committed within a day, and what came after it was abandoned."""
        before = time.time() - DRAFT_SECONDS
        groups: dict[Draft, list[tuple[str, Entry]]] = {}
        for key, entry in self.bucket.entries("ckpts").items():
            if (draft := draft_of(key)) is not None:
                groups.setdefault(draft, []).append((key, entry))
        for draft, objects in groups.items():
            if max(entry.modified_at for _, entry in objects) > before:
                continue
            names = {key.rpartition("/")[2] for key, _ in objects}
            if DRAFT in names:
                self.abandon(draft)
            elif COMMITTED not in names and not self._is_committed(draft):
                self._remove_objects(draft)

    def sign_uploads(self, draft: Draft, content: bytes) -> list[Transfer]:
        try:
            manifest = parse(content)
        except CheckpointError as error:
            raise Damaged(sentence(error)) from None
        there, folder = self._list_draft(draft), draft_folder(draft)
        wanted: list[tuple[File, int, int, str]] = []
        for file in manifest.files:
            if self._pieces_of(folder, file, there) is None:
                wanted += [(file, at, size, key) for at, size, key in plan_objects(folder, file)]
        missing = [
            part for part in wanted if part[3] not in there or there[part[3]].size != part[2]
        ]
        urls = self.bucket.sign("PUT", [key for _, _, _, key in missing], URL_SECONDS)
        return [
            Transfer(file.path, at, size, url)
            for (file, at, size, _), url in zip(missing, urls, strict=True)
        ]


def sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
