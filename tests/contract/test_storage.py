"""The promises of every storage (tests/support/storage_contract.py), kept by those that there are.

The one in memory was made, and is installed here as a package of its own, by the steps of
`app/storage/base.py` alone.
"""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import CheckpointUnreadable
from app.storage import GROUP, base, get_storage
from app.storage import STORAGES as BUILT_IN
from app.storage.base import MANIFEST, CheckpointStorage, Draft
from app.storage.objects import Bucket
from app.storage.staged import StagedStorage
from tests.support import buckets, memory_storage, storage_contract
from tests.support.disk import exchange
from tests.support.newcomer import installed
from tests.support.server import REPOSITORY
from tests.support.service import home
from tests.support.storage_contract import PATH, Damage, StorageContract, only, save


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[None]:
    """The storage in memory, installed as another package's."""
    with installed(tmp_path / "site", base.__doc__ or "", GROUP, memory_storage):
        yield


class TestDirectory(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> CheckpointStorage:
        return get_storage("directory:", tmp_path)

    @pytest.fixture
    def damage(self, tmp_path: Path) -> Damage:
        def damage(file: str, content: bytes | None) -> None:
            path = tmp_path.joinpath("ckpts", *PATH, file)
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)

        return damage


class OfBucket(StorageContract):
    """A storage in a bucket, which is in memory, or on the server that tests are given."""

    @pytest.fixture
    def bucket(self) -> Bucket:
        return buckets.make_bucket()

    @pytest.fixture
    def damage(self, bucket: Bucket) -> Damage:
        def damage(file: str, content: bytes | None) -> None:
            model = buckets.key_of(bucket, "/files/model.bin")
            is_manifest = file == MANIFEST
            key = (
                buckets.key_of(bucket, f"/{MANIFEST}")
                if is_manifest
                else model.replace("model.bin", file)
            )
            if content is None:
                bucket.delete([key])
            else:
                bucket.put(key, content)

        return damage


class TestBucket(OfBucket):
    @pytest.fixture
    def storage(self, bucket: Bucket, tmp_path: Path) -> CheckpointStorage:
        return buckets.store_in(bucket, tmp_path)


class TestStaged(OfBucket):
    """With the data directory before the bucket, as a service has it."""

    @pytest.fixture
    def storage(self, bucket: Bucket, tmp_path: Path) -> CheckpointStorage:
        return buckets.staged_in(bucket, tmp_path)


class TestNewcomer(StorageContract):
    """Found by its entry point; without a location, so that the data directory is before it."""

    @pytest.fixture
    def storage(self, tmp_path: Path, newcomer: None) -> CheckpointStorage:
        return get_storage("memory:", tmp_path / "data")

    @pytest.fixture
    def damage(self, storage: StagedStorage) -> Damage:
        def damage(file: str, content: bytes | None) -> None:
            store: Any = storage.store
            files = store.committed[PATH]
            if content is None:
                del files[file]
            else:
                files[file] = content

        return damage


def test_the_written_class_holds_a_storage_to_the_contract(tmp_path: Path, newcomer: None) -> None:
    """And leaves nothing in the working directory."""
    example = re.search(r"(?m)(^ {4}.*\n|^\n)+^ {4}.*\n", storage_contract.__doc__ or "")
    assert example is not None
    (tmp_path / "test_mine.py").write_text(textwrap.dedent(example[0]))
    here = tmp_path / "here"
    here.mkdir()
    path = os.pathsep.join([str(REPOSITORY), os.environ["PYTHONPATH"]])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "../test_mine.py"]
    environment = {**os.environ, "PYTHONPATH": path, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout
    assert list(here.iterdir()) == []


def test_what_cannot_be_read_now_is_not_taken_for_damaged(tmp_path: Path) -> None:
    """Of the directory: a loop of links stands for a disk that answers with errors."""
    storage = get_storage("directory:", tmp_path)
    path, saved = save(storage)
    place, loop = tmp_path / "ckpts" / path.experiment_id, tmp_path / "loop"
    loop.symlink_to(loop)
    exchange(place, loop)
    draft = Draft(path, "0" * 8)
    for ask in (
        lambda: storage.begin(path),
        lambda: storage.write(draft, "model.bin", [b""]),
        lambda: storage.commit(draft, only(b"")),
        lambda: storage.verify(path),
        lambda: storage.manifest(path),
        lambda: list(storage.read(path, "model.bin")),
        lambda: storage.delete(path, saved.sha256),
        lambda: storage.list_run(*path[:2]),
    ):
        with pytest.raises(CheckpointUnreadable):
            ask()
    assert storage.exists(path)
    exchange(place, loop)
    assert storage.verify(path) == saved


def test_a_server_that_dies_while_it_deletes_leaves_no_half_checkpoint(tmp_path: Path) -> None:
    storage = get_storage("directory:", tmp_path)
    path, saved = save(storage)
    directory = Path(storage.location(*path) or "")
    shutil.move(directory, directory.with_name(f".trash-{path.name}"))
    assert not storage.exists(path) and storage.list_run(*path[:2]) == []
    storage.delete(path, saved.sha256)
    assert list(directory.parent.iterdir()) == []


def test_a_wrong_url_says_what_there_is(tmp_path: Path, newcomer: None) -> None:
    with pytest.raises(ValueError, match="directory, gs, memory, s3"):
        get_storage("floppy://a", tmp_path)
    with pytest.raises(ValueError, match="no place of its own"):
        get_storage("directory:/mnt", tmp_path)


def test_every_built_in_storage_is_held_to_this_contract() -> None:
    of_buckets = {"s3", "gs", "az", "abfs", "abfss"}  # one class, here over a bucket in memory
    assert set(BUILT_IN) == {"directory", *of_buckets}


def test_another_process_finds_the_newcomer_by_its_entry_point(
    tmp_path: Path, newcomer: None
) -> None:
    ask = (
        "import pathlib, app.storage as s; "
        "made = s.get_storage('memory:', pathlib.Path('.')); print(type(made.store).__module__)"
    )
    found = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert found.stdout.strip() == "memory_storage", found.stderr


def test_runs_of_this_machine_save_into_the_newcomer_and_go_on_from_it(
    tmp_path: Path, newcomer: None
) -> None:
    """It has no location: once the trainer saved where nobody looked, in its working directory."""
    with home(tmp_path) as place, place.serve(STORAGE="memory:") as service:
        run = service.submit("obedient", steps=1000, step_seconds=0.02)
        service.stepping(run, 5)
        promised = service.cancel(run)["checkpoint"]["ckpt_path"]
        ended = service.ended(run)
        saved = service.checkpoints(run)[promised.rpartition("/")[2]]
        assert (ended["status"], saved["state"]) == ("cancelled", "ready"), saved

        shutil.rmtree(service.directory(saved))  # the copy here: what it starts from is stored
        child = service.resume(run, override_hyperparams={"steps": saved["step"] + 5})["run_id"]
        assert service.ended(child)["status"] == "succeeded", service.status(child)
        assert service.status(child)["step"] == saved["step"] + 5
