"""What goes wrong around a server for a while costs no training.

Each was seen red: attention that goes on while reports are turned away, silence of one that
exports, a hang after the last word, descriptors taken for damage, whole batches dropped, no
deadline for a body.
"""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.server import REPOSITORY, wait_until
from tests.support.service import Service, home, running


def limit_files(service: Service, most: int) -> None:
    """No file of the server may grow beyond this: what a full disk does to it."""
    resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is a system call of Linux")
def test_a_full_disk_under_the_database_ends_no_training(tmp_path: Path) -> None:
    with running(tmp_path, obedient="heartbeat_seconds = 2") as service:
        run = service.submit("obedient", steps=10_000, step_seconds=0.02)
        before = service.stepping(run)
        limit_files(service, 1)
        log = service.data_dir / "runs" / run / "train.log"
        wait_until(lambda: log.read_text().count("step ") > 250, "5 s of training")
        stuck = service.status(run)
        limit_files(service, resource.RLIM_INFINITY)
        assert stuck["status"] == "running", stuck
        assert stuck["step"] < before["step"] + 150, "the disk was not full"
        now = service.stepping(run, 400)
        assert now["status"] == "running", now
        losses = [step for step, _ in service.losses(run)]
        assert losses == list(range(1, len(losses) + 1))
        service.cancel(run)
        assert service.ended(run)["status"] == "cancelled"


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is a system call of Linux")
def test_a_server_short_of_descriptors_takes_no_checkpoint_for_lost(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        run = service.submit("finishes", steps=20, step_seconds=0.01)
        service.ended(run)
        verify = f"{service.url}/v1/experiments/{service.experiment}/checkpoints/verify"
        usual = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
        descriptors = len(list(Path(f"/proc/{service.pid}/fd").iterdir()))
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (descriptors, usual[1]))
        answer = service.http.post(verify, json={"run_id": run})
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, usual)
        assert answer.status_code == 503, answer.text
        assert {c["state"] for c in service.checkpoints(run).values()} == {"ready"}
        assert service.http.post(verify, json={"run_id": run}).json()["ready"] == 2


LEAVES = """
import sys, time
from llm_train import Reporter
reporter = Reporter.from_env()
reporter.log(1, 1, loss=0.5)
reporter.finish()
time.sleep(4)  # exports what it trained
print("exported")
"""

HANGS = """
import os, signal
from llm_train import Reporter
reporter = Reporter.from_env()
reporter.log(1, 1, loss=0.5)
reporter.finish()
os.kill(os.getpid(), signal.SIGSTOP)
"""


STALLS = """
import time
from llm_train import Reporter
reporter = Reporter.from_env()
for step in range(1, 11):
    reporter.log(step, 1000, loss=0.5)
while True:
    time.sleep(1)  # a collective that never returns; the heartbeats come from a side thread
"""


REFUSED = """
from llm_train import Reporter
reporter = Reporter.from_env()
reporter.effective(seed=2**70, layers=list(range(9000)))
for step in range(1, 6):
    reporter.log(step, 5, loss=0.5)
reporter.finish()
"""


@contextmanager
def script(tmp_path: Path, source: str, keys: str = "") -> Iterator[Service]:
    """A server with a recipe `script`."""
    file = tmp_path / "script.py"
    file.write_text(source)
    with home(tmp_path) as place:
        with (tmp_path / "recipes.toml").open("a") as recipes:
            recipes.write(
                f'\n[recipes.script]\ncommand = ["{{python}}", "{file}"]\n'
                f'env = {{ PYTHONPATH = "{REPOSITORY}" }}\nheartbeat_seconds = 1\n'
                f"{keys}\n"
            )
        with place.serve() as service:
            yield service


def test_who_has_finished_may_go_on_as_long_as_it_lives(tmp_path: Path) -> None:
    with script(tmp_path, LEAVES) as service:
        run = service.submit("script")
        assert service.ended(run)["status"] == "succeeded"
        assert "exported" in (service.data_dir / "runs" / run / "train.log").read_text()


def test_who_hangs_after_it_has_finished_does_not_run_for_ever(tmp_path: Path) -> None:
    with script(tmp_path, HANGS) as service:
        ended = service.ended(service.submit("script"))
        assert (ended["status"], ended["status_reason"]) == ("failed", "heartbeat_lost")


def test_who_hangs_after_ten_steps_is_stalled_though_it_sends_heartbeats(tmp_path: Path) -> None:
    with script(tmp_path, STALLS, "stall_seconds = 2\ngrace_seconds = 1") as service:
        run = service.submit("script")
        wait_until(lambda: service.status(run)["status_reason"] == "stalled", "it is stalled")
        stalled = service.status(run)
        assert (stalled["status"], stalled["step"], stalled["eta_seconds"]) == ("running", 10, None)
        assert stalled["last_progress_at"] is not None
        service.cancel(run)
        assert service.ended(run)["status"] == "cancelled"


def test_what_is_refused_takes_nothing_else_along(tmp_path: Path) -> None:
    with script(tmp_path, REFUSED) as service:
        run = service.submit("script")
        assert service.ended(run)["status"] == "succeeded"
        assert [step for step, _ in service.losses(run)] == [1, 2, 3, 4, 5]
