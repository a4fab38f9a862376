"""`llm-train import mlflow` from what MLflow itself has written: a server, a database, a folder."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.mlflow_server import mlflow_server
from tests.support.service import Service

POINTS = 25_100
"""More than MLflow's server gives in one answer."""
WRITE = """
import math, os, sys, time
import mlflow
from mlflow.entities import Metric

uri, name, points = sys.argv[1], sys.argv[2], int(sys.argv[3])
mlflow.set_tracking_uri(uri)
mlflow.set_experiment(name)
client = mlflow.MlflowClient()
with mlflow.start_run(run_name="one: yes", tags={"a": "b"}) as run:
    mlflow.log_params({"lr": 0.1, "text": "line one\\nline two"})
    for step in range(1, 30):
        mlflow.log_metric("val/loss", math.nan if step == 5 else 1 / step, step=step)
    mlflow.log_metric("inf", math.inf, step=1)
    mlflow.log_metric("before", 0.5, step=-1)
    for first in range(0, points, 1000):
        rows = [Metric("long", float(n), 1_700_000_000_000 + n, n)
                for n in range(first, min(first + 1000, points))]
        client.log_batch(run.info.run_id, rows)
    mlflow.log_text("hello", "notes/deep/a b.txt")
    mlflow.log_text("top", "top.txt")
try:
    with mlflow.start_run(run_name="broken"):
        raise ValueError
except ValueError:
    pass
with mlflow.start_run(run_name="deleted") as gone:
    pass
client.delete_run(gone.info.run_id)
experiment = mlflow.get_experiment_by_name(name).experiment_id
client.create_run(experiment, run_name="still runs")
"""
END = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
client = mlflow.MlflowClient()
experiment = client.get_experiment_by_name(sys.argv[4]).experiment_id
(run,) = client.search_runs([experiment], "attributes.status = 'RUNNING'")
client.set_terminated(run.info.run_id)
"""


def client(code: str, folder: Path, *arguments: str) -> None:
    """Run a script of MLflow's client."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MLFLOW")}
    environment |= {"MLFLOW_ALLOW_FILE_STORE": "true", "GIT_PYTHON_REFRESH": "quiet"}
    command = [sys.executable, "-c", code, *arguments]
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=180)


def take_over(service: Service, source: str, name: str) -> str:
    """Import the runs of an experiment; return what is said of it."""
    command = [
        sys.executable, "-m", "app.cli.main", "import", "mlflow", source, "--experiment", name,
        "--url", service.url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1] + done.stderr


def imported(service: Service, name: str) -> dict[str, Any]:
    """The runs of the experiment of this name, by their names; twice the same name is an error."""
    query = """{ experiments(first: 100) { nodes { id name runs(first: 10) { nodes {
        id name status params: effectiveHyperparams labels } } } } }"""
    answer = service.http.post(f"{service.url}/graphql", json={"query": query}).json()
    (found,) = [each for each in answer["data"]["experiments"]["nodes"] if each["name"] == name]
    runs = [run | {"experiment": found["id"]} for run in found["runs"]["nodes"]]
    assert len({run["name"] for run in runs}) == len(runs), runs
    return {run["name"]: run for run in runs}


def check(service: Service, name: str, points: int, artifacts: bool = True) -> None:
    """Assert that the service has what WRITE has written, and nothing twice."""
    runs = imported(service, name)
    run = runs["one: yes"]
    assert (run["status"], runs["broken"]["status"]) == ("SUCCEEDED", "FAILED")
    assert run["params"] == {"lr": 0.1, "text": "line one\nline two"}
    assert run["labels"]["a"] == "b"
    path = f"/experiments/{run['experiment']}/runs/{run['id']}/metrics?raw=true&limit=100000"
    curves = {each["key"]: each for each in service.get(path)["series"]}
    assert curves["val/loss"]["steps"] == list(range(1, 30))
    values = curves["val/loss"]["values"]
    assert values[0] == 1.0 and values[28] == 1 / 29 and values[4] in (None, "NaN")
    assert curves["long"]["steps"] == list(range(points))
    assert curves["long"]["values"] == [float(n) for n in range(points)]
    history = service.http.get(
        f"{service.url}/mlflow/api/2.0/mlflow/metrics/get-history",
        params={"run_id": run["id"], "metric_key": "before"},
    ).json()["metrics"]
    assert [(each["step"], each["value"]) for each in history] == [(-1, 0.5)]
    files = service.data_dir / "artifacts" / run["experiment"] / run["id"]
    expected = {"notes/deep/a b.txt": "hello", "top.txt": "top"} if artifacts else {}
    found = {
        file.relative_to(files).as_posix(): file.read_text()
        for file in files.rglob("*") if file.is_file()
    }  # fmt: skip
    assert found == expected


def test_a_real_server_is_taken_over_once_and_later_what_is_new(
    service: Service, tmp_path: Path
) -> None:
    name, other = "of a real server", "of its database"
    database = str(tmp_path / "mlflow.db")
    with mlflow_server(tmp_path) as url:
        client(WRITE, tmp_path, url, name, str(POINTS))
        first = take_over(service, url, name)
        assert first == "2 runs imported, 0 known already, 1 still running there"
        check(service, name, POINTS)
        again = take_over(service, url, name)
        assert again == "0 runs imported, 2 known already, 1 still running there"
        client(END + WRITE, tmp_path, url, other, "30", name)
        new = take_over(service, url, name)
        assert new == "1 runs imported, 2 known already, 0 still running there"
    # The same runs from the server's own database are known, too.
    same = take_over(service, database, name)
    assert same == "0 runs imported, 3 known already, 0 still running there"
    check(service, name, POINTS)
    assert imported(service, name)["still runs"]["status"] == "SUCCEEDED"
    # Runs that are only read from there have their artifacts on the server.
    said = take_over(service, database, other)
    assert "2 runs imported" in said
    assert said.count("which only MLflow can read") == 2, "no artifact is lost in silence"
    check(service, other, 30, artifacts=False)


@pytest.mark.parametrize("kind", ["directory", "database"])
def test_a_store_that_mlflow_has_written_is_taken_over_once(
    service: Service, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / ("mlruns" if kind == "directory" else "mlflow.db")
    uri = f"file:{place}" if kind == "directory" else f"sqlite:///{place}"
    name = f"of a real {kind}"
    client(WRITE, tmp_path, uri, name, "30")
    first = take_over(service, str(place), name)
    assert first == "2 runs imported, 0 known already, 1 still running there"
    again = take_over(service, str(place), name)
    assert again == "0 runs imported, 2 known already, 1 still running there"
    check(service, name, 30)
