"""Jobs that Slurm holds back, and that it has forgotten."""

from tests.support.server import wait_until
from tests.support.service import Service
from tests.support.slurm import SlurmCluster
from tests.support.slurm_home import SlurmHome, output, steps


def test_a_job_that_is_held_by_hand_says_so_and_runs_when_it_is_released(
    service: Service, home: SlurmHome, slurm: SlurmCluster
) -> None:
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        run = service.submit("finishes", steps=10)
        wait_until(lambda: slurm.jobs() == [f"{run}.1"], "it is in the queue", every=0.2)
        job = slurm.job_id(f"{run}.1")
        slurm.run("scontrol", "hold", job)
    finally:
        slurm.run("scontrol", "update", "PartitionName=main", "State=UP")
    said = f"slurm job {job}: JobHeld"
    wait_until(
        lambda: (service.status(run)["status_detail"] or "").startswith(said),
        lambda: str(service.status(run)),
    )  # fmt: skip
    status = service.status(run)
    assert (status["status"], status["status_reason"]) == ("queued", "waiting_for_cluster")
    slurm.run("scontrol", "release", job)
    assert service.ended(run, 60)["status"] == "succeeded"
    assert home.starts(run) == [1]


def test_jobs_that_a_controller_has_lost_with_its_state_are_submitted_again_or_tried_again(
    service: Service, home: SlurmHome, slurm: SlurmCluster
) -> None:
    """One waits and one trains. What a new cluster does not know, its nodes end."""
    trains = service.submit("obedient", steps=100, step_seconds=0.1)
    service.stepping(trains, 12, 60)
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    waits = service.submit("finishes", steps=20)
    wait_until(lambda: f"{waits}.1" in slurm.jobs(), "it is in the queue", every=0.2)
    slurm.kill("slurmctld")
    slurm.start_controller("-c")
    slurm.wait_ready()
    for run, last in ((waits, 20), (trains, 100)):
        assert service.ended(run, 150)["status"] == "succeeded"
        attempts = home.starts(run)
        assert attempts == sorted(set(attempts)), "no attempt has two trainers"
        log = steps(output(service, run))
        assert log[-10:] == list(range(last - 9, last + 1)) and set(log) == set(range(1, last + 1))
    assert home.starts(waits) == [1], "its first attempt never began before"
