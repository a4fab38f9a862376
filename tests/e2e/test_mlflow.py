"""A script that knows MLflow's protocol and environment variables alone, under a recipe."""

import json
import sys
from pathlib import Path

from tests.support.server import running_server, wait_until
from tests.support.service import Service, home

SCRIPT = r"""
import base64, json, os, sys, time, urllib.request

uri = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/"
user, password = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
basic = base64.b64encode(f"{user}:{password}".encode()).decode()
run = os.environ["MLFLOW_RUN_ID"]

def call(method, path, body=None):
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/json"}
    request = urllib.request.Request(uri + path, content, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())

experiment = call("GET", "mlflow/experiments/get-by-name?experiment_name=mine")["experiment"]
made = call("POST", "mlflow/runs/create", {"experiment_id": experiment["experiment_id"]})
assert made["run"]["info"]["run_id"] == run, made
call("POST", "mlflow/runs/update", {"run_id": run, "status": "RUNNING"})
call("POST", "mlflow/runs/log-parameter", {"run_id": run, "key": "lr", "value": "0.5"})
uri_of_files = made["run"]["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
call("PUT", f"mlflow-artifacts/artifacts/{uri_of_files}/a.txt", b"hello")
steps = int(sys.argv[1])
if os.environ["LLM_TRAIN_ATTEMPT"] == "2":
    steps = 1000
for step in range(1, steps + 1):
    metric = {"run_id": run, "key": "loss", "value": 1.0 / step, "step": step, "timestamp": 1}
    call("POST", "mlflow/runs/log-metric", metric)
    if steps > 5:
        time.sleep(0.05)
call("POST", "mlflow/runs/update", {"run_id": run, "status": "FINISHED"})
print(password, flush=True)
sys.exit(int(sys.argv[2]))
"""


def write_recipes(path: Path) -> Path:
    script, tables = path / "train.py", []
    script.write_text(SCRIPT)
    for name, arguments in {"good": ["5", "0"], "bad": ["5", "3"], "long": ["1000", "0"]}.items():
        command = json.dumps([sys.executable, str(script), *arguments])
        tables.append(
            f"[recipes.{name}]\ncommand = {command}\nrequires_report = false\ngrace_seconds = 2"
        )
    flaky = tables[1].replace("[recipes.bad]", "[recipes.flaky]")
    tables.append(f"{flaky}\nmax_attempts = 2\nretry_seconds = 0")
    own = 'env = { MLFLOW_TRACKING_URI = "http://elsewhere.example" }'
    show = json.dumps([sys.executable, "-c", "import os; print(dict(os.environ))"])
    tables.append(f"[recipes.own]\ncommand = {show}\nrequires_report = false\n{own}")
    file = path / "recipes.toml"
    file.write_text("\n".join(tables))
    return file


def test_an_unmodified_script_reports_into_its_recipes_own_run(tmp_path: Path) -> None:
    token = "a-token-for-all-of-the-api"
    recipes = str(write_recipes(tmp_path))
    with running_server(tmp_path, RECIPES=recipes, API_TOKEN=token) as server:
        service = Service(server.url, server.pid, tmp_path, server.log)
        with service.http:
            service.http.headers["Authorization"] = f"Bearer {token}"
            service.open()
            good, bad = service.submit("good", lr=0.5), service.submit("bad", lr=0.5)
            long, own = service.submit("long"), service.submit("own")

            ended = service.ended(good)
            assert (ended["status"], ended["step"], ended["metrics"]["loss"]["value"]) == (
                "succeeded", 5, 0.2,
            )  # fmt: skip
            # It has said FINISHED as well: its exit code is what counts.
            assert service.ended(bad)["status_reason"] == "exit_code"
            service.stepping(long)
            service.cancel(long)
            assert service.ended(long)["status"] == "cancelled"
            service.ended(own)
            log = (service.data_dir / "runs" / own / "train.log").read_text()
            assert "elsewhere.example" in log and "MLFLOW_RUN_ID" not in log

            files = service.data_dir / "artifacts" / service.experiment / good / "a.txt"
            assert files.read_text() == "hello"
            password = (service.data_dir / "runs" / good / "train.log").read_text().split()[-1]
            answer = service.http.post(
                f"{service.url}/mlflow/api/2.0/mlflow/runs/set-tag",
                json={"run_id": bad, "key": "a", "value": "b"},
                auth=(good, password),
            )
            assert answer.status_code == 403


def test_what_is_left_of_an_earlier_attempt_cannot_report(tmp_path: Path) -> None:
    with home(tmp_path) as place, place.serve(RECIPES=str(write_recipes(tmp_path))) as service:
        service.open()
        run = service.submit("flaky")
        log = service.data_dir / "runs" / run / "train.log"
        first = wait_until(
            lambda: log.exists() and "at_1_" in log.read_text() and log.read_text().split()[0],
            "the first attempt has printed its password",
        )
        wait_until(lambda: service.status(run)["attempt"] == 2, "the second attempt")
        service.until(run, "running")
        service.stepping(run)
        answer = service.http.post(
            f"{service.url}/mlflow/api/2.0/mlflow/runs/log-metric",
            json={"run_id": run, "key": "loss", "value": 1.0, "step": 9000},
            auth=(run, str(first)),
        )
        assert (answer.status_code, answer.json()["error_code"]) == (409, "INVALID_STATE")
        assert service.status(run)["step"] < 9000
        service.cancel(run)
        service.ended(run)
