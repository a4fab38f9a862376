"""The built-in recipes `hf-sft` and `torchrun`, with a tiny local model and data set."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.real_trainers import lean_folder
from tests.support.service import Home, Service

SECONDS = 300.0
SHORT = {"max_steps": 6, "save_steps": 3, "learning_rate": 0.001, "max_length": 32}


@pytest.fixture(scope="module")
def built_in(
    tmp_path_factory: pytest.TempPathFactory, inputs: Path, monkeypatch_module: pytest.MonkeyPatch
) -> Iterator[Service]:
    """A service without a recipes file, whose operator has a folder of models and data sets."""
    folder = tmp_path_factory.mktemp("sft")
    for kind, source in (("models", "model"), ("datasets", "sft")):
        (folder / kind).mkdir()
        (folder / kind / "tiny").symlink_to(inputs / source)
    monkeypatch_module.setenv("HF_SFT_DIR", str(folder))
    monkeypatch_module.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch_module.setenv("OMP_NUM_THREADS", "1")
    monkeypatch_module.setenv("PYTHONPATH", lean_folder(folder, "trl", inputs))
    with Home(tmp_path_factory.mktemp("service")).serve() as service:
        yield service


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def submit(service: Service, recipe: str, **fields: Any) -> str:
    body = {"model": "tiny", "dataset": {"name": "tiny"}, "recipe": recipe, "hyperparams": SHORT}
    path = f"/experiments/{service.experiment}/runs"
    return str(service.post(path, body | fields, 201)["run_id"])


@pytest.mark.parametrize("recipe", ["hf-sft", "torchrun"])
def test_it_trains_and_goes_on_with_another_rate(built_in: Service, recipe: str) -> None:
    run = submit(built_in, recipe)
    ended = built_in.ended(run, SECONDS)
    assert (ended["status"], ended["step"]) == ("succeeded", 6), ended
    saved = built_in.checkpoints(run)
    assert {"step-000003", "step-000006"} <= saved.keys()
    if recipe == "hf-sft":
        overrides = {"learning_rate": 0.0002, "max_steps": 8}
        path = saved["step-000006"]["ckpt_path"]
        child = built_in.resume(run, ckpt_path=path, override_hyperparams=overrides)["run_id"]
        ended = built_in.ended(child, SECONDS)
        assert (ended["status"], ended["step"]) == ("succeeded", 8), ended
        assert built_in.overrides(child)["learning_rate"]["applied"] is True


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "../../etc"},
        {"model": "/etc"},
        {"dataset": {"name": "tiny", "data_files": "/etc/passwd"}},
        {"hyperparams": {"output_dir": "/etc"}},
        {"hyperparams": {"max_steps": "6"}},
    ],
)
def test_a_client_names_no_path_and_no_other_argument(
    built_in: Service, fields: dict[str, Any]
) -> None:
    ended = built_in.ended(submit(built_in, "hf-sft", **fields), SECONDS)
    assert (ended["status"], ended["status_reason"]) == ("failed", "exit_code")
    assert "hf-sft:" in ended["status_detail"]
