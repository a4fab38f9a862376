"""Runs on a real Slurm: from the submission to the end, and whatever the cluster does meanwhile."""

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.launcher_contract import goes_on
from tests.support.server import alive, command_line, wait_until
from tests.support.service import TERMINAL, Service
from tests.support.slurm import SlurmCluster
from tests.support.slurm_home import SlurmHome, output, steps

NO_ANSWER = re.compile(r"Slurm has not answered `s[a-z]+` for 5 seconds\.")


@contextmanager
def down(slurm: SlurmCluster) -> Iterator[None]:
    """The partition takes jobs, and starts none."""
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        yield
    finally:
        slurm.run("scontrol", "update", "PartitionName=main", "State=UP")


def wait_detail(service: Service, run: str, words: str) -> None:
    """Wait until a run says this of its state."""
    wait_until(
        lambda: words in (service.status(run)["status_detail"] or ""),
        lambda: f"{words}: {service.status(run)}",
    )  # fmt: skip


def wait_attempt(service: Service, run: str, attempt: int) -> None:
    """Wait until a run has been tried again; one that ends before is an error at once."""

    def is_there() -> bool:
        now = service.status(run)
        assert now["attempt"] == attempt or now["status"] not in TERMINAL, now
        return bool(now["attempt"] == attempt)

    wait_until(is_there, lambda: str(service.status(run)), 180, 0.1)


def retries(service: Service, run: str) -> list[str]:
    """Why a run was tried again, each time."""
    events = [event["data"] for event in service.events(run)]
    return [data["detail"] for data in events if data.get("reason") == "retrying"]


def capacity(service: Service) -> Any:
    """Return what REST says of the launcher."""
    (there,) = [each for each in service.get("/capacity")["launchers"] if each["name"] == "slurm"]
    return there


def test_no_token_is_in_sight_of_everybody_and_nothing_is_left_on_the_nodes(
    service: Service, home: SlurmHome, slurm: SlurmCluster
) -> None:
    run = service.submit("finishes", steps=60, step_seconds=0.05)
    service.stepping(run, 3, 60)
    shown = slurm.run("scontrol", "show", "job", slurm.job_id(f"{run}.1"))
    shown += "".join(" ".join(command_line(process)) for process in slurm.members())
    assert "ac_1_" not in shown and "at_1_" not in shown
    assert service.ended(run, 60)["status"] == "succeeded"
    wait_until(lambda: not list(home.nodes.iterdir()), "nothing is left on the nodes")


def test_a_run_waits_in_slurms_queue_in_its_words_and_that_is_no_time_to_start(
    service: Service, home: SlurmHome, slurm: SlurmCluster
) -> None:
    """`finishes` has 20 seconds to its first report here: the queue's do not count."""
    with down(slurm):
        run = service.submit("finishes", steps=10)
        cancelled = service.submit("finishes", steps=10)
        wait_detail(service, run, "PartitionDown, place 1 in the queue")
        wait_detail(service, cancelled, "PartitionDown, place 2 in the queue")
        status = service.status(run)
        job = slurm.job_id(f"{run}.1")
        assert (status["status"], status["status_reason"]) == ("queued", "waiting_for_cluster")
        assert status["status_detail"] == f"slurm job {job}: PartitionDown, place 1 in the queue"
        there = capacity(service)
        assert (there["active"], there["queued"], there["trouble"]) == (2, 2, None)
        assert (there["cpus"], there["gpus"]) == (12, {"a100": 6})
        told = [event for event in service.events(run) if event["type"] == "run.waiting"]
        assert len(told) <= 3, "its place alone is no event"
        assert service.cancel(cancelled)["status"] == "cancelled"
        wait_until(
            lambda: slurm.jobs() == [f"{run}.1"], "the cancelled job is taken back", every=0.2
        )
        time.sleep(22)
        assert service.status(run)["status"] == "queued"
    assert service.ended(run, 60)["status"] == "succeeded"
    assert home.starts(run) == [1] and home.starts(cancelled) == []


