"""A trainer that somebody starts by hand trains what its run was submitted with.

Seen red: a reporter that does not ask for the spec; one that asks for it while it saves.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.clock import is_soon
from tests.support.server import PATIENCE_SECONDS, REPOSITORY
from tests.support.service import Service, running

TRAINS = """
import json, os, pathlib, sys
from llm_train import Reporter
reporter = Reporter.from_env()
lr, weight, start = reporter.hyperparams["lr"], 0.0, 0
if reporter.resume_path:
    state = json.loads((reporter.resume_path / "state.json").read_text())
    weight, start = state["weight"], state["step"]
reporter.effective(lr=lr)
for step in range(start + 1, 10**9):
    weight += lr
    reporter.log(step, weight=weight)
    if reporter.should_stop or step == start + 50:
        print("saving", flush=True)
        with reporter.checkpoint(step) as directory:
            (directory / "state.json").write_text(json.dumps({"weight": weight, "step": step}))
    if reporter.should_stop:
        break
    if step == start + 50 and start:
        reporter.finish()
        break
    import time; time.sleep(0.002)
"""

SAVES = """
import sys, time
from llm_train import Reporter
reporter = Reporter.from_env()
begun = time.monotonic()
for step in (1, 2, 3):
    with reporter.checkpoint(step) as directory:
        (directory / "state").write_bytes(b"w")
    reporter.log(step, 3, loss=1.0)
print(time.monotonic() - begun, flush=True)
sys.stdin.read()
reporter.finish()
"""


@contextmanager
def attached(
    service: Service, run: dict[str, Any], tmp_path: Path, script: str = TRAINS, **pipes: Any
) -> Iterator[subprocess.Popen[Any]]:
    """Start a trainer by hand. It does not outlive a test that fails, which would wait for it."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY),
        "LLM_TRAIN_API_URL": service.url,
        "LLM_TRAIN_RUN_ID": run["run_id"],
        "LLM_TRAIN_RUN_TOKEN": run["run_token"],
    }
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as trainer:
        try:
            yield trainer
        finally:
            trainer.kill()


def test_by_hand_a_run_is_trained_cancelled_and_resumed_as_it_was_asked(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        runs = f"/experiments/{service.experiment}/runs"
        first = service.post(runs, {"model": "m", "hyperparams": {"lr": 0.5}}, 201)
        with attached(service, first, tmp_path) as trainer:
            service.stepping(first["run_id"], 60)
            service.cancel(first["run_id"])
            assert service.ended(first["run_id"])["status"] == "cancelled"
            assert trainer.wait(PATIENCE_SECONDS) == 0
        saved = service.cancel(first["run_id"], 200)["checkpoint"]
        assert saved["state"] == "ready", saved

        body = {"ckpt_path": saved["ckpt_path"], "override_hyperparams": {"lr": 0.25}}
        second = service.post(f"{runs}/{first['run_id']}/resume", body, 201)
        with attached(service, second, tmp_path) as trainer:
            assert trainer.wait(PATIENCE_SECONDS) == 0
        ended = service.ended(second["run_id"])
        assert (ended["status"], ended["step"]) == ("succeeded", saved["step"] + 50)
        weight = ended["metrics"]["weight"]["value"]
        assert abs(weight - (saved["step"] * 0.5 + 50 * 0.25)) < 1e-6


def test_without_the_services_files_a_run_goes_on_from_the_copy_on_its_machine(
    tmp_path: Path,
) -> None:
    away = "from llm_train import specs; specs.is_shared = lambda spec: False\n"
    with running(tmp_path) as service:
        runs = f"/experiments/{service.experiment}/runs"
        first = service.post(runs, {"model": "m", "hyperparams": {"lr": 0.5}}, 201)
        with attached(service, first, tmp_path, away + TRAINS) as trainer:
            service.stepping(first["run_id"], 60)
            service.cancel(first["run_id"])
            assert trainer.wait(PATIENCE_SECONDS) == 0
        saved = service.cancel(first["run_id"], 200)["checkpoint"]
        assert saved["state"] == "declared", saved

        resume = f"{runs}/{first['run_id']}/resume"
        second = service.post(resume, {"ckpt_path": saved["ckpt_path"]}, 201)
        with attached(service, second, tmp_path, away + TRAINS) as trainer:
            assert trainer.wait(PATIENCE_SECONDS) == 0
        assert service.ended(second["run_id"])["step"] == saved["step"] + 50


@pytest.mark.parametrize("stalled", [False, True])
def test_who_saves_at_once_is_verified_and_waits_for_no_service_that_stalls(
    tmp_path: Path, stalled: bool
) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with running(tmp_path) as service:
        run = service.post(f"/experiments/{service.experiment}/runs", {"model": "m"}, 201)
        if stalled:
            os.kill(service.pid, signal.SIGSTOP)
        try:
            with attached(service, run, tmp_path, SAVES, **pipes) as trainer:
                assert trainer.stdout
                took = float(trainer.stdout.readline())
                os.kill(service.pid, signal.SIGCONT)
                trainer.communicate(timeout=60)
        finally:
            os.kill(service.pid, signal.SIGCONT)
        assert is_soon(took, 3), "the first second after attaching, and three small saves"
        assert service.ended(run["run_id"])["status"] == "succeeded"
        saved = service.checkpoints(run["run_id"])
        assert set(saved) == {"step-000001", "step-000002", "step-000003"}
        assert {each["state"] for each in saved.values()} == {"declared" if stalled else "ready"}
        assert (tmp_path / "checkpoints").exists() == stalled


EVALUATES = """
from llm_train import Reporter
with Reporter.from_env() as reporter:
    for step in range(5):
        reporter.log(step, accuracy=0.5)
"""


def test_an_evaluation_with_the_runs_variables_does_not_end_the_training(tmp_path: Path) -> None:
    """Once it took the run over: the training was fenced off and never heard of a cancel."""
    with running(tmp_path) as service:
        run = service.post(
            f"/experiments/{service.experiment}/runs",
            {"model": "m", "hyperparams": {"lr": 0.5}},
            201,
        )
        with attached(service, run, tmp_path) as trainer:
            service.stepping(run["run_id"], 5)
            with attached(
                service, run, tmp_path, EVALUATES, stderr=subprocess.PIPE, text=True
            ) as second:
                _, told = second.communicate(timeout=60)
            assert second.returncode == 0
            assert told.count("another process reports on this run") == 1
            service.cancel(run["run_id"])
            ended = service.ended(run["run_id"])
            assert trainer.wait(PATIENCE_SECONDS) == 0
        assert (ended["status"], ended["attempt"]) == ("cancelled", 1)
        assert set(ended["metrics"]) == {"weight"}
