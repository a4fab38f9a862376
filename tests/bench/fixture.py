"""What the rows measure against: the service, the bare cell, and the same data in both.

`workbench(...)` starts `python -m app.main`, creates what it can through the API, multiplies it in
the service's own tables (one row of each kind is made by the service, the rest are copies of it
with other ids), copies the file for the bare cell and starts that too.
"""

import json
import sys
import urllib.request
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from app.db import migrate
from tests.bench.databases import (
    Database,
    Postgres,
    copy_postgresql,
    copy_sqlite,
    open_database,
)
from tests.bench.load import request, run_load
from tests.support.database import postgresql_server
from tests.support.server import Server, running_server

STATUSES = ("succeeded", "failed", "succeeded", "cancelled")
HISTORY_BATCHES = 40  # of 1,000 points over four keys: 10 k points of each
MODELS = ("Qwen2.5-7B", "Llama-3-8B", "Mistral-7B", "Gemma-2-9B", "Phi-4")
SIZES = {"1k": 1_000, "10k": 10_000, "100k": 100_000, "nested": 50}
KEYS = ("train/loss", "train/grad_norm", "train/lr", "train/tokens_per_second")
RUN: dict[str, Any] = {
    "model": "Qwen2.5-7B",
    "dataset": {"name": "alpaca-zh", "split": "train"},
    "hyperparams": {"learning_rate": 2e-5, "batch_size": 16, "epochs": 3, "warmup_ratio": 0.03},
    "resources": {"gpu_type": "A100", "count": 4},
    "notes": "baseline",
}
RECIPE = """
[recipes.first-line]
command = ["{{python}}", {script}]
requires_report = false
"""
FIRST_LINE = "import time\nprint(time.time(), flush=True)\n"


@dataclass
class Workbench:
    """Both servers and the ids of the data that they share."""

    directory: Path
    quick: bool
    dialect: str
    ours: Server
    bare: Server
    sizes: Collection[str]
    """Which of SIZES there are."""
    experiments: dict[str, str] = field(default_factory=dict)
    """By name: "1k", "10k", …; "work" for what is submitted and counted, "trained" for runs that
    report, which end for their silence while other rows are measured."""
    history_run: tuple[str, str] = ("", "")

    @property
    def repetitions(self) -> int:
        return 3 if self.quick else 7


def port(server: Server) -> int:
    return int(server.url.rsplit(":", 1)[1])