def test_what_the_partition_can_never_run_is_not_submitted(
    service: Service, slurm: SlurmCluster
) -> None:
    path = f"/experiments/{service.experiment}/runs"
    for resources, words in (
        ({"nodes": 9}, "Needs 9 nodes; partition main has 3."),
        ({"count": 3, "gpu_type": "NVIDIA A100"}, "Needs 3 GPUs a node; partition main has 2."),
        ({"gpu_type": "$(reboot)"}, "Needs GPUs of type $(reboot); partition main has: a100."),
        ({"memory_gb": 64}, "Needs 61036 MB of memory a node; partition main has 2000."),
    ):
        body = {"model": "m", "recipe": "finishes", "resources": resources}
        run = service.post(path, body, 201)["run_id"]
        wait_detail(service, run, words)
    assert slurm.jobs() == []


def test_a_trainer_finds_the_gpus_that_slurm_gave_it(service: Service, home: SlurmHome) -> None:
    body = {
        "model": "m", "recipe": "finishes", "hyperparams": {"steps": 400},
        "resources": {"gpu_type": "nvidia a100", "count": 2, "cpus": 2, "memory_gb": 0.5},
    }  # fmt: skip
    run = service.post(f"/experiments/{service.experiment}/runs", body, 201)["run_id"]
    service.stepping(run, 1, 60)
    environment = home.trainer(run).environ()
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert (environment["SLURM_CPUS_PER_TASK"], environment["SLURM_MEM_PER_NODE"]) == ("2", "477")


def test_a_controller_that_is_frozen_during_the_submission_makes_one_trainer(
    service: Service, home: SlurmHome, slurm: SlurmCluster
) -> None:
    """sbatch says that it timed out, and the job may run all the same: nobody knows."""
    other = service.submit("finishes", steps=800, step_seconds=0.05)
    before = service.stepping(other, 1, 60)["step"]
    slurm.daemon("slurmctld").suspend()
    try:
        run = service.submit("finishes", steps=20)
        time.sleep(12)
        assert service.status(run)["status"] == "queued"
        service.stepping(other, before + 51)  # no news is no end
        wait_until(
            lambda: NO_ANSWER.fullmatch(capacity(service)["trouble"] or ""),
            lambda: str(capacity(service)),
        )  # fmt: skip
    finally:
        slurm.daemon("slurmctld").resume()
    assert service.ended(run, 60)["status"] == "succeeded"
    assert home.starts(run) == [1]
    wait_until(lambda: f"{run}.1" not in slurm.jobs(), "no second job stays", every=0.2)
    assert home.starts(run) == [1] and steps(output(service, run)) == list(range(1, 21))
    assert service.ended(other, 60)["status"] == "succeeded"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_controller_that_is_started_again_makes_no_second_trainer(
    service: Service, home: SlurmHome, slurm: SlurmCluster, number: signal.Signals
) -> None:
    """Killed, it may not know that it has started a job: it kills that one, and starts it again
    under the same name, which --no-requeue does not forbid. Its agent's claim is refused."""
    run = service.submit("finishes", steps=160, step_seconds=0.1)
    service.stepping(run, 20, 60)
    slurm.kill("slurmctld", number)
    before = service.status(run)["step"]
    service.stepping(run, before + 20, 60)
    slurm.start_controller()
    slurm.wait_ready()
    assert service.ended(run, 90)["status"] == "succeeded"
    starts = home.starts(run)
    assert starts == [1] if number == signal.SIGTERM else starts in ([1], [1, 2]), slurm.logs()


@pytest.mark.parametrize("at", ["before_claim", "claimed", "submitted"])
def test_a_server_that_is_killed_at_the_submission_makes_one_trainer(
    home: SlurmHome, at: str
) -> None:
    with home.serve(FAILPOINT=f"launch.{at}:kill") as dies:
        run = dies.submit("finishes", steps=20)
        wait_until(lambda: not alive(dies.pid), "the server is dead")
    with home.serve() as service:
        assert service.ended(run, 60)["status"] == "succeeded"
        assert home.starts(run) == [1] and steps(output(service, run)) == list(range(1, 21))


