"""Training on a machine that shares no files with the service: claim, reports, log, checkpoints.

The launcher of these tests starts processes on this machine that know a URL and a claim code.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.launchers.base import Key
from tests.support.database import postgresql_heavy
from tests.support.remote import RemoteService, remote_service
from tests.support.server import alive, wait_until

pytestmark = postgresql_heavy  # an agent knows nothing of the database


@pytest.fixture
def service(tmp_path: Path, database_url: str) -> Iterator[RemoteService]:
    again = "max_attempts = 2\nretry_seconds = 0"
    with remote_service(tmp_path, database_url, finishes=again) as service:
        yield service


def lines(steps: range, of: int) -> list[str]:
    """Return what a trainer prints about these steps, without the loss."""
    return [f"step {step}/{of}" for step in steps]


def printed(text: str) -> list[str]:
    """The steps in a log; the reporter warns there, too, that the service is away."""
    return [line.partition(" loss")[0] for line in text.splitlines() if line.startswith("step ")]


def test_a_damaged_download_starts_no_trainer(service: RemoteService) -> None:
    key = service.submit("obedient", steps=400, checkpoint_every=1000)
    service.stepping(key, 3)
    service.cancel(key)
    service.end(key)
    (saved,) = service.checkpoints(key.run_id).values()
    damaged = service.data_dir / saved["ckpt_path"][1:] / "state.json"
    service.launcher.before_start = lambda: damaged.write_text("{}")  # after it was verified
    child = service.resume(key)
    status = service.end(child)
    assert (status["status"], status["status_reason"]) == ("failed", "launcher_error")
    assert saved["ckpt_path"] in status["status_detail"] and service.log(child) == ""


def test_two_agents_of_one_attempt_make_one_trainer(service: RemoteService) -> None:
    service.launcher.copies = 3
    key = service.submit("finishes", steps=40, step_seconds=0.1)  # it must not end before the look
    service.stepping(key)
    assert len(service.launcher.trainers()) == 1
    assert service.end(key)["status"] == "succeeded"
    assert printed(service.log(key)) == lines(range(1, 41), 40)


def test_a_service_that_is_started_again_loses_no_output_and_doubles_none(
    service: RemoteService,
) -> None:
    key = service.submit("finishes", steps=60, step_seconds=0.1)
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
    key = service.submit("finishes", steps=40, step_seconds=0.1)
    service.stepping(key, 2)
    (trainer,) = service.launcher.trainers()
    service.stop()
    assert trainer.is_running(), "most of its reports are still to come"
    wait_until(lambda: not alive(trainer), "its end")
    service.start()
    status = service.end(key)
    assert (status["status"], status["step"]) == ("succeeded", 40)
    assert printed(service.log(key)) == lines(range(1, 41), 40)
    assert service.checkpoints(key.run_id)["step-000040"]["state"] == "ready"


def test_a_stop_that_the_mailbox_does_not_deliver_goes_through_the_engine(
    service: RemoteService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as by a service that its agents cannot reach any more, while the engine still can."""
    monkeypatch.setattr("app.services.pulses.get_directive", lambda tx, run, number: "go")
    key = service.submit("ignores_term", steps=4000)
    service.stepping(key, 2)
    service.cancel(key)
    assert service.end(key)["status"] == "cancelled"
    assert key in service.launcher.stopped and service.launcher.trainers() == []


def test_an_attempt_that_was_given_up_records_nothing_beside_the_next_one(
    service: RemoteService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine was cut off: the service gave it up, and it comes back while the next trains."""
    key = service.submit("finishes", steps=100, step_seconds=0.1)
    service.stepping(key, 12)
    (agent,) = service.launcher.agents(key)
    (trainer,) = agent.children()
    for process in (agent, trainer):
        process.suspend()
    with monkeypatch.context() as patch:  # not longer: the next one's agent may be late as well
        patch.setattr("app.supervisor.job_status.AGENT_SILENT_SECONDS", 2.0)
        service.launcher.forget(key)  # the engine says that it has ended
        wait_until(lambda: service.status(key)["attempt"] == 2, "the next attempt")
    later = Key(key.run_id, 2)
    service.stepping(later, 15)
    for process in (trainer, agent):
        process.resume()
    assert service.end(later)["status"] == "succeeded"
    wait_until(lambda: not alive(trainer) and not alive(agent), "the end of the first")
    starts = [int(line.split()[1].partition("/")[0]) for line in printed(service.log(key))]
    second = starts.index(11, 11)  # from the checkpoint of step 10
    assert starts[second:] == list(range(11, 101)), "nothing of the first attempt after that"
