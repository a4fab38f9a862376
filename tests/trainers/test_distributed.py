"""Several ranks save one checkpoint: whole, or not at all, at once or in the background."""

import socket
import subprocess
import sys
from typing import Any
from urllib.parse import quote

from tests.support.real_trainers import SCRIPTS
from tests.support.server import wait_until
from tests.support.service import Service

SECONDS = 300.0
SHORT: dict[str, Any] = {"max_steps": 12, "save_steps": 4, "learning_rate": 0.001}


def check_shards(service: Service, run: str, names: set[str]) -> dict[str, Any]:
    """Assert that a run has these checkpoints, ready and with the shards of both ranks."""
    saved = service.checkpoints(run)
    assert saved.keys() == names
    for checkpoint in saved.values():
        assert checkpoint["state"] == "ready"
        files = {path.name for path in service.directory(checkpoint).iterdir()}
        assert {"__0_0.distcp", "__1_0.distcp", ".metadata", "manifest.json"} <= files
    folder = service.data_dir / "ckpts" / service.experiment / run
    assert {path.name for path in folder.iterdir()} == names, "nothing else is left"
    return saved


def goes_on(service: Service, checkpoint: Any, **overrides: Any) -> str:
    """Resume a run from one of its checkpoints, and assert that it goes on from there."""
    parent, path = checkpoint["run_id"], checkpoint["ckpt_path"]
    run = service.resume(parent, ckpt_path=path, override_hyperparams=overrides)["run_id"]
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["step"]) == ("succeeded", overrides["max_steps"]), ended
    assert min(step for step, _ in service.losses(run)) == checkpoint["step"] + 1
    return str(run)


def test_shards_of_all_ranks_are_one_checkpoint_or_none_and_a_resumed_run_loads_them(
    service: Service,
) -> None:
    """Three runs, each from a checkpoint of the one before; the second saves asynchronously."""
    first = service.submit("fsdp-ddp", **SHORT, deed="save fails")
    ended = service.ended(first, SECONDS)
    assert (ended["status"], ended["step"]) == ("succeeded", 12), ended
    # At step 8 a rank has failed: nothing of it is left, and all ranks know.
    saved = check_shards(service, first, {"step-000004", "step-000012"})
    log = (service.data_dir / "runs" / first / "train.log").read_text()
    assert "rank 1: OSError('rank 1 has no room')" in log
    assert "rank 0: CheckpointError(" in log and "rank 1 has no room" in log.split("rank 0:")[1]

    more = {"max_steps": 13, "asynchronous": True, "deed": "none"}
    second = goes_on(service, saved["step-000004"], **more)
    names = {"step-000008", "step-000012", "step-000013"}
    saved = check_shards(service, second, names)
    goes_on(service, saved["step-000008"], max_steps=14)


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
