"""What Slurm's accounting (sacct) tells of jobs that its controller has forgotten."""

import os
from collections.abc import Iterator

import pytest

from app.launchers.slurm.client import SlurmClient
from tests.support.server import wait_until
from tests.support.slurm import SlurmCluster
from tests.support.slurm_accounting import accounted_slurm
from tests.support.slurm_home import SlurmHome

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with accounted_slurm(tmp_path_factory.mktemp("slurm"), 2) as cluster:
        yield cluster


def wait_forgotten(slurm: SlurmCluster) -> None:
    wait_until(lambda: not slurm.run("squeue", "-h", "-t", "all"), slurm.logs, 240, 1.0)


def test_each_end_of_a_forgotten_job_is_read_from_sacct(slurm: SlurmCluster) -> None:
    ends = {"fine": "exit 0", "wrong": "exit 3", "killed": "kill -9 $$", "cancelled": "sleep 100"}
    for name, line in ends.items():
        slurm.run(
            "sbatch", f"--job-name={name}", "--output=/dev/null", script=f"#!/bin/sh\n{line}\n"
        )
    wait_until(lambda: slurm.jobs() == ["cancelled"], slurm.logs)
    slurm.run("scancel", "--name=cancelled")
    wait_forgotten(slurm)
    client = SlurmClient({**os.environ, **slurm.environment}, 20)
    rows = {row.name: row for row in client.list_ended([*ends, "another"])}
    assert {name: row.state for name, row in rows.items()} == {
        "fine": "COMPLETED", "wrong": "FAILED", "killed": "FAILED", "cancelled": "CANCELLED",
    }  # fmt: skip
    assert os.waitstatus_to_exitcode(rows["wrong"].status) == 3
    assert os.waitstatus_to_exitcode(rows["killed"].status) == -9
    assert all(row.nodes in (("n1",), ("n2",)) for row in rows.values())


def test_a_job_that_was_cancelled_and_forgotten_while_the_service_was_away_is_told_as_that(
    home: SlurmHome, slurm: SlurmCluster
) -> None:
    with home.serve() as service:
        run = service.submit("obedient", steps=4000, step_seconds=0.2)
        service.stepping(run, 3, 60)
        job = slurm.job_id(f"{run}.1")
        service.kill()
    # Nothing is left that could tell the service by itself. A job whose agent was killed before it
    # is cancelled may have failed for Slurm.
    left = home.processes()
    for process in left:
        process.suspend()
    slurm.run("scancel", job)
    for process in left:
        process.kill()
    wait_forgotten(slurm)
    with home.serve() as service:
        wait_until(lambda: service.status(run)["attempt"] == 2, lambda: str(service.status(run)))
        told = [event["data"].get("detail") or "" for event in service.events(run)]
        assert any(f"Slurm job {job} was cancelled, and not by this service" in t for t in told)
        service.stepping(run, 3, 60)
        service.cancel(run)
        assert service.ended(run, 60)["status"] == "cancelled"
