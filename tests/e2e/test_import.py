"""`llm-train import mlflow`: a directory, a database and a server; once, and again."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server import Server

RUN, BROKEN, RUNNING = "a" * 32, "b" * 32, "c" * 32
START, END = 1_700_000_000_000, 1_700_000_060_000


def write_directory(top: Path) -> Path:
    """Write what MLflow 3's file store leaves."""
    experiment = top / "mlruns" / "779625256794002522"
    (top / "mlruns" / ".trash").mkdir(parents=True)
    experiment.mkdir()
    (experiment / "meta.yaml").write_text(
        "artifact_location: file:///elsewhere/1\nexperiment_id: '779625256794002522'\n"
        "lifecycle_stage: active\nname: 'old: work'\n"
    )
    for run_id, status in ((RUN, 3), (BROKEN, 4), (RUNNING, 1)):
        run = experiment / run_id
        for folder in ("metrics/val", "params", "tags", "artifacts/notes"):
            (run / folder).mkdir(parents=True)
        (run / "meta.yaml").write_text(
            f"artifact_uri: file:///elsewhere/1/{run_id}/artifacts\nend_time: {END}\n"
            f"experiment_id: '779625256794002522'\nlifecycle_stage: active\nrun_id: {run_id}\n"
            f"run_name: 'run: {status}'\nstart_time: {START}\nstatus: {status}\n"
        )
        (run / "params" / "lr").write_text("1e-05")
        (run / "params" / "text").write_text("line one\nline two")
        (run / "tags" / "stage").write_text("dev")
        (run / "artifacts" / "notes" / "a b.txt").write_text("hello")
        (run / "artifacts" / "secret").symlink_to("/etc/hostname")
        lines = [f"{START + step} {'nan' if step == 5 else 1 / step} {step}" for step in STEPS]
        (run / "metrics" / "val" / "loss").write_text("\n".join(lines) + "\n")
        (run / "metrics" / "inf").write_text(f"{START} inf 1\n")
    return top / "mlruns"


STEPS = range(1, 12_001)


def write_database(top: Path) -> Path:
    """Write those tables of MLflow's database that are read."""
    path = top / "mlflow.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE experiments (experiment_id INTEGER, name TEXT, lifecycle_stage TEXT);"
            "CREATE TABLE runs (run_uuid TEXT, name TEXT, status TEXT, start_time BIGINT,"
            " end_time BIGINT, lifecycle_stage TEXT, artifact_uri TEXT, experiment_id INTEGER);"
            "CREATE TABLE metrics (key TEXT, value FLOAT, timestamp BIGINT, run_uuid TEXT,"
            " step BIGINT, is_nan BOOLEAN);"
            "CREATE TABLE params (key TEXT, value TEXT, run_uuid TEXT);"
            "CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT);"
            "INSERT INTO experiments VALUES (1, 'old: work', 'active');"
        )
        for run_id, status in ((RUN, "FINISHED"), (BROKEN, "FAILED"), (RUNNING, "RUNNING")):
            artifacts = top / "files" / run_id / "notes"
            artifacts.mkdir(parents=True)
            (artifacts / "a b.txt").write_text("hello")
            about = (run_id, f"run: {status}", status, START, END, "active")
            where = (*about, f"files/{run_id}", 1)
            connection.execute("INSERT INTO runs VALUES (?,?,?,?,?,?,?,?)", where)
            points: list[tuple[Any, ...]] = [
                ("val/loss", 0.0 if step == 5 else 1 / step, START + step, run_id, step, step == 5)
                for step in STEPS
            ]
            points.append(("inf", 1.7976931348623157e308, START, run_id, 1, False))
            connection.executemany("INSERT INTO metrics VALUES (?,?,?,?,?,?)", points)
            for pair in (("lr", "1e-05"), ("text", "line one\nline two")):
                connection.execute("INSERT INTO params VALUES (?,?,?)", (*pair, run_id))
            connection.execute("INSERT INTO tags VALUES ('stage', 'dev', ?)", (run_id,))
    connection.close()
    return path


