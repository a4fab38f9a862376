"""`python -m tests.bench --scale`, second part: what a hundred million points take on the disk.

Two runs report to one server, a thousand points of a metric at a time: steps at regular distances,
values whose last bits are random, and wall times with the jitter of a training loop, or none. The
size is that of the database after the reports, less what it was before them.
"""

import random
import time
from pathlib import Path

import orjson

from tests.bench.databases import open_database
from tests.bench.fixture import call, databases, new_run, port
from tests.bench.load import request, run_load
from tests.bench.report import Figure, Target, figure
from tests.support.server import Server, running_server

A_RUN = 100
"""Points that the bench writes for each run of its `--scale`."""
POINTS = 1_000
"""Of one metric in one request."""
METRICS = 10
EVERY = 10
"""Steps between two points."""
AT_ONCE = 50
"""Requests that are made, and then sent."""
BYTES = {"with": Target("at most", 14, of="ours"), "without": Target("at most", 10, of="ours")}


def points(directory: Path, dialect: str, count: int) -> list[Figure]:
    """Return bytes a point and points a second, of `count` points with wall times and of as many
    without."""
    home = directory / "points"
    home.mkdir()
    figures = []
    with databases(dialect, home) as (url,), running_server(home, DATABASE_URL=url) as server:
        made = call(server, "POST", "/v1/experiments", {"name": "points", "task_type": "sft"})
        for wall_times, target in BYTES.items():
            before = _size(server)
            run = new_run(server, made["experiment_id"])
            sent, seconds = _report(server, run, count, wall_times == "with")
            work = f"{sent:,} points {wall_times} wall times"
            size = (_size(server) - before) / sent
            figures += [
                figure("points", f"{work}: on disk", "B/point", [size], target=target),
                figure("points", f"{work}: ingest", "1,000/s", [sent / seconds / 1_000]),
            ]
    return figures


def _size(server: Server) -> int:
    with open_database(server) as database:
        return database.size("metric_chunk")


def _report(server: Server, run: tuple[str, str], count: int, timed: bool) -> tuple[int, float]:
    """Report at least `count` points; return how many they were, and the seconds it took."""
    chance, batches, seconds = random.Random(14), -(-count // (POINTS * METRICS)), 0.0
    for first in range(0, batches, AT_ONCE):
        lane = [
            _request(chance, run, batch, timed)
            for batch in range(first, min(batches, first + AT_ONCE))
        ]
        start = time.perf_counter()
        run_load(port(server), [lane]).expect(200)
        seconds += time.perf_counter() - start
    return batches * POINTS * METRICS, seconds


def _request(chance: random.Random, run: tuple[str, str], batch: int, timed: bool) -> bytes:
    steps = [EVERY * step for step in range(batch * POINTS, (batch + 1) * POINTS)]
    columns = {}
    for number in range(METRICS):
        column = {"steps": steps, "values": [2 + chance.random() for _ in steps]}
        if timed:
            column["wall_times"] = [
                1_763_800_000.25 + step * 0.1 + chance.random() * 0.01 for step in steps
            ]
        columns[f"metric-{number}"] = column
    body = {"attempt": 1, "batch": batch + 1, "step": steps[-1], "metrics": columns}
    path, authorization = f"/v1/runs/{run[0]}/reports", f"Bearer {run[1]}"
    return request("POST", path, orjson.dumps(body), authorization=authorization)
