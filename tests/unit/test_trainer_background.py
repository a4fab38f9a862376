"""Commits in the background: bounded, in order, finished before a stop and before the end."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llm_train import Reporter, checkpoint, hashing
from llm_train.checkpoint import CheckpointError, File, Quality
from llm_train.descriptors import open_directory

from tests.support.reports import ReportServer, attach
from tests.support.server import wait_until


class Gate:
    """Holds up every commit until it is opened; notes the names in the order of their commits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.begun, self.names = threading.Event(), list[str](), list[str]()
        commit = checkpoint.commit

        def held(temporary: Path, name: str, *args: Any, **kwargs: Any) -> Any:
            self.begun.append(name)
            assert self.opened.wait(60)
            committed = commit(temporary, name, *args, **kwargs)
            self.names.append(name)
            return committed

        monkeypatch.setattr(checkpoint, "commit", held)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def save(training: Reporter, step: int, **options: Any) -> None:
    with training.checkpoint(step, **options) as directory:
        (directory / "weights").write_text(str(step))


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def announced(server: ReportServer) -> list[str]:
    return [c["name"] for body in server.taken.values() for c in body.get("checkpoints", [])]


def test_training_goes_on_while_the_last_save_is_committed_and_the_next_waits_for_it(
    server: ReportServer, tmp_path: Path, gate: Gate
) -> None:
    with attach(server, checkpoint_dir=tmp_path) as training:
        save(training, 1, background=True)
        training.log(2, {"loss": 1.0})
        assert not (tmp_path / "step-000001").exists()
        second = in_thread(lambda: save(training, 3, background=True))
        time.sleep(0.05)
        assert gate.begun == ["step-000001"], "one at a time"
        gate.opened.set()
        second.join(60)
    assert gate.names == ["step-000001", "step-000003"], "close waited for the last one"
    assert checkpoint.verify(tmp_path / "step-000003").step == 3
    assert announced(server) == gate.names


def test_what_answers_a_stop_is_committed_after_the_one_before_and_at_once(
    server: ReportServer, tmp_path: Path, gate: Gate
) -> None:
    with attach(server, checkpoint_dir=tmp_path) as training:
        save(training, 1, background=True)
        training.stop_request.requested = True
        gate.opened.set()
        save(training, 2, background=True)
        assert gate.names == ["step-000001", training.stop_request.checkpoint]
        assert (tmp_path / training.stop_request.checkpoint / checkpoint.MANIFEST).exists()


def test_a_commit_that_failed_is_raised_by_the_next_save_and_by_finish(
    server: ReportServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with attach(server, checkpoint_dir=tmp_path) as training:
        for finishes in (False, True):
            with training.checkpoint(1, background=True):
                pass  # nothing was written into it
            with pytest.raises(CheckpointError, match="nothing was written"):
                if finishes:
                    training.finish()
                else:
                    save(training, 2, background=True)
        save(training, 3)
        assert list(tmp_path.glob(".tmp-*")) == [], "nothing is left of what was not saved"
        assert checkpoint.verify(tmp_path / "step-000003").step == 3


def test_finish_is_said_after_the_last_checkpoint(
    server: ReportServer, tmp_path: Path, gate: Gate
) -> None:
    with attach(server, checkpoint_dir=tmp_path) as training:
        save(training, 1, background=True)
        finishing = in_thread(training.finish)
        time.sleep(0.05)
        assert not any(body.get("finished") for body in server.taken.values())
        gate.opened.set()
        finishing.join(60)
    wait_until(lambda: any(body.get("finished") for body in server.taken.values()), "it finished")
    bodies = list(server.taken.values())
    saved = next(i for i, body in enumerate(bodies) if body.get("checkpoints"))
    assert saved <= next(i for i, body in enumerate(bodies) if body.get("finished"))


def test_files_are_hashed_the_same_by_one_thread_and_by_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = []
    for number, small in enumerate((1 << 40, 0)):
        monkeypatch.setattr(hashing, "SMALL_BYTES", small)
        temporary = checkpoint.begin(tmp_path / str(number), "a")
        for index in range(20):
            path = temporary / f"shard-{index % 3}" / "deep" / f"{index}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([index]) * (index * 1000))
        manifests.append(checkpoint.commit(temporary, "a", 1)[1])
        checkpoint.verify(tmp_path / str(number) / "a")
    assert manifests[0].files == manifests[1].files and len(manifests[0].files) == 20


def test_what_another_rank_has_hashed_is_not_read_again_but_a_wrong_size_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    hash_one = hashing._hash

    def noted(root: int, path: str, size: int) -> File:
        read.append(path)
        return hash_one(root, path, size)

    monkeypatch.setattr(hashing, "_hash", noted)
    temporary = checkpoint.begin(tmp_path, "a")
    for name in ("own", "theirs", "grown"):
        (temporary / name).write_text("abc")
    with open_directory(temporary) as root:
        hashed = hashing.hash_files(root, {"theirs": 3, "grown": 3})
    (temporary / "grown").write_text("abcd")
    read.clear()
    directory, _ = checkpoint.commit(temporary, "a", 1, hashed=hashed)
    assert sorted(read) == ["grown", "own"]
    checkpoint.verify(directory)


def test_quality_is_part_of_the_manifest(server: ReportServer, tmp_path: Path) -> None:
    metrics = {"eval_loss": float("nan"), "acc": 1, "": 3.0, "text": "x"}
    with attach(server, checkpoint_dir=tmp_path) as training:
        save(training, 1, metrics=metrics, healthy=False)
        save(training, 2)
    quality = checkpoint.load(tmp_path / "step-000001").quality
    assert repr(quality) == repr(Quality({"eval_loss": float("nan"), "acc": 1.0}, False))
    assert checkpoint.load(tmp_path / "step-000002").quality == Quality({}, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"metrics": []}, {"metrics": {"a": "1"}}, {"metrics": {"a": None}}, {"metrics": {"": 1}},
        {"metrics": {"a": 10**400}}, {"metrics": {"a\n": 1}}, {"metrics": {"a": True}},
        {"metrics": {str(n): 1 for n in range(201)}}, {"healthy": 1}, {"healthy": "no"},
        {"metrics": {"a" * 201: 1}}, {"metrics": {"a": [1]}}, {"metrics": {"a": {}}},
    ],
)  # fmt: skip
def test_a_manifest_with_wrong_metrics_is_none(wrong: dict[str, Any], tmp_path: Path) -> None:
    temporary = checkpoint.begin(tmp_path, "a")
    (temporary / "w").write_text("1")
    directory, _ = checkpoint.commit(temporary, "a", 1)
    content = json.loads((directory / checkpoint.MANIFEST).read_bytes())
    with pytest.raises(CheckpointError, match="must be"):
        checkpoint.parse(json.dumps(content | wrong).encode())


def test_the_end_of_a_process_waits_for_a_commit_whose_files_many_threads_hash(
    tmp_path: Path,
) -> None:
    script = f"""
import time
from pathlib import Path
from llm_train import Reporter, checkpoint, hashing
hashing.os.cpu_count = lambda: 4
commit = checkpoint.commit
def slow(*args, **kwargs):
    time.sleep(0.5)  # the interpreter is shutting down by then
    return commit(*args, **kwargs)
checkpoint.commit = slow
with Reporter(checkpoint_dir={str(tmp_path)!r}).checkpoint(7, background=True) as directory:
    for number in range(3):
        (directory / str(number)).write_bytes(bytes(hashing.SMALL_BYTES))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert checkpoint.verify(tmp_path / "step-000007").step == 7
