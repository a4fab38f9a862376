"""A server is replaced by this version while runs train: a published version's training goes on.

tests/support/published.py has the versions: the schema, the SDK, the agent and the files of a run
of that time.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import trainers
from tests.support.database import postgresql_heavy
from tests.support.published import unpack
from tests.support.server import REPOSITORY, wait_until
from tests.support.service import Service, home

pytestmark = postgresql_heavy  # half a minute each

FOREVER: dict[str, Any] = {"steps": 10**6, "step_seconds": 0.02, "checkpoint_every": 5}


# The state that each version gave to checkpoints which retention had deleted.
DELETED = {"0.1.0": "lost", "0.2.0": "deleted"}


@pytest.fixture(params=[pytest.param("0.1.0", marks=pytest.mark.heavy), "0.2.0"])
def version(request: pytest.FixtureRequest) -> str:
    """A published version."""
    return str(request.param)


@pytest.fixture
def former(tmp_path: Path, version: str) -> Path:
    """The code of that version."""
    return unpack(version, tmp_path / "former")


def environment(code: Path) -> dict[str, str]:
    """Return variables under which Python finds the SDK of this code, and not the installed one."""
    return {"PYTHONPATH": str(code / "app" / "sdk")}


@contextmanager
def attached(service: Service, run: dict[str, Any], code: Path) -> Iterator[None]:
    """A trainer that somebody started by hand, with the SDK of this code."""
    variables = environment(code) | {
        "PATH": os.environ["PATH"],
        "LLM_TRAIN_API_URL": service.url,
        "LLM_TRAIN_RUN_ID": run["run_id"],
        "LLM_TRAIN_RUN_TOKEN": run["run_token"],
    }
    with subprocess.Popen(trainers.argv("obedient"), cwd=code, env=variables) as trainer:
        try:
            yield
        finally:
            trainer.kill()


def by_retention(service: Service, run: str, version: str) -> list[str]:
    """Return the checkpoints that a version has deleted."""
    found = service.checkpoints(run).items()
    return [name for name, c in found if c["state"] == DELETED[version]]


def contiguous(service: Service, run: str, least: int) -> bool:
    """Return True if every step is stored, once, and no fewer than `least`."""
    steps = [step for step, _ in service.losses(run)]
    return steps == list(range(1, len(steps) + 1)) and len(steps) >= least


def test_runs_checkpoints_and_tokens_of_a_published_version_go_on_under_this_one(
    tmp_path: Path,
    version: str,
    former: Path,
    empty_database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sdk = environment(former)["PYTHONPATH"]
    recipes = tmp_path / "recipes.toml"  # with nothing that the former version did not know
    with home(tmp_path, empty_database_url) as place:
        recipes.write_text(
            f"[recipes.obedient]\ncommand = {json.dumps(trainers.argv('obedient'))}\n"
            f"working_dir = {json.dumps(str(former))}\nkeep_checkpoints = 2\n"
            f"[recipes.obedient.env]\nPYTHONPATH = {json.dumps(sdk)}\n"
        )
        place.code = former
        monkeypatch.setenv("PYTHONPATH", sdk)
        with place.serve() as service:
            runs = f"/experiments/{service.experiment}/runs"
            launched, stopping = (service.submit("obedient", **FOREVER) for _ in range(2))
            external = service.post(runs, {"model": "m", "hyperparams": FOREVER}, 201)
            by_hand: str = external["run_id"]
            keyed = service.submit(None, key="once")
            with attached(service, external, former):
                for run in (launched, by_hand, stopping):
                    service.stepping(run, 30)
                taken = wait_until(lambda: by_retention(service, launched, version), "retention")
                before = {run: service.status(run)["step"] for run in (launched, by_hand)}
                os.kill(service.trainer(stopping).pid, signal.SIGSTOP)  # it saves after the upgrade
                promised = service.cancel(stopping, 202)["ckpt_path"]
                service.kill()
                place.code = REPOSITORY
                monkeypatch.delenv("PYTHONPATH")
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
