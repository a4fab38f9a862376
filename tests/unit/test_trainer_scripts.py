"""The trainers that other tests rely on really behave as their names say."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from llm_train import checkpoint

from tests.support.reports import ReportServer
from tests.support.server import REPOSITORY, alive, wait_until
from tests.support.trainers import argv


@pytest.fixture
def server() -> Iterator[ReportServer]:
    server = ReportServer()
    yield server
    server.stop()


def start(
    name: str, server: ReportServer, run_dir: Path, **hyperparams: Any
) -> subprocess.Popen[bytes]:
    spec = {"hyperparams": hyperparams, "checkpoint_dir": str(run_dir / "c")}
    (run_dir / "spec.json").write_text(json.dumps(spec))
    env = {
        **os.environ,
        "LLM_TRAIN_API_URL": server.url,
        "LLM_TRAIN_RUN_ID": "run_1",
        "LLM_TRAIN_RUN_TOKEN": "secret",
        "LLM_TRAIN_ATTEMPT": "1",
        "LLM_TRAIN_RUN_DIR": str(run_dir),
    }
    with (run_dir / "train.log").open("wb") as log:
        return subprocess.Popen(argv(name), cwd=REPOSITORY, env=env, stdout=log, stderr=log)


def says(run_dir: Path, text: str) -> None:
    log = run_dir / "train.log"
    wait_until(lambda: text in log.read_text(), lambda: log.read_text())


def saved(run_dir: Path) -> dict[str, int]:
    directory = run_dir / "c"
    names = [p.name for p in directory.iterdir()] if directory.exists() else []
    return {name: checkpoint.verify(directory / name).step for name in names}


@pytest.mark.parametrize(
    ("name", "code", "steps_done", "says_finished", "tells"),
    [
        ("finishes", 0, {10, 20}, True, True),
        ("silent", 0, {10, 20}, False, False),
        ("crashes", 3, set(), False, True),
        ("oom_like", -signal.SIGKILL, set(), False, True),
    ],
)
def test_those_that_end_by_themselves(
    server: ReportServer,
    tmp_path: Path,
    name: str,
    code: int,
    steps_done: set[int],
    says_finished: bool,
    tells: bool,
) -> None:
    with start(name, server, tmp_path, step_seconds=0.01) as process:
        assert process.wait(60) == code, (tmp_path / "train.log").read_text()
    assert set(saved(tmp_path).values()) == steps_done
    assert any(body.get("finished") for body in server.taken.values()) is says_finished
    assert bool(server.taken) is tells


@pytest.mark.parametrize(
    ("name", "code"),
    [("obedient", 0), ("exits_zero_halfway", 0), ("hangs_before_first_report", -signal.SIGTERM)],
)
def test_those_that_can_be_stopped(
    server: ReportServer, tmp_path: Path, name: str, code: int
) -> None:
    with start(name, server, tmp_path, steps=10_000, checkpoint_every=10_000) as process:
        says(tmp_path, "hangs" if name.startswith("hangs") else "step 3/")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == code, (tmp_path / "train.log").read_text()
    assert list(saved(tmp_path)) == (["cancel-1"] if name == "obedient" else [])
    assert not any(body.get("finished") for body in server.taken.values())


@pytest.mark.parametrize("name", ["ignores_term", "spawns_grandchild"])
def test_those_that_cannot(server: ReportServer, tmp_path: Path, name: str) -> None:
    with start(name, server, tmp_path, steps=10_000, checkpoint_every=10_000) as process:
        says(tmp_path, "step 3/")
        process.send_signal(signal.SIGTERM)
        reached = max((b.get("step", 0) for b in server.taken.values()), default=0)
        says(tmp_path, f"step {reached + 20}/")
        process.kill()
    assert saved(tmp_path) == {}
    if name == "spawns_grandchild":
        daemon = psutil.Process(int((tmp_path / "grandchild.pid").read_text()))
        daemon.terminate()
        with pytest.raises(psutil.TimeoutExpired):
            daemon.wait(0.2)
        assert os.getsid(daemon.pid) not in (os.getsid(0), process.pid)
        daemon.kill()
        wait_until(lambda: not alive(daemon), "its end")


def test_an_interrupted_training_goes_on_from_its_checkpoint(
    server: ReportServer, tmp_path: Path
) -> None:
    with start("obedient", server, tmp_path, steps=500, step_seconds=0.02) as process:
        says(tmp_path, "step 12/")
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    reached = saved(tmp_path)["cancel-1"]
    child = tmp_path / "child"
    child.mkdir()
    spec = {
        "hyperparams": {"steps": reached + 5, "step_seconds": 0},
        "checkpoint_dir": str(child / "c"),
        "resume": {"path": str(tmp_path / "c/cancel-1"), "step": reached},
    }
    (child / "spec.json").write_text(json.dumps(spec))
    env = {**os.environ, "LLM_TRAIN_ATTEMPT": "1", "LLM_TRAIN_RUN_DIR": str(child)}
    done = subprocess.run(argv("finishes"), cwd=REPOSITORY, env=env, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"step {reached + 1}/{reached + 5} loss ")
    assert lines[-1].endswith(f"loss {0.99 ** (reached + 5):.6f}")
    assert reached + 5 in saved(child).values()
