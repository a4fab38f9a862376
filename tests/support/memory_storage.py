"""The smallest storage: checkpoints in this process's memory.

Made by the steps in `app/storage/base.py` alone; the contract suite holds it to the same promises.
"""

import hashlib
import secrets
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from llm_train.checkpoint import candidate_names
from llm_train.manifest import CheckpointError, check_path, parse

from app.domain.paths import CheckpointPath
from app.storage.base import (
    MANIFEST,
    Abandoned,
    Committed,
    Damaged,
    Draft,
    Incomplete,
    Manifest,
    is_key,
)

Files = dict[str, bytes]


class MemoryStorage:
    """Forgets everything with its process. URL: `memory:`."""

    def __init__(self, url: str, data_dir: Path) -> None:
        self.drafts: dict[Draft, Files] = {}
        self.committed: dict[CheckpointPath, Files] = {}

    def prepare(self) -> None:
        """Memory is always ready."""

    def begin(self, path: CheckpointPath, key: str | None = None) -> Draft:
        draft = Draft(path, secrets.token_hex(4) if key is None else key)
        if not is_key(draft.key):
            raise Damaged(f"{draft.key!r} is no key of a draft.")
        self.drafts.setdefault(draft, {})
        return draft

    def write(self, draft: Draft, file: str, content: Iterable[bytes], offset: int = 0) -> int:
        files = self._files(draft)
        try:
            check_path(file)
        except CheckpointError as error:
            raise Damaged(f"{error}.") from None
        if offset > len(files.get(file, b"")):
            raise Damaged(f"{file} has fewer than {offset} bytes.")
        if any(file.startswith(f"{other}/") for other in files):
            raise Damaged(f"{file} is below a file.")
        if any(other.startswith(f"{file}/") for other in files):
            raise Damaged(f"{file} is a folder.")
        files[file] = files.get(file, b"")[:offset] + b"".join(content)
        return len(files[file])

    def commit(self, draft: Draft, content: bytes) -> Committed:
        try:
            manifest = parse(content)
        except CheckpointError as error:
            raise Damaged(f"{error}.") from None
        names = list(islice(candidate_names(draft.path.name), len(self.committed) + 1))
        for path in (draft.path._replace(name=name) for name in names):
            if self.committed.get(path, {}).get(MANIFEST) == content:
                return Committed(path, manifest)
        files = self._files(draft)
        expected = {file.path: file.size for file in manifest.files}
        if wrong := [
            file for file in expected if len(files.get(file, b"x" * 99)) != expected[file]
        ]:
            raise Incomplete(wrong)
        whole = {file: files[file] for file in expected} | {MANIFEST: content}
        for path in (draft.path._replace(name=name) for name in names):
            if self.committed.setdefault(path, whole) is whole:
                break
        del self.drafts[draft]
        return Committed(path, manifest)

    def abandon(self, draft: Draft) -> None:
        self.drafts.pop(draft, None)

    def remove_drafts(self, experiment_id: str, run_id: str) -> None:
        for draft in list(self.drafts):
            if draft.path[:2] == (experiment_id, run_id):
                self.abandon(draft)

    def remove_run(self, experiment_id: str, run_id: str) -> None:
        self.remove_drafts(experiment_id, run_id)
        for path in list(self.committed):
            if path[:2] == (experiment_id, run_id):
                del self.committed[path]

    def draft_bytes(self, experiment_id: str, run_id: str) -> int:
        own = [files for d, files in self.drafts.items() if d.path[:2] == (experiment_id, run_id)]
        return sum(len(content) for files in own for content in files.values())

    def verify(self, path: CheckpointPath) -> Manifest:
        manifest, files = self.manifest(path), self.committed[path]
        listed = {file.path: file.sha256 for file in manifest.files}
        for name in sorted({*listed, *files} - {MANIFEST}):
            if hashlib.sha256(files.get(name, b"")).hexdigest() != listed.get(name):
                raise Damaged(f"{name!r} is not what was written.")
        return manifest

    def manifest(self, path: CheckpointPath) -> Manifest:
        return parse(b"".join(self.read(path, MANIFEST)))

    def size(self, path: CheckpointPath, most: int) -> int:
        return sum(map(len, self.committed.get(path, {}).values()))

    def exists(self, path: CheckpointPath) -> bool:
        return path in self.committed

    def read(self, path: CheckpointPath, file: str, offset: int = 0) -> Iterator[bytes]:
        content = self.committed.get(path, {}).get(file)
        if content is None:
            raise Damaged(f"There is no file {file} in {path}.")
        yield content[offset:]

    def delete(self, path: CheckpointPath, sha256: str | None) -> None:
        manifest = self.committed.get(path, {}).get(MANIFEST)
        if manifest is None or hashlib.sha256(manifest).hexdigest() == sha256:
            self.committed.pop(path, None)

    def list_run(self, experiment_id: str, run_id: str) -> list[CheckpointPath]:
        own = (experiment_id, run_id)
        return sorted(
            path for path, files in self.committed.items() if path[:2] == own and MANIFEST in files
        )

    def is_in_place(self, data_dir: str) -> bool:
        return True

    def location(self, experiment_id: str, run_id: str, name: str | None = None) -> str | None:
        return None

    has_urls = is_attested = False

    def stage(self, experiment_id: str, run_id: str, source: CheckpointPath | None) -> None:
        """There is no location."""

    def sign_uploads(self, draft: Draft, content: bytes) -> None:
        """There are no URLs."""

    def sign_downloads(self, path: CheckpointPath) -> None:
        """There are no URLs."""

    def clean_up(self) -> None:
        """Drafts go with the process."""

    def _files(self, draft: Draft) -> Files:
        if draft not in self.drafts:
            raise Abandoned(draft.path)
        return self.drafts[draft]