def call(server: Server, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """One request for setting up; raises on anything but 2xx."""
    data = None if body is None else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    ask = urllib.request.Request(
        server.url + path, data, {"Content-Type": "application/json", **headers}, method=method
    )
    with urllib.request.urlopen(ask, timeout=30) as response:
        return json.load(response)


def new_run(server: Server, experiment_id: str) -> tuple[str, str]:
    """An external run that waits for reports: its id and its token."""
    run = call(server, "POST", f"/v1/experiments/{experiment_id}/runs", RUN)
    return run["run_id"], run["run_token"]


def reports(
    run: tuple[str, str], form: str, first: int, count: int, points: int = 1_000
) -> list[bytes]:
    """Requests with `points` points each, evenly over KEYS; batches `first`, `first + 1`, …

    form: "columns" or "rows", as a trainer may send them.
    """
    run_id, token = run
    steps_per_batch = points // len(KEYS)
    made = []
    for batch in range(first, first + count):
        steps = range((batch - 1) * steps_per_batch, batch * steps_per_batch)
        values = [2.0 + 1.0 / (step + 3) for step in steps]
        times = [1_763_800_000.25 + step for step in steps]
        body: dict[str, Any] = {"attempt": 1, "batch": batch, "step": steps[-1]}
        if form == "columns":
            column = {"steps": list(steps), "values": values, "wall_times": times}
            body["metrics"] = dict.fromkeys(KEYS, column)
        else:
            body["points"] = [
                {"key": key, "step": step, "value": value, "wall_time": at}
                for step, value, at in zip(steps, values, times, strict=True)
                for key in KEYS
            ]
        path, authorization = f"/v1/runs/{run_id}/reports", f"Bearer {token}"
        made.append(request("POST", path, orjson.dumps(body), authorization=authorization))
    return made


def clone(
    database: Database,
    table: str,
    like: str,
    count: int,
    **changes: Callable[[int], Any],
) -> None:
    """Insert `count` copies of the rows WHERE `like`, with some columns computed from 0, 1, …"""
    cursor = database.execute(f"SELECT * FROM {table} WHERE {like}")
    names, found = [column[0] for column in cursor.description], cursor.fetchall()
    at = [(names.index(name), change) for name, change in changes.items()]

    def copies() -> Iterator[list[Any]]:
        for number in range(count):
            for row in map(list, found):
                for index, change in at:
                    row[index] = change(number)
                yield row

    database.insert(table, names, copies())


def copy_id(prototype: str, number: int) -> str:
    """An id of the same form and length."""
    return f"{prototype[:-6]}{number:06d}"


def moment(number: int) -> str:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    return at.isoformat(timespec="microseconds")


def fill(bench: Workbench) -> None:
    """The data that the reading rows read."""
    for name in ("work", "trained", *bench.sizes):
        wanted = {"name": f"bench-{name}", "task_type": "sft"}
        made = call(bench.ours, "POST", "/v1/experiments", wanted)
        bench.experiments[name] = made["experiment_id"]
    trained = bench.experiments["trained"]
    run_id, token = new_run(bench.ours, trained)
    path = f"/ckpts/{trained}/{run_id}/step-000002"
    mark = {"run_id": run_id, "ckpt_path": path, "tag_type": "candidate", "metrics": {"loss": 1.5}}
    marked = call(bench.ours, "POST", f"/v1/experiments/{trained}/checkpoints/mark", mark)
    bench.history_run = new_run(bench.ours, trained)
    lanes = [
        reports((run_id, token), "columns", 1, 1, points=8),
        reports(bench.history_run, "columns", 1, HISTORY_BATCHES),
    ]
    run_load(port(bench.ours), lanes).expect(200)
    with open_database(bench.ours) as database:
        for number, name in enumerate(SIZES):
            if name in bench.sizes:
                experiment = bench.experiments[name]
                copy_runs(database, run_id, experiment, SIZES[name], 100_000 * number)
        copy_checkpoints(database, marked["checkpoint_id"], run_id, bench.experiments["nested"])
        database.analyze()


def copy_runs(database: Database, run_id: str, experiment_id: str, size: int, base: int) -> None:
    def ids(number: int) -> str:
        return copy_id(run_id, base + number)

    clone(
        database,
        "run",
        f"id = '{run_id}'",
        size,
        id=ids,
        root_run_id=ids,
        experiment_id=lambda _: experiment_id,
        status=lambda number: STATUSES[number % len(STATUSES)],
        status_reason=lambda _: None,
        model=lambda number: MODELS[number % len(MODELS)],
        step=lambda number: number,
        settled_step=lambda number: number,
        created_at=moment,
        finished_at=lambda number: moment(number + 60),
    )
    clone(
        database, "metric_latest", f"run_id = '{run_id}'", size,
        run_id=ids, experiment_id=lambda _: experiment_id,
    )  # fmt: skip


def copy_checkpoints(
    database: Database, checkpoint_id: str, run_id: str, experiment_id: str
) -> None:
    """Ten for every run of the nested experiment."""

    def owner(number: int) -> str:
        return copy_id(run_id, 300_000 + number // 10)

    clone(
        database,
        "checkpoint",
        f"id = '{checkpoint_id}'",
        SIZES["nested"] * 10,
        id=lambda number: copy_id(checkpoint_id, number),
        run_id=owner,
        experiment_id=lambda _: experiment_id,
        ckpt_path=lambda n: f"/ckpts/{experiment_id}/{owner(n)}/step-{n % 10:06d}",
        created_at=moment,
    )


@contextmanager
def workbench(
    directory: Path, quick: bool, dialect: str, sizes: Collection[str]
) -> Iterator[Workbench]:
    """Both servers, filled and warm; ended and checked for leftovers when the block is left.

    `sizes`: which of SIZES the rows read.
    """
    ours_directory, bare_directory = directory / "ours", directory / "bare"
    ours_directory.mkdir()
    bare_directory.mkdir()
    script, recipes = directory / "first_line.py", directory / "recipes.toml"
    script.write_text(FIRST_LINE)
    recipes.write_text(RECIPE.format(script=json.dumps(str(script))))
    with (
        databases(dialect, ours_directory, bare_directory) as (own_url, bare_url),
        running_server(ours_directory, RECIPES=str(recipes), DATABASE_URL=own_url) as ours,
    ):
        bench = Workbench(directory, quick, dialect, ours, ours, sizes)
        fill(bench)
        command = (sys.executable, "-m", BARE[dialect])
        with open_database(ours) as source:
            copy_database(source, bare_url)
        with running_server(bare_directory, command=command, DATABASE_URL=bare_url) as bench.bare:
            history = reports(bench.history_run, "columns", 1, HISTORY_BATCHES)
            run_load(port(bench.bare), [history]).expect(200)
            yield bench


BARE = {"sqlite": "tests.bench.bare", "postgresql": "tests.bench.bare_postgresql"}


@contextmanager
def databases(dialect: str, *directories: Path) -> Iterator[list[str]]:
    """One database for each directory, in it or on a PostgreSQL server of our own."""
    if dialect == "sqlite":
        yield [f"sqlite:///{directory / 'app.db'}" for directory in directories]
        return
    with postgresql_server(durable=True) as server:
        for directory in directories:
            server.execute(f"CREATE DATABASE {directory.name}")
        yield [server.url(directory.name) for directory in directories]


def copy_database(source: Database, target: str) -> None:
    """Copy the whole database to the URL of an empty one."""
    if target.startswith("sqlite"):
        copy_sqlite(source, target)
        return
    migrate.bring_up(target)
    copy = Postgres(target)
    copy_postgresql(source, copy)
    copy.analyze()
    copy.connection.close()
