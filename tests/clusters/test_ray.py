"""Runs on a real Ray: the promises of every launcher, and what its head and nodes do meanwhile."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from app.domain.tokens import attempt_token, run_token
from tests.support.checks import check
from tests.support.launcher_contract import SECRET, LauncherContract, Place, Site, opened, starts
from tests.support.ray import TOKEN, RayCluster, table
from tests.support.server import free_port, wait_until


class TestRay(LauncherContract):
    @pytest.fixture(scope="class")
    @classmethod
    def site(cls, ray: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Site:
        return Site(table(ray, tmp_path_factory.mktemp("nodes")), late_seconds=10.0)


@pytest.fixture(scope="module")
def place(ray: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    site = Site(table(ray, tmp_path_factory.mktemp("nodes")))
    with opened(site, tmp_path_factory.mktemp("place")) as place:
        yield place


def test_no_token_of_a_run_is_in_rays_list_and_a_trainer_has_the_gpus_that_ray_gave_it(
    place: Place, ray: RayCluster, tmp_path: Path
) -> None:
    script = "(here / 'gpus').write_text(os.environ['CUDA_VISIBLE_DEVICES'])\ntrain(4000, 0.05)"
    resources = {"gpu_type": "nvidia a100", "count": 2, "cpus": 2, "memory_gb": 0.5}
    run = place.submit(tmp_path, script, resources=resources)
    place.service.stepping(run, 1, 90)
    shown = json.dumps(ray.jobs()[f"{run}.1"])
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            shown += " ".join(process.cmdline())
    assert attempt_token(SECRET, run, 1) not in shown and run_token(SECRET, run) not in shown
    assert TOKEN not in shown and SECRET not in shown
    (trainer,) = place.trainers(run)
    assert not [v for v in trainer.environ().values() if "ac_1_" in v], "its claim code is used up"
    assert sorted((tmp_path / "gpus").read_text().split(",")) == ["0", "1"]
    second = place.submit(tmp_path, script, resources=resources)
    detail = wait_until(lambda: place.service.status(second)["status_detail"], "it waits")
    assert "other runs hold too many of the 2 here" in detail
    assert f"{second}.1" not in ray.jobs(), "Ray could not take it back"
    assert place.service.cancel(second)["status"] == "cancelled"
    place.service.cancel(run)
    assert place.ended(run)["status"] == "cancelled"


def test_a_head_that_is_frozen_during_the_submission_makes_one_trainer(
    place: Place, ray: RayCluster, tmp_path: Path
) -> None:
    """The submission times out, and the job may run all the same: nobody knows."""
    jobs = ray.daemon("JobHead")  # the head lists its nodes meanwhile, so that jobs are submitted
    jobs.suspend()
    try:
        run = place.submit(tmp_path, "train(20)")
        time.sleep(12)
        assert place.service.status(run)["status"] == "queued"
    finally:
        jobs.resume()
    assert place.ended(run)["status"] == "succeeded"
    assert starts(tmp_path) == [1]


def test_a_head_that_is_started_anew_has_forgotten_all_and_the_run_goes_on(
    place: Place, ray: RayCluster, tmp_path: Path
) -> None:
    run = place.submit(tmp_path, "train(100, 0.1)", "again")
    place.service.stepping(run, 12, 90)
    ray.kill_head()
    wait_until(lambda: not place.trainers(run), "Ray's end stops its trainers")
    time.sleep(3)
    status = place.service.status(run)
    assert status["status"] in ("running", "queued"), f"no news is no end: {status}"
    ray.start_head()
    status = place.service.ended(run, 150)
    assert (status["status"], starts(tmp_path)) == ("succeeded", [1, 2])
    (saved, *_) = place.service.checkpoints(run).values()
    assert saved["state"] == "ready"


def test_a_token_that_ray_refuses_is_told_and_no_run_fails_of_it(
    ray: RayCluster, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path / "token"
    file.write_text("wrong")
    site = Site(table(ray, tmp_path_factory.mktemp("nodes"), file))
    place = Place(site, tmp_path_factory.mktemp("place"), free_port())
    try:
        run = place.submit(tmp_path, "train(2)")
        refused = "Ray refuses the token: see token_file."
        status = wait_until(
            lambda: (now := place.service.status(run))["status_detail"] == refused and now,
            lambda: str(place.service.status(run)),
        )
        assert (status["status"], status["status_reason"]) == ("queued", "waiting_for_cluster")
        file.write_text(TOKEN)
        assert place.ended(run)["status"] == "succeeded"
    finally:
        place.close()


def test_what_keeps_ray_from_running_a_job_is_one_line_of_the_operators_check(
    ray: RayCluster, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("wrong")
    first, last = check(tmp_path, "site", table(ray, tmp_path, token))
    assert first == "engine  wrong   Ray refuses the token: see token_file."
    assert last == "llm-train: the check ended at the step 'engine'"
    away = check(tmp_path, "site", table(ray, tmp_path), PUBLIC_URL="http://nowhere.invalid")
    assert away[2].startswith("claim   wrong   ") and "http://nowhere.invalid:" in away[2], away
