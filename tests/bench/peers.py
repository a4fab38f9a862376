"""What a user would otherwise pick: MLflow and Trackio from PyPI, the same work in turns with ours.

Each is installed into an environment of its own under `build/bench`, kept for the next time.
MLflow runs as its users run it, on SQLite with one worker. Trackio stores from within the training
process, so its own storage call is timed there, without HTTP.
"""

import json
import shutil
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench import ingest, processes, rows
from tests.bench.databases import Database, open_database
from tests.bench.fixture import (
    KEYS,
    MODELS,
    RUN,
    Workbench,
    call,
    clone,
    copy_id,
    port,
)
from tests.bench.load import request, run_load
from tests.bench.report import Figure, figure
from tests.support.server import Server

API = "/api/2.0/mlflow"
REPETITIONS = 3
STATUSES = ("FINISHED", "FAILED", "FINISHED", "KILLED")
Cell = Callable[[], float]


def installed(package: str) -> tuple[Path, str]:
    """The folder of programs of an environment with this package, and the package's version."""
    home = processes.CACHE / f"peer-{package}"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=False)
        processes.pip_install(home, package)
        (home / "complete").touch()
    code = f"from importlib.metadata import version; print(version({package!r}))"
    version = subprocess.check_output([home / "bin" / "python", "-c", code], text=True)
    return home / "bin", version.strip()