def test_an_outside_scancel_is_told_and_what_it_saved_is_kept(
    service: Service, slurm: SlurmCluster
) -> None:
    run = service.submit("obedient", steps=4000, checkpoint_every=5000)
    service.stepping(run, 3, 60)
    slurm.run("scancel", slurm.job_id(f"{run}.1"))
    wait_attempt(service, run, 2)
    (told,) = retries(service, run)
    assert "was cancelled, and not by this service" in told
    (saved,) = service.checkpoints(run).values()
    assert saved["state"] == "ready"
    first = saved["step"]
    service.stepping(run, first + 3, 60)
    slurm.run("scancel", slurm.job_id(f"{run}.2"))
    ended = service.ended(run, 60)
    assert (ended["status"], ended["status_reason"]) == ("failed", "stopped_elsewhere")
    assert steps(output(service, run)) == list(range(1, ended["step"] + 1))


def test_a_preempted_run_goes_on_from_what_it_saved(service: Service, slurm: SlurmCluster) -> None:
    run = service.submit("obedient", steps=250, step_seconds=0.1, checkpoint_every=1000)
    service.stepping(run, 10, 60)
    urgent = slurm.run(
        "sbatch", "--parsable", "--partition=urgent", "--nodes=3", "--exclusive",
        "--output=/dev/null", script="#!/bin/sh\nsleep 1\n",
    ).strip()  # fmt: skip
    wait_attempt(service, run, 2)
    slurm.run("scancel", urgent)
    assert service.ended(run, 60)["status"] == "succeeded"
    assert steps(output(service, run)) == list(range(1, 251))
    (told,) = retries(service, run)
    assert told.startswith("Attempt 1 was preempted: Slurm preempted job ")


def test_a_suspended_job_is_told_and_its_silence_ends_nothing(
    service: Service, slurm: SlurmCluster, home: SlurmHome
) -> None:
    """Its recipe allows twenty seconds of silence."""
    run = service.submit("finishes", steps=100, step_seconds=0.1)
    service.stepping(run, 5, 60)
    job = slurm.job_id(f"{run}.1")
    slurm.run("scontrol", "suspend", job)
    wait_until(lambda: service.status(run)["status_reason"] == "suspended", "it is told")
    assert service.status(run)["status_detail"] == f"slurm job {job} is suspended."
    time.sleep(23)
    status = service.status(run)
    assert (status["status"], status["status_reason"]) == ("running", "suspended")
    slurm.run("scontrol", "resume", job)
    assert service.ended(run, 60)["status"] == "succeeded"
    assert home.starts(run) == [1]


def test_a_node_that_dies_is_told_and_the_run_goes_on_elsewhere(
    home: SlurmHome, slurm: SlurmCluster
) -> None:
    """Its recipe tries again after a node's failure alone: no other cause would."""
    file = home.path / "recipes.toml"
    only = 'heartbeat_seconds = 60\nretry_on = ["node_failed"]'
    file.write_text(file.read_text().replace("heartbeat_seconds = 60", only))
    with home.serve() as service:
        run = service.submit("obedient", steps=60, step_seconds=0.1)
        service.stepping(run, 12, 60)
        job = slurm.job_id(f"{run}.1")
        (node,) = slurm.run("squeue", "-h", "-j", job, "-o", "%N").split()
        slurm.kill_node(node)
        try:
            wait_attempt(service, run, 2)
            (told,) = retries(service, run)
            words = f"A node of Slurm job {job} failed: {node}."
            assert told.startswith(f"Attempt 1 of 2: {words}"), told
            assert service.ended(run, 60)["status"] == "succeeded"
            assert home.starts(run) == [1, 2]
            assert goes_on(steps(output(service, run)), 60), "from a checkpoint"
        finally:
            slurm.start_node(node)
            slurm.wait_ready()
