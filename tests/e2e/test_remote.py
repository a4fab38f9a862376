"""Training on a machine that shares no files with the service: claim, reports, log, checkpoints.

The supervisor's part (submit, end) is played by the test; agent, trainer and service are real.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.remote import RemoteService, remote_service
from tests.support.server import wait_until
from tests.support.service import recipes


@pytest.fixture
def service(tmp_path: Path, database_url: str) -> Iterator[RemoteService]:
    with remote_service(tmp_path, recipes(tmp_path), database_url) as service:
        yield service


def lines(steps: range, of: int) -> list[str]:
    """What a trainer prints about these steps, without the loss."""
    return [f"step {step}/{of}" for step in steps]


def printed(text: str) -> list[str]:
    """The steps in a log; the reporter warns there, too, that the service is away."""
    return [line.partition(" loss")[0] for line in text.splitlines() if line.startswith("step ")]


def test_a_run_trains_where_no_file_is_shared(service: RemoteService) -> None:
    key = service.launch(service.submit("finishes", steps=20, step_seconds=0.05))
    service.stepping(key)
    (trainer,) = service.launcher.trainers()
    elsewhere, here = str(service.launcher.directory), str(service.data_dir)
    assert trainer.environ()["LLM_TRAIN_RUN_DIR"].startswith(elsewhere)
    assert not [v for v in (*trainer.environ().values(), *trainer.cmdline()) if here in v]

    status = service.end(key)
    assert (status["status"], status["step"]) == ("succeeded", 20)
    assert printed(service.log(key)) == lines(range(1, 21), 20)
    saved = service.checkpoints(key.run_id)
    assert {name: each["state"] for name, each in saved.items()} == {
        "step-000010": "ready", "step-000020": "ready",
    }  # fmt: skip
    state = service.data_dir / saved["step-000020"]["ckpt_path"][1:] / "state.json"
    assert json.loads(state.read_text())["step"] == 20


def test_a_cancel_saves_and_the_resumed_run_goes_on_from_the_download(
    service: RemoteService,
) -> None:
    key = service.launch(service.submit("obedient", steps=400, checkpoint_every=1000))
    service.stepping(key, 3)
    promised = service.cancel(key)
    assert promised["checkpoint"]["state"] == "pending"
    assert service.end(key)["status"] == "cancelled"
    (saved,) = service.checkpoints(key.run_id).values()
    assert (saved["state"], saved["ckpt_path"]) == ("ready", promised["ckpt_path"])

    path = f"/v1/experiments/{service.experiment}/runs/{key.run_id}/resume"
    body = {"override_hyperparams": {"steps": saved["step"] + 5}}
    child = service.launch(service.http.post(path, json=body).json()["run_id"])
    status = service.end(child)
    assert (status["status"], status["step"]) == ("succeeded", saved["step"] + 5)
    steps = range(saved["step"] + 1, saved["step"] + 6)
    assert printed(service.log(child)) == lines(steps, saved["step"] + 5)


def test_a_damaged_download_starts_no_trainer(service: RemoteService) -> None:
    key = service.launch(service.submit("obedient", steps=400, checkpoint_every=1000))
    service.stepping(key, 3)
    service.cancel(key)
    service.end(key)
    (saved,) = service.checkpoints(key.run_id).values()
    (service.data_dir / saved["ckpt_path"][1:] / "state.json").write_text("{}")
    path = f"/v1/experiments/{service.experiment}/runs/{key.run_id}/resume"
    child = service.launch(service.http.post(path, json={}).json()["run_id"])
    status = service.end(child)
    assert (status["status"], status["status_reason"]) == ("failed", "launcher_error")
    assert saved["ckpt_path"] in status["status_detail"] and service.log(child) == ""


def test_two_agents_of_one_attempt_make_one_trainer(service: RemoteService) -> None:
    key = service.launch(service.submit("finishes", steps=20), agents=3)
    service.stepping(key)
    assert len(service.launcher.trainers()) == 1
    assert service.end(key)["status"] == "succeeded"
    assert printed(service.log(key)) == lines(range(1, 21), 20)


def test_a_service_that_is_started_again_loses_no_output_and_doubles_none(
    service: RemoteService,
) -> None:
    key = service.launch(service.submit("finishes", steps=60, step_seconds=0.1))
    service.stepping(key, 2)
    for _ in range(2):
        before = service.status(key)["step"]
        service.stop()
        time.sleep(1)  # what is printed, reported and saved now waits
        service.start()
        service.stepping(key, before + 2)
    assert service.end(key)["status"] == "succeeded"
    assert printed(service.log(key)) == lines(range(1, 61), 60)
    assert set(service.checkpoints(key.run_id)) == {f"step-{n:06d}" for n in range(10, 61, 10)}


def test_what_the_trainer_could_not_deliver_arrives_after_its_end(service: RemoteService) -> None:
    key = service.launch(service.submit("finishes", steps=40, step_seconds=0.1))
    service.stepping(key, 2)
    (trainer,) = service.launcher.trainers()
    service.stop()
    assert trainer.is_running(), "most of its reports are still to come"
    wait_until(lambda: not trainer.is_running() or trainer.status() == "zombie", "its end", 30)
    service.start()
    status = service.end(key)
    assert (status["status"], status["step"]) == ("succeeded", 40)
    assert printed(service.log(key)) == lines(range(1, 41), 40)
    assert service.checkpoints(key.run_id)["step-000040"]["state"] == "ready"
