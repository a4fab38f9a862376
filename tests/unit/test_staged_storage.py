"""Trainers of this machine save into the data directory; the bucket gets it from there."""

import hashlib
import shutil
from pathlib import Path

import pytest
from llm_train import checkpoint
from llm_train.checkpoint import Manifest

from app.domain.paths import CheckpointPath
from app.errors import CheckpointUnreadable
from app.storage import staged
from app.storage.base import MANIFEST, Damaged
from app.storage.buckets import StagedBucket
from app.storage.objects import Bucket, Entry
from tests.support.buckets import damage, interleave, make_bucket, staged_in

RUN = ("exp_0a", "run_0b")


@pytest.fixture
def storage(tmp_path: Path) -> StagedBucket:
    return staged_in(make_bucket(), tmp_path)


def save(
    storage: StagedBucket, name: str, content: bytes = b"weights"
) -> tuple[CheckpointPath, Manifest]:
    """Save as a trainer of this machine does."""
    directory = Path(storage.location(*RUN) or "")
    temporary = checkpoint.begin(directory, name)
    (temporary / "model.bin").write_bytes(content)
    (temporary / "sub").mkdir()
    (temporary / "sub/state").write_bytes(b"adam")
    (temporary / "last").symlink_to("model.bin")
    final, manifest = checkpoint.commit(temporary, name, 7)
    return CheckpointPath(*RUN, final.name), manifest


def here(storage: StagedBucket, path: CheckpointPath) -> set[str]:
    """Return the files that are on this machine's disk."""
    directory = Path(storage.location(*path) or "")
    return {str(file.relative_to(directory)) for file in directory.rglob("*") if not file.is_dir()}


def test_what_is_verified_is_in_the_bucket_and_only_the_newest_is_here_too(
    storage: StagedBucket,
) -> None:
    first, manifest = save(storage, "step-1")
    assert storage.verify(first) == manifest
    assert storage.store.verify(first) == manifest, "with the same SHA-256"
    assert here(storage, first) == {MANIFEST, "model.bin", "sub/state", "last"}, "it is the newest"
    second, _ = save(storage, "step-2")
    storage.verify(second)
    assert here(storage, first) == {MANIFEST}, "it keeps the name taken"
    assert storage.size(first, 1 << 30) == manifest.size_bytes
    assert save(storage, "step-1", b"other")[0].name == "step-1.2"
    assert b"".join(storage.read(first, "model.bin")) == b"weights"
    assert storage.list_run(*RUN) == [first, CheckpointPath(*RUN, "step-1.2"), second]
    assert storage.verify(first) == manifest


@pytest.mark.parametrize("moment", ["begin", "_list_draft", "_pieces"])
def test_the_end_of_a_run_takes_nothing_from_what_is_being_copied(
    storage: StagedBucket, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """It removes drafts, while the last checkpoint is on its way into the bucket."""
    path, manifest = save(storage, "step-1")
    interleave(monkeypatch, moment, lambda: storage.remove_drafts(*RUN))
    assert storage.verify(path) == manifest
    assert storage.store.verify(path) == manifest


def test_a_copy_comes_back_for_a_trainer_that_starts_here(storage: StagedBucket) -> None:
    path, manifest = save(storage, "step-1")
    storage.verify(path)
    for left in ("stripped", "gone"):
        directory = Path(storage.location(*path) or "")
        storage.local.strip(path) if left == "stripped" else shutil.rmtree(directory)
        storage.stage(*RUN, path)
        assert checkpoint.verify(directory) == manifest
        assert (directory / "last").readlink() == Path("model.bin")
        assert not [name for name in directory.parent.iterdir() if name.name.startswith(".")]


def test_names_that_are_taken_in_the_bucket_are_taken_here(storage: StagedBucket) -> None:
    path, manifest = save(storage, "step-1")
    storage.verify(path)
    shutil.rmtree(storage.location(*path) or "")
    storage.stage(*RUN, None)
    assert here(storage, path) == {MANIFEST}
    assert save(storage, "step-1")[0].name == "step-1.2"
    assert storage.verify(path) == manifest


def test_a_damaged_copy_does_not_become_ready(storage: StagedBucket) -> None:
    path, _ = save(storage, "step-1")
    (Path(storage.location(*path) or "") / "model.bin").write_bytes(b"weightZ")
    with pytest.raises(Damaged, match="SHA-256 differs"):
        storage.verify(path)


def test_what_is_fetched_is_compared(storage: StagedBucket) -> None:
    path, _ = save(storage, "step-1")
    storage.verify(path)
    storage.local.strip(path)
    damage(storage.bucket, "changed")
    with pytest.raises(Damaged, match="SHA-256 differs"):
        storage.stage(*RUN, path)
    assert here(storage, path) == {MANIFEST}
    assert len(list(Path(storage.location(*RUN) or "").iterdir())) == 1, "no draft is left"


class Away(Bucket):
    """A bucket that may be away."""

    away = False

    def _check(self) -> None:
        if self.away:
            raise CheckpointUnreadable("The bucket is away.", retry_after=5)

    def get(self, key: str) -> bytes | None:
        self._check()
        return super().get(key)

    def put(self, key: str, content: bytes) -> None:
        self._check()
        super().put(key, content)

    def head(self, key: str) -> Entry | None:
        self._check()
        return super().head(key)

    def entries(self, prefix: str) -> dict[str, Entry]:
        self._check()
        return super().entries(prefix)


def test_while_the_bucket_is_away_the_copy_here_is_as_good(tmp_path: Path) -> None:
    bucket = Away(make_bucket()._store, "memory:")
    storage = staged_in(bucket, tmp_path)
    stored, _ = save(storage, "step-0")
    storage.verify(stored)
    bucket.away = True
    path, manifest = save(storage, "step-1")
    assert storage.verify(path) == manifest
    storage.stage(*RUN, path)
    assert b"".join(storage.read(path, "model.bin")) == b"weights"
    torn, _ = save(storage, "step-2")
    (Path(storage.location(*torn) or "") / "model.bin").write_bytes(b"weightZ")
    with pytest.raises(Damaged):
        storage.verify(torn)
    storage.local.strip(stored)
    with pytest.raises(CheckpointUnreadable):
        storage.verify(stored)
    shutil.rmtree(storage.location(*torn) or "")
    bucket.away = False
    storage.clean_up()
    assert storage.store.verify(path) == manifest, "it is taken in when the bucket is back"


def test_old_copies_go_once_they_are_verified_in_the_bucket(
    storage: StagedBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = save(storage, "step-1")
    storage.clean_up()
    assert len(here(storage, path)) == 4
    monkeypatch.setattr(staged, "COPY_SECONDS", -60.0)
    damage(storage.bucket, "changed")
    storage.clean_up()
    assert len(here(storage, path)) == 4, "the bucket's is damaged: the copy here stays"
    digest = hashlib.sha256(b"weights").hexdigest()
    assert {file.sha256 for file in storage.manifest(path).files} >= {digest}
    damage(storage.bucket, "changed")  # the bit flips back
    storage.clean_up()
    assert here(storage, path) == {MANIFEST}


def test_a_deletion_takes_both(storage: StagedBucket) -> None:
    path, manifest = save(storage, "step-1")
    storage.verify(path)
    storage.delete(path, manifest.sha256)
    assert not storage.exists(path) and storage.list_run(*RUN) == []
    assert list(Path(storage.location(*RUN) or "").iterdir()) == []
