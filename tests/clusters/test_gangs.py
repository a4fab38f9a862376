"""A run on several nodes: an agent on each, one log, and the first that fails ends all."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.server import REPOSITORY, wait_until
from tests.support.service import Service
from tests.support.slurm_home import SlurmHome, output

_RECIPE = f"""
[recipes.gang]
command = ["{sys.executable}", "-m", "tests.support.gang"]
working_dir = "{REPOSITORY}"
launcher = "slurm"
grace_seconds = 30
resources = {{ nodes = 3 }}
"""


@pytest.fixture
def gangs(home: SlurmHome) -> Iterator[Service]:
    file = home.path / "recipes.toml"
    file.write_text(file.read_text() + _RECIPE)
    with home.serve() as service:
        yield service


def test_all_nodes_meet_and_are_in_one_log(gangs: Service, home: SlurmHome) -> None:
    run = gangs.submit("gang", steps=10)
    status = gangs.ended(run, 60)
    assert status["status"] == "succeeded", output(gangs, run)
    lines = output(gangs, run).splitlines()
    for rank in range(3):
        assert f"{rank}: met {rank}/3 on n{rank + 1}" in lines, lines
        assert f"{rank}: left {rank} at its end" in lines
    assert [each["state"] for each in gangs.checkpoints(run).values()] == ["ready"]
    wait_until(lambda: not list(home.nodes.iterdir()), "nothing is left on the nodes")


def test_one_rank_that_dies_ends_all_at_once_and_is_the_cause(
    gangs: Service, home: SlurmHome
) -> None:
    run = gangs.submit("gang", steps=10_000, dies=2)
    gangs.stepping(run, 1, 60)
    status: Any = gangs.ended(run, 60)
    assert (status["status"], status["status_reason"]) == ("failed", "exit_code")
    assert "rank 2 cannot go on" in status["status_detail"]
    wait_until(lambda: not home.processes(), lambda: str(home.processes()))


def test_a_cancel_reaches_every_node_and_rank_0_saves(gangs: Service, home: SlurmHome) -> None:
    run = gangs.submit("gang", steps=1000)
    gangs.stepping(run, 3, 60)
    promised = gangs.cancel(run)
    assert gangs.ended(run, 60)["status"] == "cancelled"
    (saved,) = gangs.checkpoints(run).values()
    assert (saved["state"], saved["ckpt_path"]) == ("ready", promised["ckpt_path"])
    lines = output(gangs, run).splitlines()
    assert all(f"{rank}: left {rank} at a stop" in lines for rank in range(3)), lines
    wait_until(lambda: not home.processes(), lambda: str(home.processes()))


def test_the_warning_of_the_cluster_reaches_every_node(
    gangs: Service, home: SlurmHome, slurm: Any
) -> None:
    """Slurm signals the batch host alone; its agent tells the service, which tells the others."""
    run = gangs.submit("gang", steps=1000)
    gangs.stepping(run, 3, 60)
    slurm.run("scancel", "--batch", "--signal=TERM", slurm.job_id(f"{run}.1"))
    status = gangs.ended(run, 60)
    assert (status["status"], status["status_reason"]) == ("failed", "unfinished")
    assert [each["state"] for each in gangs.checkpoints(run).values()] == ["ready"]
    lines = output(gangs, run).splitlines()
    assert all(f"{rank}: left {rank} at a stop" in lines for rank in range(3)), lines
