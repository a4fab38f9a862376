"""Unmodified clients: MLflow, W&B, the integrations of both, TensorBoard's writer."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.real_trainers import SCRIPTS, lean_line
from tests.support.server import Server, running_server, wait_until
from tests.support.service import Service

SECONDS = 180.0
TOKEN = "a-token-for-all-of-the-api-of-forty-letters"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tracking")
    commands = {
        "fluent": ["mlflow_fluent.py"],
        "hf": ["hf_mlflow.py", str(inputs / "model"), "{run_dir}/out"],
        "lightning": ["lightning_mlflow.py", "{run_dir}/out", "logger"],
        "lightning-checkpoints": ["lightning_mlflow.py", "{run_dir}/out", "checkpoints"],
        "autolog": ["lightning_mlflow.py", "{run_dir}/out", "autolog"],
        "wandb": ["wandb_fluent.py", "0"],
        "wandb-lies": ["wandb_fluent.py", "0", "then fails"],
        "hf-wandb": ["hf_wandb.py", str(inputs / "model"), "{run_dir}/out"],
        "tensorboard": ["summary_writer.py", "{run_dir}"],
    }
    tables = [
        f"[recipes.{name}]\ncommand = {json.dumps(['{python}', str(SCRIPTS / script), *words])}\n"
        f"working_dir = {json.dumps(str(folder))}\n"  # where clients leave files of their own
        'requires_report = false\ntensorboard = "runs/**"\n'
        + lean_line(name if name == "autolog" else script, inputs)
        for name, (script, *words) in commands.items()
    ]
    (folder / "recipes.toml").write_text("\n".join(tables))
    recipes = str(folder / "recipes.toml")
    with running_server(folder, RECIPES=recipes, API_TOKEN=TOKEN) as server:
        yield server


@pytest.fixture(scope="module")
def service(server: Server) -> Iterator[Service]:
    service = Service(server.url, server.pid, server.data_dir.parent, server.log)
    with service.http:
        service.http.headers["Authorization"] = f"Bearer {TOKEN}"
        service.open()
        yield service


@pytest.fixture(scope="module")
def member_token(service: Service) -> str:
    """The token of a member of the default project: what people of a team have."""
    (project,) = service.get("/projects")["projects"]
    service.post("/users", {"name": "ann"})
    service.post(f"/projects/{project['project_id']}/members", {"user": "ann", "role": "member"})
    token: str = service.post("/tokens", {"user": "ann", "scope": "member"})["token"]
    return token


def done(service: Service, recipe: str, **hyperparams: Any) -> tuple[str, Any]:
    run = service.submit(recipe, **hyperparams)
    ended = service.ended(run, SECONDS)
    log = (service.data_dir / "runs" / run / "train.log").read_text()
    assert ended["status"] == "succeeded", f"{ended}\n{log}"
    return run, ended


def used(service: Service, run: str) -> Any:
    query = "query($id: ID!) { run(id: $id) { effectiveHyperparams labels models { state } } }"
    body = {"query": query, "variables": {"id": run}}
    return service.http.post(f"{service.url}/graphql", json=body).json()["data"]["run"]


def test_a_script_of_mlflow_reports_into_its_recipes_own_run(service: Service) -> None:
    run, ended = done(service, "fluent", learning_rate=1e-4)
    assert (ended["step"], ended["metrics"]["loss"]["value"]) == (21, 0.05)
    answer = used(service, run)
    assert answer["effectiveHyperparams"] == {
        "learning_rate": 1e-4, "flag": True, "layers": [1, 2],
    }  # fmt: skip
    assert (answer["labels"]["team"], answer["models"]) == ("nlp", [{"state": "ready"}])
    files = service.data_dir / "artifacts" / service.experiment / run
    assert (files / "notes" / "a b.txt").read_text() == "hello"


def test_the_same_script_by_hand_makes_an_external_run_of_a_member(
    service: Service, member_token: str
) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")
    }
    environment |= {
        "MLFLOW_TRACKING_URI": f"{service.url}/mlflow", "MLFLOW_TRACKING_TOKEN": member_token,
    }  # fmt: skip
    script = str(SCRIPTS / "mlflow_fluent.py")
    result = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "all as it was logged" in result.stdout


def test_a_hugging_face_trainer_that_reports_to_mlflow_needs_no_line(service: Service) -> None:
    run, ended = done(service, "hf")
    assert ended["step"] == 12
    assert 0 < ended["metrics"]["loss"]["value"] < 10
    answer = used(service, run)
    assert answer["effectiveHyperparams"]["learning_rate"] == 0.001
    assert answer["effectiveHyperparams"]["max_steps"] == 12


def test_lightnings_logger_reports_into_its_recipes_own_run(service: Service) -> None:
    run, ended = done(service, "lightning")
    assert ended["step"] == 11, "it counts the steps of its metrics from 0"
    assert used(service, run)["effectiveHyperparams"] == {"lr": 0.1}


def test_lightnings_logger_stores_each_checkpoint_with_the_run(service: Service) -> None:
    run, _ = done(service, "lightning-checkpoints")
    files = service.data_dir / "artifacts" / service.experiment / run
    assert {path.stat().st_size > 0 for path in files.rglob("*.ckpt")} == {True}
    found = {path.name for path in files.rglob("*.ckpt")}
    assert found == {"epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt", "epoch=2-step=12.ckpt"}


def test_what_mlflow_logs_by_itself_reports_into_its_recipes_own_run(service: Service) -> None:
    run, ended = done(service, "autolog")
    assert 0 < ended["metrics"]["loss"]["value"] < 10
    answer = used(service, run)
    assert answer["effectiveHyperparams"]["lr"] == 0.1
    assert answer["effectiveHyperparams"]["optimizer_name"] == "SGD"
    assert answer["models"] == [{"state": "ready"}]


def test_a_script_of_wandb_reports_into_its_recipes_own_run(service: Service) -> None:
    run, ended = done(service, "wandb", learning_rate=1e-4)
    assert (ended["step"], ended["metrics"]["loss"]["value"]) == (20, 0.05)
    assert ended["metrics"]["val.acc"]["value"] == 1.0
    answer = used(service, run)
    assert answer["effectiveHyperparams"] == {
        "learning_rate": 1e-4, "layers": [1, 2], "flag": True, "nothing": None, "late": 3,
    }  # fmt: skip
    assert answer["labels"]["wandb.summary.best"] == "0.75"
    files = service.data_dir / "artifacts" / service.experiment / run / "wandb"
    assert (files / "notes.txt").read_text() == "hello"
    log = (service.data_dir / "runs" / run / "train.log").read_text()
    assert "CreateArtifact is not served" in log and "all was logged" in log


def test_what_wandb_says_of_the_end_of_a_recipes_run_is_no_evidence(service: Service) -> None:
    run = service.submit("wandb-lies")
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["status_reason"], ended["step"]) == ("failed", "exit_code", 20)


@pytest.mark.parametrize(
    ("code", "expected"), [(0, ("succeeded", None)), (3, ("failed", "reported_failure"))]
)
def test_a_script_of_wandb_by_hand_makes_an_external_run_of_a_member(
    service: Service, member_token: str, tmp_path: Path, code: int, expected: tuple[str, str | None]
) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("WANDB_")
    }
    environment |= {
        "WANDB_BASE_URL": f"{service.url}/wandb", "WANDB_API_KEY": member_token,
        "WANDB_RUN_ID": f"by-hand-{code}",
    }  # fmt: skip
    command = [sys.executable, str(SCRIPTS / "wandb_fluent.py"), str(code)]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        timeout=SECONDS,
    )  # fmt: skip
    assert "all was logged" in result.stdout, result.stderr
    wait_until(lambda: expected in ends(service), "the run has ended")


def ends(service: Service) -> list[tuple[str, str | None]]:
    """Status and reason of each run of the script's own project."""
    query = """{ experiments(first: 100) { nodes { name runs(first: 10) { nodes {
        status statusReason } } } } }"""
    answer = service.http.post(f"{service.url}/graphql", json={"query": query}).json()
    return [
        (run["status"].lower(), run["statusReason"])
        for experiment in answer["data"]["experiments"]["nodes"]
        if experiment["name"] == "a project of my own"
        for run in experiment["runs"]["nodes"]
    ]


def test_a_hugging_face_trainer_that_reports_to_wandb_needs_no_line(service: Service) -> None:
    run, ended = done(service, "hf-wandb")
    assert ended["step"] == 12
    assert 0 < ended["metrics"]["train/loss"]["value"] < 10
    answer = used(service, run)
    assert answer["effectiveHyperparams"]["learning_rate"] == 0.001
    assert answer["effectiveHyperparams"]["max_steps"] == 12


def test_pytorchs_event_files_become_metrics(service: Service) -> None:
    run, ended = done(service, "tensorboard")
    assert ended["step"] == 30
    path = f"/experiments/{service.experiment}/runs/{run}/metrics"
    curves = {each["key"]: each for each in service.get(path)["series"]}
    assert set(curves) == {"loss/train", "loss/new", "final"}
    assert curves["loss/train"]["steps"] == list(range(1, 31))
    assert curves["loss/new"]["values"][3] == 0.25
    assert curves["loss/train"]["values"][6] in (None, "NaN")