def run_import(server: Server, source: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli.main", "import", "mlflow", str(source),
         "--url", server.url],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def post(server: Server, path: str, body: Any) -> Any:
    answer = httpx.post(f"{server.url}/mlflow/api/2.0/mlflow/{path}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def list_runs(server: Server, text: str) -> list[Any]:
    answer = httpx.get(
        f"{server.url}/mlflow/api/2.0/mlflow/experiments/get-by-name",
        params={"experiment_name": "old: work"},
    )
    wanted = [answer.json()["experiment"]["experiment_id"]]
    found = post(server, "runs/search", {"experiment_ids": wanted, "filter": text})
    runs: list[Any] = found["runs"]
    return runs


def test_each_store_is_taken_over_once_and_is_the_same_run(server: Server, tmp_path: Path) -> None:
    directory, database = write_directory(tmp_path), write_database(tmp_path)
    first = run_import(server, directory)
    assert first.returncode == 0, first.stderr
    assert "2 runs imported, 0 known already, 1 still running there" in first.stdout
    for source in (directory, database, f"sqlite:///{database}"):
        again = run_import(server, source)
        assert "0 runs imported, 2 known already, 1 still running there" in again.stdout

    runs = {run["info"]["status"]: run for run in list_runs(server, "")}
    assert set(runs) == {"FINISHED", "FAILED"} and len(list_runs(server, "")) == 2
    found = runs["FINISHED"]
    info, data = found["info"], found["data"]
    assert (info["run_name"], info["start_time"], info["end_time"]) == ("run: 3", START, END)
    params = {each["key"]: each["value"] for each in data["params"]}
    assert params == {"lr": "1e-05", "text": "line one\nline two"}
    tags = {each["key"]: each["value"] for each in data["tags"]}
    assert (tags["stage"], tags["llm_train.imported_from"]) == ("dev", f"mlflow:{RUN}")
    history = httpx.get(
        f"{server.url}/mlflow/api/2.0/mlflow/metrics/get-history",
        params={"run_id": info["run_id"], "metric_key": "val/loss"},
    ).json()["metrics"]
    assert [each["step"] for each in history] == list(STEPS)
    assert (history[4]["value"], history[9]["value"]) == ("NaN", 0.1)
    assert history[-1]["timestamp"] == START + STEPS[-1]
    place = server.data_dir / "artifacts" / info["experiment_id"] / info["run_id"]
    assert (place / "notes" / "a b.txt").read_text() == "hello"
    assert [each.name for each in place.iterdir()] == ["notes"]


def test_an_import_that_broke_off_is_finished_by_the_next(server: Server, tmp_path: Path) -> None:
    directory = write_directory(tmp_path)
    broken = next(directory.glob(f"*/{RUN}/metrics/inf"))
    key = RUN.replace("a", "d")
    meta = broken.parents[1] / "meta.yaml"
    meta.write_text(meta.read_text().replace(RUN, key))
    broken.write_text("1 no-number 1\n")
    failed = run_import(server, directory)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    (half,) = list_runs(server, f"tags.`llm_train.imported_from` = 'mlflow:{key}'")
    assert half["info"]["status"] == "RUNNING"
    broken.write_text(f"{START} inf 1\n")
    assert run_import(server, directory).returncode == 0
    (whole,) = list_runs(server, f"tags.`llm_train.imported_from` = 'mlflow:{key}'")
    assert (whole["info"]["run_id"], whole["info"]["status"]) == (
        half["info"]["run_id"], "FINISHED",
    )  # fmt: skip


def test_a_server_is_a_source_as_well(server: Server, tmp_path: Path) -> None:
    experiment = post(server, "experiments/create", {"name": "of a server"})["experiment_id"]
    run = post(server, "runs/create", {"experiment_id": experiment, "run_name": "r"})["run"]
    run_id, uri = run["info"]["run_id"], run["info"]["artifact_uri"].partition(":/")[2]
    points = [{"key": "a", "step": step, "value": 1.0, "timestamp": START} for step in range(1, 9)]
    post(server, "runs/log-batch", {"run_id": run_id, "metrics": points})
    files = f"{server.url}/mlflow/api/2.0/mlflow-artifacts/artifacts/{uri}"
    httpx.put(f"{files}/notes/x", content=b"xyz").raise_for_status()
    post(server, "runs/update", {"run_id": run_id, "status": "FINISHED"})
    done = run_import(server, f"{server.url}/mlflow")
    assert done.returncode == 0, done.stderr
    text = f"tags.`llm_train.imported_from` = 'mlflow:{run_id}'"
    wanted = {"experiment_ids": [experiment], "filter": text}
    (copy,) = post(server, "runs/search", wanted)["runs"]
    assert copy["data"]["metrics"][0]["step"] == 8
    uri = copy["info"]["artifact_uri"].partition(":/")[2]
    got = httpx.get(f"{server.url}/mlflow/api/2.0/mlflow-artifacts/artifacts/{uri}/notes/x")
    assert got.content == b"xyz"


@pytest.mark.parametrize("kind", ["missing", "text", "yaml", "nobody"])
def test_what_is_no_store_is_refused_in_one_line(server: Server, tmp_path: Path, kind: str) -> None:
    source: object = tmp_path / kind
    if kind == "text":
        (tmp_path / kind).write_text("no database")
    if kind == "yaml":
        (tmp_path / kind / "1").mkdir(parents=True)
        (tmp_path / kind / "1" / "meta.yaml").write_text("a: [")
    if kind == "nobody":
        source = "http://127.0.0.1:9/mlflow"
    done = run_import(server, source)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1 and json.dumps(done.stderr)
    assert done.stderr.startswith("llm-train: ")
