"""What every storage of checkpoints promises, the built-in one and one that a newcomer adds.

Control: `app/storage/base.py` says how to add one; the one in memory was made by those steps alone.
"""

import hashlib
import importlib
import shutil
import threading
from pathlib import Path

import pytest

from app.domain.paths import CheckpointPath
from app.errors import CheckpointUnreadable
from app.storage import STORAGES as BUILT_IN
from app.storage import get_storage
from app.storage.base import MANIFEST, CheckpointStorage, Committed, Damaged, Draft
from tests.support.disk import exchange
from tests.support.memory_storage import MemoryStorage

PATH = CheckpointPath("exp_0a", "run_0b", "step-000100")
STORAGES = ["directory", "memory"]


@pytest.fixture(params=STORAGES)
def storage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CheckpointStorage:
    """Each storage, found by the scheme of its URL; of another package's, by its entry point."""
    package = tmp_path / "site" / "memory-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: memory\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        f"[llm_train.storage]\nmemory = {MemoryStorage.__module__}:{MemoryStorage.__name__}\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    importlib.invalidate_caches()
    return get_storage(f"{request.param}:", tmp_path / "data")


def save(
    storage: CheckpointStorage, path: CheckpointPath = PATH, content: bytes = b"w"
) -> Committed:
    draft = storage.begin(path)
    storage.write(draft, "optimizer/state.bin", [b"adam"])
    storage.write(draft, "model.bin", [content])
    return storage.commit(draft, step=100)


def test_a_committed_checkpoint_is_whole_and_is_read_back(storage: CheckpointStorage) -> None:
    path, manifest = save(storage, content=b"weights")

    assert path == PATH and manifest.step == 100
    assert {file.path: file.size for file in manifest.files} == {
        "model.bin": 7, "optimizer/state.bin": 4,
    }  # fmt: skip
    assert storage.verify(path) == storage.manifest(path) == manifest
    assert storage.exists(path) and storage.list_run(*path[:2]) == [path]
    assert storage.size(path, 1 << 30) >= 11
    assert b"".join(storage.read(path, "model.bin")) == b"weights"
    assert b"".join(storage.read(path, "optimizer/state.bin", offset=2)) == b"am"
    said = hashlib.sha256(b"".join(storage.read(path, MANIFEST))).hexdigest()
    assert said == manifest.sha256


def test_until_the_commit_there_is_nothing_and_an_abandoned_draft_leaves_nothing(
    storage: CheckpointStorage,
) -> None:
    draft = storage.begin(PATH)
    storage.write(draft, "model.bin", [b"half"])
    assert not storage.exists(PATH) and storage.list_run(*PATH[:2]) == []
    with pytest.raises(Damaged):
        storage.verify(PATH)
    storage.abandon(draft)
    storage.abandon(draft)
    with pytest.raises(Damaged):
        storage.commit(draft, 1)
    assert not storage.exists(PATH) and storage.list_run(*PATH[:2]) == []


def test_drafts_of_a_dead_trainer_are_removed_and_its_checkpoints_stay(
    storage: CheckpointStorage,
) -> None:
    save(storage)
    left, other = storage.begin(PATH), storage.begin(PATH._replace(run_id="run_0c"))
    storage.remove_drafts(*PATH[:2])
    with pytest.raises(Damaged):
        storage.write(left, "model.bin", [b"late"])
    storage.write(other, "model.bin", [b"of another run"])
    storage.verify(PATH)
    storage.remove_drafts("exp_0a", "run_0d")


def test_a_broken_transfer_goes_on_where_it_ended(storage: CheckpointStorage) -> None:
    draft = storage.begin(PATH)
    assert storage.write(draft, "model.bin", [b"abc", b"def"]) == 6
    assert storage.write(draft, "model.bin", [b"XYZ"], offset=4) == 7
    with pytest.raises(Damaged):
        storage.write(draft, "model.bin", [b"behind a gap"], offset=8)
    path, _ = storage.commit(draft, 1)
    assert b"".join(storage.read(path, "model.bin")) == b"abcdXYZ"
    storage.verify(path)


def test_two_writers_of_one_name_both_keep_their_work(storage: CheckpointStorage) -> None:
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


