"""Each way a trainer can end gets its true status and reason; retries go on from what is good."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.domain.tokens import run_token
from tests.support.database import postgresql_heavy
from tests.support.server import alive, wait_until
from tests.support.service import Service, home

pytestmark = postgresql_heavy  # files and processes know nothing of the database

RETRY = "max_attempts = 3"
SECRET = "s" * 40


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str
) -> Iterator[Service]:
    with (
        home(
            tmp_path_factory.mktemp("evidence"),
            module_database_url,
            crashes=RETRY,
            hangs_before_first_report="start_seconds = 1",
            ignores_term="heartbeat_seconds = 1.5",
            finishes="grace_seconds = 1",
        ) as place,
        place.serve(SECRET=SECRET) as service,
    ):
        yield service


@pytest.mark.parametrize(
    ("trainer", "status", "reason", "detail"),
    [
        ("finishes", "succeeded", None, None),
        ("oom_like", "failed", "signal", "Ended by SIGKILL (9)."),
        (
            "silent", "failed", "unfinished",
            "Exited with code 0 at step 0, without its last step.",
        ),
        (
            "hangs_before_first_report", "failed", "heartbeat_lost",
            "No report for 1 seconds. Ended by SIGKILL (9).",
        ),
    ],
)  # fmt: skip
def test_left_alone_a_trainer_ends_as_it_is(
    service: Service, trainer: str, status: str, reason: str | None, detail: str | None
) -> None:
    ended = service.ended(service.submit(trainer, steps=10, step_seconds=0.01))
    assert (ended["status"], ended["status_reason"]) == (status, reason)
    assert ended["status_detail"] == detail


def test_exit_0_after_a_signal_from_outside_is_no_success(service: Service) -> None:
    run = service.submit("exits_zero_halfway", steps=1000, step_seconds=0.02)
    service.stepping(run, 3)
    service.trainer(run).terminate()
    ended = service.ended(run)
    assert (ended["status"], ended["status_reason"]) == ("failed", "unfinished")


def test_killed_from_outside_is_told_as_that(service: Service) -> None:
    run = service.submit("obedient", steps=1000, step_seconds=0.02)
    service.stepping(run, 3)
    service.trainer(run).kill()
    ended = service.ended(run)
    assert (ended["status"], ended["status_reason"]) == ("failed", "signal")


def test_with_its_agent_killed_nothing_of_a_run_is_left(service: Service) -> None:
    run = service.submit("spawns_grandchild", steps=1000, step_seconds=0.02)
    service.stepping(run, 3)
    daemon = int((service.data_dir / "runs" / run / "grandchild.pid").read_text())
    trainer = service.trainer(run)
    service.agent(run).kill()
    ended = service.ended(run)
    assert (ended["status"], ended["status_reason"]) == ("failed", "lost")
    assert not alive(trainer.pid) and not alive(daemon)


def test_a_stopped_process_is_missed_and_ended(service: Service) -> None:
    run = service.submit("ignores_term", steps=10_000, step_seconds=0.02)
    service.stepping(run, 3)
    trainer = service.trainer(run)
    trainer.send_signal(signal.SIGSTOP)
    ended = service.ended(run)
    assert (ended["status"], ended["status_reason"]) == ("failed", "heartbeat_lost")
    assert ended["status_detail"] == "No report for 1.5 seconds. Ended by SIGKILL (9)."
    assert not alive(trainer.pid)


def test_a_time_limit_is_a_stop_and_saves_the_work(service: Service) -> None:
    body = {
        "model": "m", "recipe": "obedient", "resources": {"time_limit_minutes": 1 / 20},
        "hyperparams": {"steps": 10_000, "step_seconds": 0.02},
    }  # fmt: skip
    run = service.post(f"/experiments/{service.experiment}/runs", body, 201)["run_id"]
    ended = service.ended(run)
    assert (ended["status"], ended["status_reason"]) == ("failed", "time_limit")
    assert service.checkpoints(run)["cancel-1"]["state"] == "ready"
    assert ended["ckpt_path"].endswith("/cancel-1")


def test_retries_go_on_from_the_newest_ready_checkpoint_each_as_its_own_attempt(
    service: Service,
) -> None:
    run = service.submit("crashes", steps=20, step_seconds=0.02, checkpoint_every=4)
    ended = service.ended(run)
    assert (ended["status"], ended["status_reason"]) == ("failed", "exit_code")
    assert ended["status_detail"].startswith("Exited with code 3. Its last log line: step 10/20")
    assert ended["attempt"] == 3 and service.launches(run) == [1, 2, 3]
    spec = json.loads((service.data_dir / "runs" / run / "spec.json").read_bytes())
    assert spec["resume"]["step"] == 8
    starts = [e["data"] for e in service.events(run) if e["type"] == "run.starting"]
    assert [s.get("ckpt_path", "").rsplit("/")[-1] for s in starts] == ["", *["step-000008"] * 2]
    retries = [e["data"] for e in service.events(run) if e["type"] == "run.queued"][1:]
    assert [r["reason"] for r in retries] == ["retrying", "retrying"]


def test_late_reports_of_an_older_attempt_are_refused_and_change_nothing(service: Service) -> None:
    run = service.submit("crashes", steps=40, step_seconds=0.05, checkpoint_every=4)
    wait_until(lambda: service.status(run)["attempt"] == 2, "the second attempt")
    service.stepping(run, 17)
    late = {"attempt": 1, "batch": 999, "step": 39, "finished": True}
    token = {"Authorization": f"Bearer {run_token(SECRET, run)}"}
    answer = service.post(f"/runs/{run}/reports", late, 409, **token)
    assert answer["code"] == "stale_attempt"
    assert service.status(run)["step"] < 39
    assert service.ended(run)["status"] == "failed"


def test_an_external_run_that_falls_silent_or_ignores_a_cancel_gets_its_outcome(
    tmp_path: Path,
) -> None:
    with (
        home(tmp_path) as place,
        place.serve(
            EXTERNAL_HEARTBEAT_SECONDS="4", EXTERNAL_GRACE_SECONDS="0.5", SECRET=SECRET
        ) as service,
    ):
        for cancel in (False, True):
            run = service.submit(None)
            token = {"Authorization": f"Bearer {run_token(SECRET, run)}"}
            saved = {"name": "step-5", "step": 5}
            body = {"attempt": 1, "batch": 1, "step": 7, "checkpoints": [saved]}
            service.post(f"/runs/{run}/reports", body, 200, **token)
            if cancel:
                assert service.cancel(run, 202)["checkpoint"]["state"] == "pending"
            ended = service.ended(run)
            expected = ("cancelled", "cancel_requested") if cancel else ("failed", "heartbeat_lost")
            assert (ended["status"], ended["status_reason"]) == expected
        promised = service.cancel(run, 200)["checkpoint"]
        assert (promised["state"], promised["step"]) == ("declared", 5)