def mlflow(bench: Workbench) -> list[Figure]:
    programs, version = installed("mlflow")
    command = (
        # With its default pool of 15 connections, half of 32 clients' requests fail after 30 s.
        *("env", f"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE={rows.CLIENTS * 2}"),
        str(programs / "mlflow"),
        *("server", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1"),
        *("--backend-store-uri", "sqlite:///{directory}/app.db"),
        *("--default-artifact-root", "{directory}/artifacts"),
    )
    ours, trainers = bench.ours, ingest.Trainers(bench, bench.ours, "columns")
    memory: tuple[list[float], list[float]] = ([], [])
    figures = []

    def add(work: str, unit: str, our_cell: Cell, their_cell: Cell) -> None:
        one, other = rows.in_turns(REPETITIONS, our_cell, their_cell)
        figures.append(figure("mlflow", f"MLflow {version}: {work}", unit, one, other))

    with processes.started(bench.directory, *command) as (server, _):
        peer = Mlflow(server)
        add(
            "create runs, 32 clients",
            "/s",
            lambda: rows.submit_rate(bench, ours, 30),
            lambda: run_load(port(server), [[peer.create] * 6] * rows.CLIENTS).expect(200).rate,
        )
        add(
            "ingest 1,000 points a request",
            "points/s",
            lambda: trainers.rate(8),
            peer.ingest_rate,
        )
        add(
            "read one run, 32 clients",
            "/s",
            lambda: rows.read_load(bench, ours, 1.0).rate,
            lambda: run_load(port(server), [[peer.read]] * rows.CLIENTS, 2.0).expect(200).rate,
        )
        add(
            "search 100 of 10 k runs",
            "ms p50",
            lambda: rows.latency(bench, ours, request("GET", rows.list_path(bench, "10k"))),
            lambda: rows.latency(bench, server, peer.search),
        )
        add(
            "history of 10 k points",
            "ms p50",
            lambda: rows.latency(bench, ours, request("GET", rows.history_path(bench))),
            lambda: rows.latency(bench, server, peer.history),
        )
    add(
        "start to first answer",
        "s",
        lambda: processes.start_and_idle(bench.directory, memory[0], *processes.OURS),
        lambda: processes.start_and_idle(bench.directory, memory[1], *command),
    )
    return [*figures, figure("mlflow", f"MLflow {version}: idle memory", "MB RSS", *memory)]


class Mlflow:
    """A tracking server with 10 k runs, one of which has 10 k points; requests for its work."""

    def __init__(self, server: Server) -> None:
        self.server, self.batches = server, 0
        made = call(server, "POST", f"{API}/experiments/create", {"name": "bench"})
        self.experiment_id = made["experiment_id"]
        self.create = self.post("runs/create", **self.run())
        run_id = self.new_run()
        run_load(port(server), [[self.batch(run_id, KEYS[:1]) for _ in range(10)]]).expect(200)
        params = [{"key": key, "value": str(value)} for key, value in RUN["hyperparams"].items()]
        logged = [
            self.batch(run_id, KEYS),
            self.post("runs/log-batch", run_id=run_id, params=params),
        ]
        run_load(port(server), [logged]).expect(200)
        with open_database(server) as database:
            self.copy_runs(database, run_id)
        self.read = request("GET", f"{API}/runs/get?run_id={run_id}")
        self.search = self.post(
            "runs/search",
            experiment_ids=[self.experiment_id],
            filter=f"tags.model = '{MODELS[0]}' and attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
            max_results=100,
        )
        asked = f"run_id={run_id}&metric_key={KEYS[0].replace('/', '%2F')}&max_results=10000"
        self.history = request("GET", f"{API}/metrics/get-history?{asked}")
        for what, path, key, wanted in (
            ("runs", "runs/search", "runs", 100),
            ("points", f"metrics/get-history?{asked}", "metrics", 10_000),
        ):
            body = json.loads(self.search.split(b"\r\n\r\n", 1)[1]) if what == "runs" else None
            answer = call(server, "POST" if body else "GET", f"{API}/{path}", body)
            rows.same(f"MLflow's {what}", len(answer[key]), wanted)

    def copy_runs(self, database: Database, run_id: str) -> None:
        """10 k runs with the variety of ours, each with its tag, parameters and latest metrics."""
        vary: dict[str, dict[str, Callable[[int], Any]]] = {
            "runs": {"status": lambda number: STATUSES[number % len(STATUSES)]},
            "tags": {"value": lambda number: MODELS[number % len(MODELS)]},
            "params": {},
            "latest_metrics": {},
        }
        for table, changes in vary.items():
            like = f"run_uuid = '{run_id}'" + (" AND key = 'model'" if table == "tags" else "")
            changes["run_uuid"] = lambda number: copy_id(run_id, number)
            clone(database, table, like, 10_000, **changes)

    def post(self, path: str, **body: Any) -> bytes:
        return request("POST", f"{API}/{path}", json.dumps(body).encode())

    def run(self) -> dict[str, Any]:
        tags = [{"key": "model", "value": MODELS[0]}]
        return {"experiment_id": self.experiment_id, "start_time": 1_763_800_000_000, "tags": tags}

    def new_run(self) -> str:
        made = call(self.server, "POST", f"{API}/runs/create", self.run())
        return str(made["run"]["info"]["run_id"])

    def batch(self, run_id: str, keys: tuple[str, ...]) -> bytes:
        """1,000 points, evenly over the keys, at steps of their own."""
        self.batches += 1
        per_key = 1_000 // len(keys)
        metrics = [
            {"key": key, "value": 2.0, "timestamp": 1_763_800_000_000, "step": step}
            for key in keys
            for step in range(self.batches * per_key, (self.batches + 1) * per_key)
        ]
        return self.post("runs/log-batch", run_id=run_id, metrics=metrics)

    def ingest_rate(self) -> float:
        lanes = [
            [self.batch(run_id, KEYS) for _ in range(3)]
            for run_id in [self.new_run() for _ in ingest.FEW]
        ]
        return run_load(port(self.server), lanes).expect(200).rate * 1_000


TRACKIO = """
import sys, time
from trackio.sqlite_storage import SQLiteStorage
metrics = [dict.fromkeys({keys!r}, 2.0)] * 250
began = time.perf_counter()
for batch in range(100):
    steps = list(range(batch * 250, batch * 250 + 250))
    SQLiteStorage.bulk_log("bench", "run-" + sys.argv[1], metrics, steps=steps)
print(100_000 / (time.perf_counter() - began))
"""


def trackio(bench: Workbench) -> list[Figure]:
    programs, version = installed("trackio")
    trainers, count = ingest.Trainers(bench, bench.ours, "columns"), iter(range(100))

    def ingest_rate() -> float:
        command = [str(programs / "python"), "-c", TRACKIO.format(keys=KEYS), str(next(count))]
        env = {"TRACKIO_DIR": str(bench.directory / "trackio"), "HOME": str(bench.directory)}
        return float(subprocess.check_output(command, env=env, text=True).split()[-1])

    one, other = rows.in_turns(REPETITIONS, lambda: trainers.rate(8), ingest_rate)
    work = f"Trackio {version}: ingest 1,000 points a call"
    return [figure("trackio", work, "points/s", one, other)]
