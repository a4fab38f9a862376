"""Several ranks save one checkpoint: whole, or not at all, at once or in the background."""

import socket
import subprocess
import sys
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.real_trainers import SCRIPTS
from tests.support.server import wait_until
from tests.support.service import Service

SECONDS = 90.0
SHORT: dict[str, Any] = {"max_steps": 12, "save_steps": 4, "learning_rate": 0.001}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_shards_of_all_ranks_are_one_checkpoint_that_a_resumed_run_loads(
    service: Service, asynchronous: bool
) -> None:
    run = service.submit("fsdp-ddp", **SHORT, asynchronous=asynchronous)
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["step"]) == ("succeeded", 12), ended
    saved = service.checkpoints(run)
    assert saved.keys() == {"step-000004", "step-000008", "step-000012"}
    for checkpoint in saved.values():
        assert checkpoint["state"] == "ready"
        names = {path.name for path in service.directory(checkpoint).iterdir()}
        assert {"__0_0.distcp", "__1_0.distcp", ".metadata", "manifest.json"} <= names
    path = saved["step-000008"]["ckpt_path"]
    child = service.resume(run, ckpt_path=path, override_hyperparams={"max_steps": 14})["run_id"]
    ended = service.ended(child, SECONDS)
    assert (ended["status"], ended["step"]) == ("succeeded", 14), ended
    first = min(step for step, _ in service.losses(child))
    assert first == 9, "it goes on from the checkpoint"


def test_a_rank_that_fails_leaves_nothing_of_the_checkpoint_and_all_ranks_know(
    service: Service,
) -> None:
    run = service.submit("fsdp-ddp", **SHORT, deed="save fails")
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["step"]) == ("succeeded", 12), ended
    assert service.checkpoints(run).keys() == {"step-000004", "step-000012"}
    log = (service.data_dir / "runs" / run / "train.log").read_text()
    assert "rank 1: OSError('rank 1 has no room')" in log
    assert "rank 0: CheckpointError(" in log and "rank 1 has no room" in log.split("rank 0:")[1]
    folder = service.data_dir / "ckpts" / service.experiment / run
    assert sorted(path.name for path in folder.iterdir()) == ["step-000004", "step-000012"]


def test_each_node_of_a_training_reports_its_own_metrics_by_rank_and_host(
    service: Service,
) -> None:
    run = service.submit("two-nodes", **SHORT | {"max_steps": 100_000, "save_steps": 100_000})
    host = socket.gethostname()[:64].replace("/", "_")
    path = f"/experiments/{service.experiment}/runs/{run}/metrics?raw=true&limit=1000&keys="
    keys = [
        f"system/{node}{key}"
        for node in ("", f"rank1@{host}/")
        for key in ("cpu_percent", "memory_mb", "host_cpu_percent")
    ]

    def reported() -> dict[str, Any] | None:
        found = {s["key"]: s for key in keys for s in service.get(path + quote(key))["series"]}
        return found if found.keys() == set(keys) else None

    curves = wait_until(reported, lambda: str(service.status(run)), 2 * SECONDS)
    assert curves is not None
    for key in keys:
        if not key.endswith("host_cpu_percent"):
            assert all(value > 0 for value in curves[key]["values"]), curves[key]
    assert max(step for curve in curves.values() for step in curve["steps"]) > 0
    promised = service.cancel(run, 202)["ckpt_path"]
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["ckpt_path"]) == ("cancelled", promised)
    saved = service.checkpoints(run)["cancel-1"]
    assert (saved["state"], saved["step"]) == ("ready", ended["step"])


def test_no_thread_of_gloo_is_left_that_could_abort_a_rank_at_its_exit() -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(SCRIPTS / "leaves.py"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sorted(lines) == ["at its end False"] * 2 + ["works True"] * 2, lines
