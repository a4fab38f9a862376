"""Longer stories on a real Ray: the truth table of trainers, two runs followed to their ends."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.launcher_contract import Place, Site, opened, starts
from tests.support.ray import RayCluster, table
from tests.support.server import wait_until
from tests.support.service import TERMINAL
from tests.support.truth import TruthTable

pytestmark = pytest.mark.heavy


class TestTruth(TruthTable):
    @pytest.fixture(scope="class")
    @classmethod
    def site(cls, ray: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Site:
        return Site(table(ray, tmp_path_factory.mktemp("nodes")))


@pytest.fixture(scope="module")
def place(ray: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    site = Site(table(ray, tmp_path_factory.mktemp("nodes")))
    with opened(site, tmp_path_factory.mktemp("place")) as place:
        yield place


def retries(place: Place, run: str) -> list[str]:
    """Why a run was tried again, each time."""
    events = [event["data"] for event in place.service.events(run)]
    return [data["detail"] for data in events if data.get("reason") == "retrying"]


def steps(place: Place, run: str) -> list[int]:
    """The steps that a run's trainers printed, in order."""
    return [int(step) for step in re.findall(r"(?m)^step (\d+)$", place.output(run))]


def test_a_run_that_makes_room_for_an_urgent_one_saves_and_goes_on_after_it(
    place: Place, tmp_path: Path
) -> None:
    both = {"gpu_type": "nvidia a100", "count": 2}
    patient, urgent = tmp_path / "patient", tmp_path / "urgent"
    for here in (patient, urgent):
        here.mkdir()
    run = place.submit(patient, "train(120, 0.1)", resources=both, priority="low")
    place.service.stepping(run, 12, 90)
    other = place.submit(urgent, "train(5)", resources=both, priority="high")
    assert place.service.ended(other, 120)["status"] == "succeeded"
    assert place.service.ended(run, 150)["status"] == "succeeded"
    reasons = [event["data"].get("reason") for event in place.service.events(run)]
    assert "preempted" in reasons
    assert starts(patient) == [1, 2] and starts(urgent) == [1]
    assert steps(place, run) == list(range(1, 121)), "from what it saved, without a step twice"


def test_a_run_whose_node_dies_is_told_and_goes_on_elsewhere_from_its_newest_checkpoint(
    place: Place, ray: RayCluster, tmp_path: Path
) -> None:
    """Runs last: for a while, longer where the machine is busy, Ray lists the dead node and loses
    what is submitted to it: an attempt of the run each time."""
    ray.start_worker(20)
    slow_at_first = 'train(160, 0.5 if os.environ["LLM_TRAIN_ATTEMPT"] == "1" else 0.02)'
    run = place.submit(tmp_path, slow_at_first, "patient", resources={"cpus": 16})
    place.service.stepping(run, 12, 120)
    ray.start_worker(20, "spare")  # half a minute, where the machine is busy
    ray.kill_worker()
    wait_until(lambda: not place.trainers(run), "its trainer ends with its node")
    newest = max(saved["step"] for saved in place.service.checkpoints(run).values())
    most = 0

    def is_over() -> bool:
        nonlocal most
        most = max(most, len(place.trainers(run)))
        return place.service.status(run)["status"] in TERMINAL

    wait_until(is_over, lambda: str(place.service.status(run)), 300)
    assert place.service.status(run)["status"] == "succeeded"
    first, *_ = retries(place, run)
    assert "its node or its cluster has failed" in first or "of Ray job" in first
    attempts = starts(tmp_path)
    assert most == 1 and attempts == sorted(set(attempts)) and attempts[0] == 1 < len(attempts)
    assert steps(place, run)[newest - 160 :] == list(range(newest + 1, 161))
