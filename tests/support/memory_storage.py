"""The smallest storage: checkpoints in this process's memory.

Made by the steps in `app/storage/base.py` alone; the contract suite holds it to the same promises.
"""

import hashlib
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from llm_train.manifest import CheckpointError, File, build, check_path, parse

from app.domain.paths import CheckpointPath
from app.storage.base import MANIFEST, Committed, Damaged, Draft, Manifest

Files = dict[str, bytes]


class MemoryStorage:
    """Forgets everything with its process. URL: `memory:`."""

    def __init__(self, url: str, data_dir: Path) -> None:
        self.drafts: dict[Draft, Files] = {}
        self.committed: dict[CheckpointPath, Files] = {}

    def begin(self, path: CheckpointPath) -> Draft:
        draft = Draft(path, secrets.token_hex(4))
        self.drafts[draft] = {}
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
        files[file] = files.get(file, b"")[:offset] + b"".join(content)
        return len(files[file])

    def commit(self, draft: Draft, step: int) -> Committed:
        files = self._files(draft)
        if not files:
            raise Damaged("Nothing was written into the checkpoint.")
        listed = [
            File(name, len(data), hashlib.sha256(data).hexdigest())
            for name, data in sorted(files.items())
        ]
        content = build(step, listed)
        path, number = draft.path, 1
        while self.committed.setdefault(path, files) is not files:
            number += 1
            path = draft.path._replace(name=f"{draft.path.name[:120]}.{number}")
        files[MANIFEST] = content
        del self.drafts[draft]
        return Committed(path, parse(content))

    def abandon(self, draft: Draft) -> None:
        self.drafts.pop(draft, None)

    def remove_drafts(self, experiment_id: str, run_id: str) -> None:
        for draft in list(self.drafts):
            if draft.path[:2] == (experiment_id, run_id):
                self.abandon(draft)

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

    def _files(self, draft: Draft) -> Files:
        if draft not in self.drafts:
            raise Damaged(f"{draft.path} is not being written.")
        return self.drafts[draft]
