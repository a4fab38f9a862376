"""A hundred trainers report to one worker at once: every point lands, and memory stays bounded."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.bench.fixture import call, new_run, port, reports
from tests.bench.load import finish_load, request, run_load, start_load
from tests.support.server import Server, running_server

SIZES = tuple(range(100, 1_001, 100)) * 10


def _runs(server: Server) -> tuple[str, list[tuple[str, str]]]:
    body = {"name": "crowd", "task_type": "sft"}
    experiment = call(server, "POST", "/v1/experiments", body)["experiment_id"]
    return experiment, [new_run(server, experiment) for _ in SIZES]


def _landed(server: Server) -> dict[str, int]:
    with closing(sqlite3.connect(server.database_url.removeprefix("sqlite:///"))) as database:
        return dict(
            database.execute(
                "SELECT run_id, sum(count) FROM metric_chunk JOIN metric_series"
                " ON id = series_id GROUP BY run_id"
            ).fetchall()
        )


def test_every_point_of_a_hundred_trainers_lands_once_while_reads_go_on(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        experiment, runs = _runs(server)
        lanes = []
        for run, size in zip(runs, SIZES, strict=True):
            own = reports(run, "columns", 1, 6, size)
            lanes.append([each for batch in own for each in (batch, batch)])  # and a retry of each
        load = start_load(port(server), lanes)
        path = f"/v1/experiments/{experiment}/runs/{runs[0][0]}/status"
        reads = run_load(port(server), [[request("GET", path)] * 200]).expect(200)
        finish_load(load).expect(200)
        assert len(reads.latencies) == 200
        assert _landed(server) == {
            run: 6 * size for (run, _), size in zip(runs, SIZES, strict=True)
        }


@pytest.mark.heavy
def test_a_flood_of_reports_is_held_back_before_memory_grows(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        _, runs = _runs(server)
        lanes = [reports(run, "columns", 1, 1, 40_000) for run in runs]  # 150 MB in all
        process, peak, over = psutil.Process(server.pid), 0, threading.Event()
        before = process.memory_info().rss

        def watch() -> None:
            nonlocal peak
            while not over.wait(0.005):
                peak = max(peak, process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        refused = 0
        while lanes:
            load = run_load(port(server), lanes).expect(200, 429)
            refused += load.statuses.get(429, 0)
            landed = _landed(server)
            assert set(landed.values()) == {40_000}, "what is refused is not half written"
            lanes = [lane for lane, (run, _) in zip(lanes, runs, strict=True) if run not in landed]
            runs = [run for run in runs if run[0] not in landed]
        over.set()
        watcher.join()
        assert peak - before < 200 * 2**20
        assert refused
