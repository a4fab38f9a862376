"""Checkpoints in a real S3 server: the whole life of a run, and what can happen on the way."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.domain import paths
from app.storage.buckets import open_storage
from app.storage.staged import StagedStorage
from tests.support.buckets import NAME
from tests.support.server import REPOSITORY, wait_until
from tests.support.service import Home, home


def store_table(url: str, prefix: str, **options: str) -> str:
    """The table `[stores.main]` of a prefix of the bucket."""
    table = {"url": f"s3://{NAME}/{prefix}", "endpoint": url, **options}
    return "\n[stores.main]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in table.items())


@contextmanager
def home_in(
    tmp_path: Path, url: str, store: dict[str, str] | None = None, **recipes: str
) -> Iterator[Home]:
    """A place for services whose checkpoints are in the bucket."""
    with home(tmp_path, **recipes) as place:
        place.settings["STORAGE"] = "main"
        with Path(place.settings["RECIPES"]).open("a") as file:
            file.write(store_table(url, tmp_path.name, **store or {}))
        yield place


def storage_of(place: Home, url: str) -> StagedStorage:
    """The same storage, of another process."""
    return open_storage(f"s3://{NAME}/{place.path.name}", place.path / "data", endpoint=url)


def test_the_contract_of_storages_holds_on_the_server(s3: str) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider",
               "tests/contract/test_storage.py", "tests/contract/test_artifacts.py",
               "-k", "bucket or staged"]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120
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

        wait_until(retained, lambda: str(service.checkpoints(run)), 20)
        gone = [c for c in service.checkpoints(run).values() if c["state"] == "deleted"]
        wait_until(
            lambda: not any(bucket.exists(paths.parse(each["ckpt_path"])) for each in gone),
            "the files of the deleted ones are gone from the bucket",
        )
        assert not [key for key in bucket.bucket.entries("ckpts") if key.endswith("/.draft")]
