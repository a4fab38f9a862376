"""What every storage of checkpoints promises.

A storage joins by a class with two fixtures, in any test module. With the one in memory:

    import pytest
    from memory_storage import MemoryStorage
    from tests.support.storage_contract import PATH, StorageContract

    class TestMemory(StorageContract):
        @pytest.fixture
        def storage(self, tmp_path):
            return MemoryStorage("memory:", tmp_path)

        @pytest.fixture
        def damage(self, storage):
            def damage(file, content):
                files = storage.committed[PATH]
                if content is None:
                    del files[file]
                else:
                    files[file] = content

            return damage

Each test gets a storage of its own, empty and prepared, from whatever URL and options it needs.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from llm_train.manifest import File, Link, build

from app.domain.paths import CheckpointPath
from app.storage.base import (
    MANIFEST,
    Abandoned,
    CheckpointStorage,
    Committed,
    Damaged,
    Draft,
    Incomplete,
)
from app.storage.streams import Aborted

PATH = CheckpointPath("exp_0a", "run_0b", "step-000100")
"""The checkpoint that most tests save, with the files model.bin and optimizer/state.bin."""
Damage = Callable[[str, bytes | None], object]
"""Called with the name of a file and its new content; None: the file is removed."""


def save(
    storage: CheckpointStorage, path: CheckpointPath = PATH, content: bytes = b"w"
) -> Committed:
    draft = storage.begin(path)
    storage.write(draft, "optimizer/state.bin", [b"adam"])
    storage.write(draft, "model.bin", [content])
    return storage.commit(draft, manifest(content))


def manifest(model: bytes = b"w", step: int = 100, **others: bytes) -> bytes:
    """As a trainer writes it, of "model.bin" and others."""
    content = {"model.bin": model, **(others or {"optimizer/state.bin": b"adam"})}
    return build(
        step,
        [
            File(path, len(content[path]), hashlib.sha256(content[path]).hexdigest())
            for path in sorted(content)
        ],
    )


def only(model: bytes) -> bytes:
    """The manifest of "model.bin" alone."""
    listed = File("model.bin", len(model), hashlib.sha256(model).hexdigest())
    return re.sub(
        rb'"created_at": ".*"', b'"created_at": "2026-01-01T00:00:00Z"', build(7, [listed])
    )


class StorageContract:
    """The promises. `storage` and `damage` are the storage's own; the rest is the same for all."""

    @pytest.fixture
    def storage(self) -> CheckpointStorage:
        """An empty storage."""
        raise NotImplementedError

    @pytest.fixture
    def damage(self) -> Damage:
        """A function that writes a file of PATH behind the storage's back, or removes it."""
        raise NotImplementedError

    def test_a_committed_checkpoint_is_whole_and_is_read_back(
        self, storage: CheckpointStorage
    ) -> None:
        path, found = save(storage, content=b"weights")

        assert path == PATH and found.step == 100
        assert {file.path: file.size for file in found.files} == {
            "model.bin": 7, "optimizer/state.bin": 4,
        }  # fmt: skip
        assert storage.verify(path) == storage.manifest(path) == found
        assert storage.exists(path) and storage.list_run(*path[:2]) == [path]
        assert storage.size(path, 1 << 30) >= 11
        assert b"".join(storage.read(path, "model.bin")) == b"weights"
        assert b"".join(storage.read(path, "optimizer/state.bin", offset=2)) == b"am"
        content = b"".join(storage.read(path, MANIFEST))
        assert hashlib.sha256(content).hexdigest() == found.sha256
        assert json.loads(content) == json.loads(manifest(b"weights")) | {
            "created_at": found.created_at
        }, "it is the trainer's"

    def test_until_the_commit_there_is_nothing_and_an_abandoned_draft_leaves_nothing(
        self,
        storage: CheckpointStorage,
    ) -> None:
        draft = storage.begin(PATH)
        storage.write(draft, "model.bin", [b"half"])
        assert not storage.exists(PATH) and storage.list_run(*PATH[:2]) == []
        with pytest.raises(Damaged):
            storage.verify(PATH)
        storage.abandon(draft)
        storage.abandon(draft)
        with pytest.raises(Abandoned):
            storage.commit(draft, manifest())
        assert not storage.exists(PATH) and storage.list_run(*PATH[:2]) == []

    def test_drafts_of_a_dead_trainer_are_removed_and_its_checkpoints_stay(
        self,
        storage: CheckpointStorage,
    ) -> None:
        save(storage)
        left, other = storage.begin(PATH), storage.begin(PATH._replace(run_id="run_0c"))
        storage.remove_drafts(*PATH[:2])
        with pytest.raises(Abandoned):
            storage.write(left, "model.bin", [b"late"])
        storage.write(other, "model.bin", [b"of another run"])
        storage.verify(PATH)
        storage.remove_drafts("exp_0a", "run_0d")

    def test_a_broken_transfer_goes_on_where_it_ended(self, storage: CheckpointStorage) -> None:
        draft = storage.begin(PATH)
        assert storage.write(draft, "model.bin", [b"abc", b"def"]) == 6
        assert storage.write(draft, "model.bin", [b"XYZ"], offset=4) == 7
        with pytest.raises(Damaged):
            storage.write(draft, "model.bin", [b"behind a gap"], offset=8)
        path, _ = storage.commit(draft, only(b"abcdXYZ"))
        assert b"".join(storage.read(path, "model.bin")) == b"abcdXYZ"
        storage.verify(path)

    def test_a_sender_that_breaks_off_leaves_nothing_that_could_be_committed(
        self,
        storage: CheckpointStorage,
    ) -> None:
        def broken() -> Iterator[bytes]:
            yield b"abc"
            raise Aborted("the sender is gone")

        draft = storage.begin(PATH)
        with pytest.raises(Aborted):
            storage.write(draft, "model.bin", broken())
        with pytest.raises(Incomplete) as incomplete:
            storage.commit(draft, only(b"abcdef"))
        assert incomplete.value.files == ["model.bin"]
        storage.write(draft, "model.bin", [b"abcdef"])
        storage.write(draft, "surplus.bin", [b"dropped"])
        path, found = storage.commit(draft, only(b"abcdef"))
        assert storage.verify(path) == found and [file.path for file in found.files] == [
            "model.bin"
        ]

    def test_a_draft_of_the_callers_key_is_gone_on_with_and_its_commit_is_repeated(
        self,
        storage: CheckpointStorage,
    ) -> None:
        content = only(b"abc")
        storage.write(storage.begin(PATH, "attempt-1"), "model.bin", [b"abc"])
        assert storage.draft_bytes(*PATH[:2]) >= 3
        other = storage.begin(PATH, "attempt-2")
        first = storage.commit(storage.begin(PATH, "attempt-1"), content)
        assert first.path == PATH
        assert storage.commit(Draft(PATH, "attempt-1"), content) == first, "the answer was lost"
        with pytest.raises(Damaged):
            storage.commit(Draft(PATH, "attempt-1"), only(b"xyz"))
        storage.write(other, "model.bin", [b"xyz"])
        second = storage.commit(other, only(b"xyz"))
        assert second.path == PATH._replace(name="step-000100.2")
        assert storage.commit(other, only(b"xyz")) == second
        assert storage.commit(Draft(PATH, "attempt-1"), content) == first
        assert storage.list_run(*PATH[:2]) == [first.path, second.path]
        for key in ("", "../x", "A", "x" * 65, "a.b"):
            with pytest.raises(Damaged):
                storage.begin(PATH, key)

    def test_two_writers_of_one_name_both_keep_their_work(self, storage: CheckpointStorage) -> None:
        found: list[Committed] = []
        threads = [
            threading.Thread(target=lambda n=n: found.append(save(storage, content=b"%d" % n)))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({each.path for each in found}) == 8
        assert PATH in {each.path for each in found}
        assert all(storage.verify(each.path) == each.manifest for each in found)

    def test_a_checkpoint_that_two_have_sent_is_one(self, storage: CheckpointStorage) -> None:
        """As by a trainer, and by the agent that sends what the trainer may have left."""
        content = only(b"abc")
        for key in ("of-the-trainer", "attempt-1"):
            draft = storage.begin(PATH, key)
            storage.write(draft, "model.bin", [b"abc"])
            assert storage.commit(draft, content).path == PATH
        assert storage.commit(storage.begin(PATH, "attempt-2"), content).path == PATH
        assert storage.list_run(*PATH[:2]) == [PATH]
        assert storage.verify(PATH).files
        storage.remove_drafts(*PATH[:2])
        assert storage.draft_bytes(*PATH[:2]) == 0
        assert storage.verify(PATH).files

    def test_nothing_is_no_checkpoint(self, storage: CheckpointStorage) -> None:
        for content in (b"", b"{}", manifest(), b'{"format": 1, "step": 1, "files": []}'):
            with pytest.raises(Damaged):
                storage.commit(storage.begin(PATH), content)
        with pytest.raises(Damaged):
            storage.write(Draft(PATH, "../../etc"), "passwd", [b"x"])
        with pytest.raises(Damaged):
            list(storage.read(PATH, "model.bin"))

    @pytest.mark.parametrize(
        "file", ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".", MANIFEST, "a\0b", "x" * 2000]
    )
    def test_no_file_is_written_or_read_outside_of_its_checkpoint(
        self, storage: CheckpointStorage, file: str
    ) -> None:
        draft = storage.begin(PATH)
        with pytest.raises(Damaged):
            storage.write(draft, file, [b"hostile"])
        storage.write(draft, "model.bin", [b"w"])
        with pytest.raises(Damaged):
            storage.write(draft, "model.bin/below", [b"a file"])
        path, found = storage.commit(draft, only(b"w"))
        assert storage.verify(path) == found and len(found.files) == 1
        if file != MANIFEST:
            with pytest.raises(Damaged):
                list(storage.read(path, file))

    def test_a_deletion_takes_the_checkpoint_that_was_meant_and_may_be_repeated(
        self,
        storage: CheckpointStorage,
    ) -> None:
        _, first = save(storage, content=b"first")
        storage.delete(PATH, "0" * 64)
        assert storage.verify(PATH) == first, "it was another one"
        storage.delete(PATH, first.sha256)
        storage.delete(PATH, first.sha256)
        assert not storage.exists(PATH)
        again = save(storage, content=b"again")
        storage.delete(PATH, first.sha256)
        assert again.path == PATH and storage.verify(PATH) == again.manifest

    def test_a_runs_removal_takes_all_of_it_and_nothing_else(
        self, storage: CheckpointStorage
    ) -> None:
        other = PATH._replace(run_id="run_0bc")
        for path in (PATH, PATH._replace(name="s2"), other):
            save(storage, path)
        draft = storage.begin(PATH._replace(name="s3"))
        storage.write(draft, "model.bin", [b"half"])
        storage.remove_run(PATH.experiment_id, PATH.run_id)
        storage.remove_run(PATH.experiment_id, PATH.run_id)
        assert storage.list_run(PATH.experiment_id, PATH.run_id) == []
        assert not storage.exists(PATH)
        assert storage.draft_bytes(PATH.experiment_id, PATH.run_id) == 0
        assert storage.verify(other).step == 100
        storage.remove_run("exp_none", "run_none")

    def test_the_links_of_a_manifest_are_where_a_trainer_reads_it(
        self, storage: CheckpointStorage
    ) -> None:
        """They come with the manifest alone: nobody writes them."""
        content = json.loads(only(b"w")) | {
            "links": [{"path": "sub/last", "target": "../model.bin"}]
        }
        draft = storage.begin(PATH)
        storage.write(draft, "model.bin", [b"w"])
        path, saved = storage.commit(draft, json.dumps(content).encode())
        assert saved.links == (Link("sub/last", "../model.bin"),)
        assert storage.verify(path) == storage.manifest(path) == saved
        storage.stage(*path[:2], path)
        if (directory := storage.location(*path)) is not None:
            assert Path(directory, "sub/last").readlink() == Path("../model.bin")
            assert Path(directory, "sub/last").read_bytes() == b"w"

    @pytest.mark.parametrize(
        ("file", "content"),
        [("model.bin", b"W"), ("model.bin", None), ("more.bin", b"W"), (MANIFEST, None)],
        ids=["changed", "missing", "extra", "no manifest"],
    )
    def test_what_is_not_what_was_committed_is_damaged(
        self, storage: CheckpointStorage, damage: Damage, file: str, content: bytes | None
    ) -> None:
        save(storage)
        damage(file, content)
        with pytest.raises(Damaged) as damaged:
            storage.verify(PATH)
        assert str(damaged.value).endswith(".")
        assert storage.exists(PATH)
        assert storage.list_run(*PATH[:2]) == ([] if file == MANIFEST else [PATH])
