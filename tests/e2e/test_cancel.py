"""A cancel has a stated outcome, on time, and nothing of the run is left alive."""

import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.support.database import postgresql_heavy
from tests.support.server import alive, wait_until
from tests.support.service import Service, running

pytestmark = postgresql_heavy  # a trainer knows nothing of the database

GRACE = 1.0
LATEST = GRACE + 1.0


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str
) -> Iterator[Service]:
    grace = f"grace_seconds = {GRACE}"
    with running(
        tmp_path_factory.mktemp("cancel"), module_database_url,
        ignores_term=grace, spawns_grandchild=grace, hangs_before_first_report=grace,
    ) as service:  # fmt: skip
        yield service


def test_an_obedient_trainer_leaves_the_promised_checkpoint(service: Service) -> None:
    run = service.submit("obedient", steps=10_000, step_seconds=0.02)
    step = service.stepping(run, 3)["step"]
    first = service.cancel(run, 202)
    assert first["status"] == "cancelling" and first["checkpoint"]["state"] == "pending"

    assert service.ended(run)["status"] == "cancelled"
    again = service.cancel(run, 200)
    assert again["ckpt_path"] == first["ckpt_path"]
    assert again["checkpoint"]["state"] == "ready" and again["checkpoint"]["step"] >= step
    assert (service.directory(again) / "manifest.json").exists()
    assert service.status(run)["ckpt_path"] == first["ckpt_path"]


@pytest.mark.parametrize("trainer", ["ignores_term", "spawns_grandchild"])
def test_who_ignores_the_signal_is_killed_on_time_with_all_its_processes(
    service: Service, trainer: str
) -> None:
    run = service.submit(trainer, steps=10_000, step_seconds=0.02, checkpoint_every=5)
    service.stepping(run, 8)
    agent, trained = service.agent(run), service.trainer(run)
    family = [agent, *agent.children(recursive=True)]
    if trainer == "spawns_grandchild":
        pid = int((service.data_dir / "runs" / run / "grandchild.pid").read_text())
        assert os.getsid(pid) != os.getsid(trained.pid), "the daemon left the session"
        family.append(psutil.Process(pid))
    since = time.monotonic()
    service.cancel(run, 202)
    wait_until(lambda: not alive(trained.pid), "the trainer was killed")
    killed = time.monotonic() - since
    ended = service.ended(run)

    assert GRACE * 0.9 <= killed <= LATEST + 0.5, "grace + 1 s, and half a second to notice"
    assert (ended["status"], ended["status_detail"]) == ("cancelled", "Ended by SIGKILL (9).")
    assert not [each for each in family if alive(each.pid)]
    saved = service.checkpoints(run)
    assert saved["cancel-1"]["state"] == "ready"
    newest = max(s["step"] for n, s in saved.items() if n != "cancel-1")
    assert saved["cancel-1"]["step"] == newest, "it stands for the newest periodic one"


def test_a_run_without_a_step_leaves_an_empty_checkpoint(service: Service) -> None:
    run = service.submit("hangs_before_first_report")
    service.trainer(run)
    assert service.cancel(run, 202)["checkpoint"]["state"] == "pending"
    assert service.ended(run)["status"] == "cancelled"
    promised = service.cancel(run, 200)["checkpoint"]
    assert (promised["state"], promised["step"]) == ("empty", 0)

    child = service.resume(run)
    assert child["ckpt_path"] == promised["ckpt_path"]
    service.until(child["run_id"], "starting")
    service.cancel(child["run_id"])
    service.ended(child["run_id"])


def test_who_saves_nothing_and_exits_0_has_lost_its_work_and_says_so(service: Service) -> None:
    run = service.submit("exits_zero_halfway", steps=1000, step_seconds=0.02, checkpoint_every=1000)
    service.stepping(run, 3)
    service.cancel(run, 202)
    assert service.ended(run)["status"] == "cancelled"
    promised = service.cancel(run, 200)["checkpoint"]
    assert promised["state"] == "lost" and "saved nothing" in promised["reason"]
    assert service.resume(run, 409)["code"] == "conflict"


def test_a_trainer_killed_from_outside_in_the_grace_keeps_what_it_saved(service: Service) -> None:
    run = service.submit("obedient", steps=10_000, step_seconds=0.02)
    service.stepping(run, 12)
    trainer = service.trainer(run)
    trainer.send_signal(signal.SIGSTOP)
    service.cancel(run, 202)
    trainer.kill()
    assert service.ended(run)["status"] == "cancelled"
    promised = service.checkpoints(run)["cancel-1"]
    assert promised["state"] == "ready"


def test_a_queued_run_is_cancelled_at_once(service: Service) -> None:
    run = service.submit(None)
    answer = service.cancel(run, 200)
    assert (answer["status"], answer["checkpoint"]["state"]) == ("cancelled", "empty")


def test_a_cancel_at_any_moment_of_a_short_run_has_one_terminal_state(service: Service) -> None:
    """The race with start, checkpoint, last step and exit; 1,000 of it: tests.chaos --cancels."""
    for moment in range(12):
        run = service.submit("obedient", steps=6, step_seconds=0.02, checkpoint_every=2)
        deadline = time.monotonic() + moment * 0.06
        wait_until(lambda: time.monotonic() >= deadline, "the moment")  # noqa: B023
        answer = service.cancel(run)
        ended = service.ended(run)
        if answer.get("code") == "run_finished":
            assert ended["status"] == "succeeded"
            continue
        assert ended["status"] == "cancelled"
        promised = service.cancel(run, 200)
        assert promised["ckpt_path"] == answer["ckpt_path"]
        # The grace may end between a save and its report: then no step is known.
        saved = {"ready"} if ended["step"] else {"ready", "empty"}
        assert promised["checkpoint"]["state"] in saved
        ends = [e for e in service.events(run) if e["type"] in ("run.cancelled", "run.succeeded")]
        assert len(ends) == 1
