"""The training loop of the README, word for word, with PyTorch: alone, cancelled, resumed."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import block
from tests.support.service import Home, Service

BEFORE_THE_LOOP = """\
import sys, time
import torch

steps = int(sys.argv[1])
torch.manual_seed(0)


def make_model():
    return torch.nn.Linear(4, 1)


def train(model, optimizer):
    time.sleep(0.02)
    optimizer.zero_grad()
    loss = model(torch.ones(8, 4)).pow(2).mean()
    loss.backward()
    optimizer.step()
    print("rate", optimizer.param_groups[0]["lr"], flush=True)
    return loss


"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readme") / "train.py"
    path.write_text(BEFORE_THE_LOOP + block("python", "Your own trainer"))
    return path


@pytest.fixture(scope="module")
def service(script: Path) -> Iterator[Service]:
    command = json.dumps(["{python}", str(script), "{hyperparams.steps}"])
    (script.parent / "recipes.toml").write_text(f"[recipes.loop]\ncommand = {command}\n")
    settings = {"RECIPES": str(script.parent / "recipes.toml")}
    with Home(script.parent, settings=settings).serve() as service:
        yield service


def test_it_attaches_by_the_variables_and_its_curve_is_there(
    service: Service, script: Path
) -> None:
    body = {"model": "linear", "hyperparams": {}}
    run = service.post(f"/experiments/{service.experiment}/runs", body)
    started = block("bash", "Your own trainer")
    for shown, real in (
        ("http://127.0.0.1:8000", service.url),
        ("run_…", run["run_id"]),
        ("rt_…", run["run_token"]),
        ("python train.py", f"{sys.executable} train.py 5"),
    ):
        assert shown in started
        started = started.replace(shown, real)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    subprocess.run(["bash", "-ec", started], cwd=script.parent, env=environment, check=True)
    assert service.ended(run["run_id"])["status"] == "succeeded"
    assert [step for step, _ in service.losses(run["run_id"])] == [1, 2, 3, 4, 5]


def test_a_resumed_one_goes_on_with_its_weights_and_at_the_new_rate(service: Service) -> None:
    parent = service.submit("loop", steps=100_000, learning_rate=0.01)
    service.stepping(parent, 20)
    service.cancel(parent)
    saved = service.ended(parent)["step"]

    (checkpoint,) = service.checkpoints(parent).values()
    overrides = {"learning_rate": 0.0001, "steps": saved + 10}
    child = service.resume(
        parent, ckpt_path=checkpoint["ckpt_path"], override_hyperparams=overrides
    )["run_id"]
    assert service.ended(child)["status"] == "succeeded"

    before, after = dict(service.losses(parent)), dict(service.losses(child))
    learned = before[1] - before[saved]
    assert abs(after[saved + 1] - before[saved]) < learned / 5, "it has the weights of its parent"
    log = (service.run_dir(child) / "train.log").read_text()
    assert set(re.findall(r"rate (\S+)", log)) == {"0.0001"}, "not that of the saved optimizer"
    assert service.overrides(child)["learning_rate"]["applied"] is True
