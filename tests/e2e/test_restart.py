"""A server that is away costs nothing: runs go on, and everything they said counts once."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.support.database import postgresql_heavy
from tests.support.server import alive, remove_tree, wait_until
from tests.support.service import Service, home


def points(service: Service, run: str) -> Counter[int]:
    """Return how often each step's loss is stored; and that it is the right one."""
    losses = service.losses(run)
    for step, value in losses:
        assert value == pytest.approx(0.99**step)
    return Counter(step for step, _ in losses)


def trained(service: Service, run: str) -> int:
    """The step that the trainer itself says it is at, whoever listens."""
    log = service.data_dir / "runs" / run / "train.log"
    return log.read_text().count("step ") if log.exists() else 0


def test_no_point_is_lost_or_doubled_over_restarts(tmp_path: Path, database_url: str) -> None:
    with home(tmp_path, database_url) as place:
        with place.serve() as service:
            run = service.submit("finishes", steps=400, step_seconds=0.02)
            service.stepping(run)
            service.kill()
        for restart in range(1, 4):
            wait_until(lambda: trained(service, run) >= restart * 80, "it trains on")  # noqa: B023
            with place.serve() as service:
                before = service.status(run)["step"]
                service.stepping(run, min(before + 1, 400))  # a busy machine may be at its end
                service.kill()
        with place.serve() as service:
            assert service.ended(run)["status"] == "succeeded"
            assert service.launches(run) == [1]
            assert points(service, run) == Counter(range(1, 401))
            saved = service.checkpoints(run)
        # Those announced while nobody listened are there, verified.
        assert {f"step-{n:06d}" for n in range(10, 401, 10)} == set(saved)
        assert {c["state"] for c in saved.values()} == {"ready"}


@postgresql_heavy
@pytest.mark.parametrize(
    ("trainer", "status", "reason", "step"),
    [
        ("finishes", "succeeded", None, 100),
        ("crashes", "failed", "exit_code", 50),
        ("oom_like", "failed", "signal", 50),
    ],
)
def test_a_run_that_ended_meanwhile_has_its_true_end(
    tmp_path: Path, database_url: str, trainer: str, status: str, reason: str | None, step: int
) -> None:
    with home(tmp_path, database_url) as place:
        with place.serve() as service:
            run = service.submit(trainer, steps=100, step_seconds=0.02)
            service.stepping(run)
            agent = service.agent(run)
            service.kill()
        wait_until(lambda: not agent.is_running(), "it ended while the server was away")
        with place.serve() as service:
            ended = service.ended(run)
            known = points(service, run)
        assert (ended["status"], ended["status_reason"]) == (status, reason)
        assert set(known.values()) == {1}
        # The last words of one that kills itself at once may not have left its memory.
        assert max(known) == step or (trainer == "oom_like" and max(known) >= step - 60)


def test_a_cancel_that_was_acknowledged_is_carried_out_by_the_next_server(
    tmp_path: Path, database_url: str
) -> None:
    with home(tmp_path, database_url) as place:
        with place.serve() as service:
            run = service.submit("obedient", steps=10_000, step_seconds=0.02)
            service.stepping(run, 3)
            os.kill(service.trainer(run).pid, signal.SIGSTOP)  # it cannot react before the crash
            path = service.cancel(run, 202)["ckpt_path"]
            service.kill()
        with place.serve() as service:
            assert service.ended(run)["status"] == "cancelled"
            answer = service.cancel(run, 200)
            assert answer["ckpt_path"] == path
            assert answer["checkpoint"]["state"] == "ready"
            assert service.launches(run) == [1]


@postgresql_heavy
def test_silence_that_nobody_could_hear_is_not_a_trainers_fault(
    tmp_path: Path, database_url: str
) -> None:
    with home(tmp_path, database_url, obedient="heartbeat_seconds = 1.5") as place:
        with place.serve() as service:
            run = service.submit("obedient", steps=10_000, step_seconds=0.02)
            service.stepping(run)
            step = trained(service, run)
            os.kill(service.pid, signal.SIGSTOP)  # a laptop's lid is closed, and opened
            wait_until(lambda: trained(service, run) > step + 150, "3 s later")
            os.kill(service.pid, signal.SIGCONT)
            now = service.stepping(run, step + 100)
            assert now["status"] == "running", now
            step = trained(service, run)
            service.kill()
        wait_until(lambda: trained(service, run) > step + 150, "3 s later")
        with place.serve() as service:
            now = service.stepping(run, step + 100)
            assert now["status"] == "running", now
            service.cancel(run)
            assert service.ended(run)["status"] == "cancelled"


@postgresql_heavy
@pytest.mark.parametrize("cancel", [False, True])
def test_a_trainer_whose_directory_was_removed_is_ended_and_never_joined_by_a_second(
    tmp_path: Path, cancel: bool
) -> None:
    with home(tmp_path, ignores_term="max_attempts = 2") as place:
        with place.serve() as service:
            run = service.submit("ignores_term", steps=10_000, step_seconds=0.02)
            service.stepping(run, 12)
            wait_until(lambda: service.status(run)["ckpt_path"], "a checkpoint")
            first = service.trainer(run)
            service.kill()
        remove_tree(service.data_dir / "runs" / run)
        with place.serve() as service:
            if cancel:
                service.cancel(run)
                assert service.ended(run)["status"] == "cancelled"
            else:
                wait_until(lambda: service.launches(run) == [2], "the second attempt")
            assert not alive(first.pid)
            ends = [e["data"]["detail"] for e in service.events(run) if "detail" in e["data"]]
            assert cancel or ends == ["Attempt 1 of 2: Its files were removed. Trying again."]
            service.cancel(run)
            assert service.ended(run)["status"] == "cancelled"
            assert service.launches(run) == ([] if cancel else [2])