def test_nothing_is_no_checkpoint(storage: CheckpointStorage) -> None:
    with pytest.raises(Damaged):
        storage.commit(storage.begin(PATH), 1)
    with pytest.raises(Damaged):
        storage.write(Draft(PATH, "../../etc"), "passwd", [b"x"])
    with pytest.raises(Damaged):
        list(storage.read(PATH, "model.bin"))


@pytest.mark.parametrize(
    "file", ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".", MANIFEST, "a\0b", "x" * 2000]
)
def test_no_file_is_written_or_read_outside_of_its_checkpoint(
    storage: CheckpointStorage, file: str
) -> None:
    draft = storage.begin(PATH)
    with pytest.raises(Damaged):
        storage.write(draft, file, [b"hostile"])
    storage.write(draft, "model.bin", [b"w"])
    with pytest.raises(Damaged):
        storage.write(draft, "model.bin/below", [b"a file"])
    path, manifest = storage.commit(draft, 1)
    assert storage.verify(path) == manifest and len(manifest.files) == 1
    if file != MANIFEST:
        with pytest.raises(Damaged):
            list(storage.read(path, file))


def test_a_deletion_takes_the_checkpoint_that_was_meant_and_may_be_repeated(
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


def damage(storage: CheckpointStorage, data_dir: Path, how: str) -> None:
    """As by a bad disk, or a hand."""
    if isinstance(storage, MemoryStorage):
        files = storage.committed[PATH]
        if how == "changed":
            files["model.bin"] = b"W"
        elif how == "extra":
            files["more.bin"] = b""
        else:
            del files[MANIFEST if how == "no manifest" else "model.bin"]
        return
    directory = Path(storage.location(*PATH) or "")
    if how in ("changed", "extra"):
        (directory / ("model.bin" if how == "changed" else "more.bin")).write_bytes(b"W")
    else:
        (directory / (MANIFEST if how == "no manifest" else "model.bin")).unlink()


@pytest.mark.parametrize("how", ["changed", "missing", "extra", "no manifest"])
def test_what_is_not_what_was_committed_is_damaged(
    storage: CheckpointStorage, tmp_path: Path, how: str
) -> None:
    save(storage)
    damage(storage, tmp_path, how)
    with pytest.raises(Damaged) as damaged:
        storage.verify(PATH)
    assert str(damaged.value).endswith(".")
    assert storage.exists(PATH)
    assert storage.list_run(*PATH[:2]) == ([] if how == "no manifest" else [PATH])


def test_what_cannot_be_read_now_is_not_taken_for_damaged(tmp_path: Path) -> None:
    """Of the directory: a loop of links stands for a disk that answers with errors."""
    storage = get_storage("directory:", tmp_path)
    path, manifest = save(storage)
    place, loop = tmp_path / "ckpts" / path.experiment_id, tmp_path / "loop"
    loop.symlink_to(loop)
    exchange(place, loop)
    draft = Draft(path, "0" * 8)
    for ask in (
        lambda: storage.begin(path),
        lambda: storage.write(draft, "model.bin", [b""]),
        lambda: storage.commit(draft, 1),
        lambda: storage.verify(path),
        lambda: storage.manifest(path),
        lambda: list(storage.read(path, "model.bin")),
        lambda: storage.delete(path, manifest.sha256),
        lambda: storage.list_run(*path[:2]),
    ):
        with pytest.raises(CheckpointUnreadable):
            ask()
    assert storage.exists(path)
    exchange(place, loop)
    assert storage.verify(path) == manifest


def test_a_server_that_dies_while_it_deletes_leaves_no_half_checkpoint(tmp_path: Path) -> None:
    storage = get_storage("directory:", tmp_path)
    path, manifest = save(storage)
    directory = Path(storage.location(*path) or "")
    shutil.move(directory, directory.with_name(f".trash-{path.name}"))
    assert not storage.exists(path) and storage.list_run(*path[:2]) == []
    storage.delete(path, manifest.sha256)
    assert list(directory.parent.iterdir()) == []


def test_a_wrong_url_says_what_there_is(tmp_path: Path, storage: CheckpointStorage) -> None:
    with pytest.raises(ValueError, match="directory, memory"):
        get_storage("floppy://a", tmp_path)
    with pytest.raises(ValueError, match="no place of its own"):
        get_storage("directory:/mnt", tmp_path)


def test_every_built_in_storage_is_held_to_this_contract() -> None:
    assert set(BUILT_IN) <= set(STORAGES)
