"""Longer stories on a real Slurm, which mostly wait: for its time limit, or for a lost node."""

import time
from contextlib import suppress

import httpx
import pytest

from tests.support.launcher_contract import goes_on
from tests.support.server import alive, wait_until
from tests.support.service import Service
from tests.support.slurm import SlurmCluster
from tests.support.slurm_home import SlurmHome, output, steps

pytestmark = pytest.mark.heavy


def test_slurm_warns_before_its_time_limit_and_the_trainer_saves(
    home: SlurmHome, slurm: SlurmCluster
) -> None:
    """A run that names no limit has the launcher's: here two minutes, with a warning before."""
    file = home.path / "recipes.toml"
    text = file.read_text().replace(
        "default_minutes = 10", "default_minutes = 2\nwarn_seconds = 30"
    )
    file.write_text(text)
    with home.serve() as service:
        run = service.submit("obedient", steps=4000, step_seconds=0.5, checkpoint_every=5000)
        ended = service.ended(run, 240)
        assert (ended["status"], ended["status_reason"]) == ("failed", "time_limit")
        assert "at its time limit of 2 minutes" in ended["status_detail"]
        (saved,) = service.checkpoints(run).values()
        assert saved["state"] == "ready"
        state = slurm.run("squeue", "-h", "-t", "all", "-n", f"{run}.1", "-o", "%T")
        assert state.split() == ["COMPLETED"], "it obeyed the warning, and Slurm had to end nothing"


def test_a_server_that_is_killed_twenty_times_makes_one_trainer_and_loses_no_point(
    home: SlurmHome,
) -> None:
    """At the claim, before and after the submission, and at any moment while it runs."""
    instants = ["before_claim", "claimed", "submitted"]

    def submit(service: Service, number: int) -> str:
        return service.submit("finishes", f"run-{number}", steps=80, step_seconds=0.2)

    for number in range(20):
        if number < 2 * len(instants):
            with home.serve(FAILPOINT=f"launch.{instants[number % 3]}:kill") as dies:
                with suppress(httpx.HTTPError):  # a run that waited may have reached it before
                    submit(dies, number)
                wait_until(lambda pid=dies.pid: not alive(pid), "the server is dead")  # type: ignore[misc]
            continue
        with home.serve() as service:
            time.sleep(0.15 * (number % 9))
            service.kill()
    with home.serve() as service:
        for run in [submit(service, number) for number in range(2 * len(instants))]:
            assert service.ended(run, 120)["status"] == "succeeded"
            assert home.starts(run) == [1], run
            assert [step for step, _ in service.losses(run)] == list(range(1, 81))
            assert steps(output(service, run)) == list(range(1, 81))


def test_while_a_job_that_slurm_takes_for_lost_trains_on_no_other_begins(
    service: Service, home: SlurmHome, slurm: SlurmCluster
) -> None:
    """Its node's daemon alone is away; when it is back, Slurm ends the job, and the run goes on."""
    run = service.submit("obedient", steps=9000, step_seconds=0.1)
    service.stepping(run, 12, 60)
    (node,) = slurm.run("squeue", "-h", "-n", f"{run}.1", "-o", "%N").split()
    slurm.kill(node)
    try:
        said = ("squeue", "-h", "-t", "all", "-n", f"{run}.1", "-o", "%T")
        wait_until(lambda: "NODE_FAIL" in slurm.run(*said), slurm.logs, every=0.5)
        lost_at = service.status(run)["step"]
        service.stepping(run, lost_at + 50, 60)
        assert (service.status(run)["attempt"], home.starts(run)) == (1, [1])
    finally:
        slurm.start_node(node)
        slurm.wait_ready()
    wait_until(lambda: home.starts(run) == [1, 2], lambda: str(service.status(run)), 180, 0.2)
    service.stepping(run, service.status(run)["step"] + 20, 120)
    service.cancel(run)
    assert service.ended(run, 60)["status"] == "cancelled"
    log = steps(output(service, run))
    assert goes_on(log, log[-1]) and home.starts(run) == [1, 2]
