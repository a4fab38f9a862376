"""Checkpoints in a real S3 server: the whole life of a run, and what can happen on the way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.domain import paths
from tests.support.buckets import UNRACED
from tests.support.ministack import Gate
from tests.support.server import REPOSITORY, wait_until
from tests.support.stores import home_in, storage_of


def test_the_contract_of_storages_holds_on_the_server(s3: str) -> None:
    """Without the probe before each of its tests, half of its time: the services below do it."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider",
               "tests/contract/test_storage.py", "tests/contract/test_artifacts.py",
               "-k", "bucket or staged"]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    environment[UNRACED] = "1"
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-5000:]


def test_a_run_saves_is_cancelled_resumed_and_released_over_s3(s3: str, tmp_path: Path) -> None:
    with home_in(tmp_path, s3, obedient="keep_checkpoints = 2") as place, place.serve() as service:
        run = service.submit("obedient", steps=400, checkpoint_every=5, step_seconds=0.02)
        service.stepping(run, 12)
        promised = service.cancel(run)
        assert service.ended(run)["status"] == "cancelled"
        saved = service.checkpoints(run)
        name = promised["ckpt_path"].rsplit("/", 1)[1]
        assert saved[name]["state"] == "ready"

        bucket = storage_of(place, s3).store
        path = paths.parse(promised["ckpt_path"])
        assert bucket.verify(path).sha256 == saved[name]["sha256"]
        state = json.loads(b"".join(bucket.read(path, "state.json")))

        child = service.resume(run, override_hyperparams={"steps": state["step"] + 12})["run_id"]
        assert service.ended(child)["status"] == "succeeded"
        assert service.status(child)["step"] == state["step"] + 12
        newest = max(service.checkpoints(child).values(), key=lambda each: each["step"])
        body = {"run_id": child, "ckpt_path": newest["ckpt_path"], "tag_type": "release",
                "release_tag": "v1", "metrics": {}}  # fmt: skip
        service.post(f"/experiments/{service.experiment}/checkpoints/mark", body)

        def retained() -> bool:
            states = [each["state"] for each in service.checkpoints(run).values()]
            return states.count("ready") == 2 and set(states) == {"ready", "deleted"}

        wait_until(retained, lambda: str(service.checkpoints(run)))
        gone = [c for c in service.checkpoints(run).values() if c["state"] == "deleted"]
        wait_until(
            lambda: not any(bucket.exists(paths.parse(each["ckpt_path"])) for each in gone),
            "the files of the deleted ones are gone from the bucket",
        )

        def drafts() -> list[str]:
            return [key for key in bucket.bucket.entries("ckpts") if key.endswith("/.draft")]

        # One of the resumed run, which retention removes as well, is marked as one meanwhile.
        wait_until(lambda: not drafts(), lambda: str(drafts()))


@pytest.mark.parametrize("verify", ["bytes", "attested"])
def test_a_flipped_byte_and_a_deleted_object_are_found_and_the_finding_tells_how(
    s3: str, tmp_path: Path, verify: str
) -> None:
    with home_in(tmp_path, s3, {"verify": verify}) as place, place.serve() as service:
        run = service.submit("obedient", steps=12, checkpoint_every=4, step_seconds=0.01)
        assert service.ended(run)["status"] == "succeeded"
        bucket = storage_of(place, s3).bucket
        keys = [key for key in bucket.entries("ckpts") if key.endswith("state.json")]
        flipped, deleted, _ = sorted(keys)
        content = bucket.get(flipped) or b""
        bucket.put(flipped, bytes([content[0] ^ 1]) + content[1:])
        bucket.delete([deleted])
        path = f"/experiments/{service.experiment}/verifications"
        started = service.post(path, {"run_id": run})
        found = wait_until(
            lambda: (
                (now := service.get(f"{path}/{started['verification_id']}"))["finished_at"] and now
            ),
            "all are verified",
        )
        outcomes = {f["ckpt_path"][-2:]: (f["outcome"], f["reason"]) for f in found["findings"]}
        assert outcomes.pop("04")[0] == outcomes["08"][0] == "lost"
        assert "state.json' is missing" in outcomes.pop("08")[1]
        told = "By the sizes and checksums that the object store keeps; no byte was read."
        assert outcomes == {"12": ("ready", told if verify == "attested" else None)}


def test_a_server_that_ignores_if_none_match_is_refused_at_start(
    gate: Gate, tmp_path: Path
) -> None:
    gate.is_careless = True
    with (
        home_in(tmp_path, gate.url) as place,
        pytest.raises(AssertionError, match="use a store that honours If-None-Match"),
        place.serve(),
    ):
        pass
    gate.is_careless = False
    with home_in(tmp_path, gate.url) as place, place.serve():
        pass


def test_while_the_bucket_is_away_runs_go_on_and_are_resumed(
    gate: Gate, s3: str, tmp_path: Path
) -> None:
    with home_in(tmp_path, gate.url) as place, place.serve() as service:
        gate.shut()
        run = service.submit("obedient", steps=400, checkpoint_every=5, step_seconds=0.02)
        service.stepping(run, 7)
        promised = service.cancel(run)
        assert service.ended(run)["status"] == "cancelled"
        name = promised["ckpt_path"].rsplit("/", 1)[1]
        assert service.checkpoints(run)[name]["state"] == "ready", "it is whole, here"
        gate.is_shut = False
        place_of = storage_of(place, s3)
        place_of.clean_up()  # as the service does every ten minutes
        assert place_of.store.verify(paths.parse(promised["ckpt_path"]))
