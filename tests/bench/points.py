"""`python -m tests.bench --scale`, second part: what a hundred million points take on the disk.

Two runs report to one server, a thousand points of a metric at a time: steps at regular distances,
values whose last bits are random, and wall times with the jitter of a training loop, or none. The
size is that of the database after the reports, less what it was before them.

Then curves are read, and retention thins the points of the one run and removes those of the other,
while a client submits runs.
"""

import random
import secrets
import time
from pathlib import Path

import orjson

from app.domain.ids import timestamp, timestamp_after
from tests.bench.databases import open_database
from tests.bench.fixture import RUN, call, databases, new_run, port
from tests.bench.load import request, run_load
from tests.bench.report import Figure, Target, figure
from tests.support.server import Server, running_server, wait_until

A_RUN = 100
"""Points that the bench writes for each run of its `--scale`."""
POINTS = 1_000
"""Of one metric in one request."""
METRICS = 10
EVERY = 10
"""Steps between two points."""
AT_ONCE = 50
"""Requests that are made, and then sent."""
ANSWERS = 12
"""That a curve is measured with, and submits between two looks at retention."""
YESTERDAY, LONG_AGO = (timestamp_after(timestamp(), -days * 86_400) for days in (1, 5_000))
RETENTION_SECONDS = 3_600.0
BYTES = {"with": Target("at most", 14, of="ours"), "without": Target("at most", 10, of="ours")}


def points(directory: Path, dialect: str, count: int) -> list[Figure]:
    """Return bytes a point, points a second, and the times of curves and of retention, of `count`
    points with wall times and of as many without."""
    home = directory / "points"
    home.mkdir()
    figures, runs = [], {}
    with databases(dialect, home) as (url,):
        with running_server(home, DATABASE_URL=url) as server:
            made = call(server, "POST", "/v1/experiments", {"name": "points", "task_type": "sft"})
            experiment = str(made["experiment_id"])
            for wall_times, target in BYTES.items():
                before = _size(server)
                run = new_run(server, experiment)
                sent, seconds = _report(server, run, count, wall_times == "with")
                work = f"{sent:,} points {wall_times} wall times"
                size = (_size(server) - before) / sent
                runs[wall_times] = run[0]
                figures += [
                    figure("points", f"{work}: on disk", "B/point", [size], target=target),
                    figure("points", f"{work}: ingest", "1,000/s", [sent / seconds / 1_000]),
                    *_curves(server, experiment, run[0], sent),
                ]
            with open_database(server) as database:
                ended = "UPDATE run SET status = 'succeeded', finished_at = ? WHERE id = ?"
                for wall_times, at in (("with", YESTERDAY), ("without", LONG_AGO)):
                    database.execute(ended, (at, runs[wall_times]))
        with running_server(
            home, DATABASE_URL=url, POINTS_DAYS="0.5", CURVES_DAYS="3650"
        ) as server:
            figures += _retention(server, experiment, 2 * sent)
    return figures


def _curves(server: Server, experiment: str, run_id: str, sent: int) -> list[Figure]:
    metrics = f"/v1/experiments/{experiment}/runs/{run_id}/metrics?keys=metric-0"
    middle = sent // METRICS // 2 * EVERY
    asked = {
        "1,000 of all points of a curve": f"{metrics}&points=1000",
        "100 of them": f"{metrics}&points=100",
        "1,000 of 100,000 in its middle":
            f"{metrics}&from_step={middle}&to_step={middle + 100_000 * EVERY}&points=1000",
        "10,000 points in its middle":
            f"{metrics}&from_step={middle}&to_step={middle + 10_000 * EVERY - 1}",
        "the latest values": f"/v1/experiments/{experiment}/runs/{run_id}/status",
    }  # fmt: skip
    return [
        figure("points", f"{sent // METRICS:,} points a curve: {work}", "ms p50", [
            run_load(port(server), [[request("GET", path)] * ANSWERS]).expect(200).percentile(50)
            * 1_000
        ])
        for work, path in asked.items()
    ]  # fmt: skip


def _retention(server: Server, experiment: str, sent: int) -> list[Figure]:
    """Wait until the points of the one run are thinned, and those of the other removed."""
    start, slowest = time.perf_counter(), 0.0
    path, body = f"/v1/experiments/{experiment}/runs", orjson.dumps(RUN)

    def done() -> bool:
        nonlocal slowest
        keys = [secrets.token_hex(12) for _ in range(ANSWERS)]
        lane = [request("POST", path, body, idempotency_key=key) for key in keys]
        slowest = max(slowest, run_load(port(server), [lane]).expect(201).latencies[-1])
        with open_database(server) as database:
            decided = "SELECT count(*) FROM event WHERE type LIKE 'run.points!_%' ESCAPE '!'"
            (events,) = database.execute(decided).fetchone()
            (left,) = database.execute("SELECT count(*) FROM expiration").fetchone()
        return bool(events == 2 and not left)

    wait_until(done, "retention has ended", timeout=RETENTION_SECONDS)
    rate = sent / (time.perf_counter() - start) / 1_000
    return [
        figure("points", f"{sent:,} points: thinned or removed by retention", "1,000/s", [rate]),
        figure("points", "the slowest of the submits meanwhile", "ms", [slowest * 1_000]),
    ]


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
