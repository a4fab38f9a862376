"""A server is replaced by this version while runs train: the former version's training goes on.

former.tar.xz is `app` of commit d5bd900 and its trainers for tests: database revision 0002, the
SDK, the wrapper and the files of a run of that time.
"""

import json
import os
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import trainers
from tests.support.server import REPOSITORY, wait_until
from tests.support.service import Service, home

FOREVER: dict[str, Any] = {"steps": 10**6, "step_seconds": 0.02, "checkpoint_every": 5}


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """The former version's code."""
    with tarfile.open(Path(__file__).with_name("former.tar.xz")) as archive:
        archive.extractall(tmp_path / "former", filter="data")
    return tmp_path / "former"


@contextmanager
def attached(service: Service, run: dict[str, Any], code: Path) -> Iterator[None]:
    """A trainer that somebody started by hand, with the SDK of this code."""
    environment = {
        "PATH": os.environ["PATH"],
        "LLM_TRAIN_API_URL": service.url,
        "LLM_TRAIN_RUN_ID": run["run_id"],
        "LLM_TRAIN_RUN_TOKEN": run["run_token"],
    }
    with subprocess.Popen(trainers.argv("obedient"), cwd=code, env=environment) as trainer:
        try:
            yield
        finally:
            trainer.kill()


def by_retention(service: Service, run: str) -> list[str]:
    """The checkpoints that the former version has deleted; it called them lost."""
    return [name for name, c in service.checkpoints(run).items() if c["state"] == "lost"]


def contiguous(service: Service, run: str, least: int) -> bool:
    """Return True if every step is stored, once, and no fewer than `least`."""
    steps = [step for step, _ in service.losses(run)]
    return steps == list(range(1, len(steps) + 1)) and len(steps) >= least


def test_runs_checkpoints_and_tokens_of_the_former_version_go_on_under_this_one(
    tmp_path: Path, former: Path, empty_database_url: str
) -> None:
    recipes = tmp_path / "recipes.toml"  # with nothing that the former version did not know
    with home(tmp_path, empty_database_url) as place:
        recipes.write_text(
            f"[recipes.obedient]\ncommand = {json.dumps(trainers.argv('obedient'))}\n"
            f"working_dir = {json.dumps(str(former))}\nkeep_checkpoints = 2\n"
        )
        place.code = former
        with place.serve() as service:
            runs = f"/experiments/{service.experiment}/runs"
            launched, stopping = (service.submit("obedient", **FOREVER) for _ in range(2))
            external = service.post(runs, {"model": "m", "hyperparams": FOREVER}, 201)
            by_hand: str = external["run_id"]
            keyed = service.submit(None, key="once")
            with attached(service, external, former):
                for run in (launched, by_hand, stopping):
                    service.stepping(run, 30)
                taken = wait_until(lambda: by_retention(service, launched), "retention")
                before = {run: service.status(run)["step"] for run in (launched, by_hand)}
                os.kill(service.trainer(stopping).pid, signal.SIGSTOP)  # it saves after the upgrade
                promised = service.cancel(stopping, 202)["ckpt_path"]
                service.kill()
                place.code = REPOSITORY
                with place.serve() as service:
                    for run, step in before.items():
                        assert service.stepping(run, step + 100)["status"] == "running"
                        assert contiguous(service, run, step + 100)
                    states = {name: c["state"] for name, c in service.checkpoints(launched).items()}
                    assert {states[name] for name in taken} == {"deleted"}
                    assert service.submit(None, key="once") == keyed

                    paths = {run: service.cancel(run, 202)["ckpt_path"] for run in before}
                    for run, path in (paths | {stopping: promised}).items():
                        assert service.ended(run)["status"] == "cancelled"
                        outcome = service.cancel(run, 200)
                        assert outcome["ckpt_path"] == path
                        assert outcome["checkpoint"]["state"] == "ready"
                    assert service.launches(launched) == service.launches(stopping) == [1]

                    steps = service.status(launched)["step"] + 10
                    child = service.resume(launched, override_hyperparams={"steps": steps})
                    ended = service.ended(child["run_id"])
                    assert (ended["status"], ended["step"]) == ("succeeded", steps)
