"""`python -m tests.bench.capacity`: how many trainers and viewers a service carries, on paper.

Measures what a request costs the service and PostgreSQL in CPU time, which depends little on a
machine's other work; then simulates trainers and viewers against these times. A trainer waits for
its answer, and then a second before it reports again what it has logged meanwhile; so an overload
makes reports fewer and larger, and values late. `app/docs/operations.md` says what came of it.
"""

import argparse
import heapq
import random
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import orjson
import psutil

from tests.bench.fixture import RUN, call, databases, new_run, port, reports
from tests.bench.load import request, run_load
from tests.bench.report import machine
from tests.support.database import dsn
from tests.support.server import Server, running_server

CLIENTS = 16
FLUSH_SECONDS = 1.0
"""Between an answer and the next report of a trainer that logs all the time."""
VIEW_SECONDS = 2.0
"""Between two requests of a page of the dashboard that is open."""
WARM_SECONDS, MEASURED_SECONDS = 60.0, 60.0
LIST = """{ runs(first: 50) { nodes { id name status step metrics { key value } } } }"""
BATCH = 1_000
"""Points of the larger of the two reports that are measured."""


class Cost(NamedTuple):
    """CPU seconds of one request: of the service, and of PostgreSQL."""

    service: float
    database: float = 0.0


@dataclass(frozen=True)
class Costs:
    """What requests cost. A report costs `report`, and `point` for each point in it."""

    report: Cost
    point: Cost
    view: Cost
    read: Cost
    submit: Cost

    def of_report(self, points: float) -> Cost:
        """Return what a report with so many points costs."""
        return Cost(
            *(one + points * more for one, more in zip(self.report, self.point, strict=True))
        )


@dataclass(frozen=True)
class Site:
    """What is simulated: processes of the service, cores of the database, trainers and viewers.

    A trainer logs `points` values a second.
    """

    workers: int
    cores: int
    trainers: int
    viewers: int
    points: float


@dataclass(frozen=True)
class Outcome:
    """Shares of the processes and cores that are busy; seconds until reports and views are
    answered, half of them and 99 of 100; reports a second."""

    service: float
    database: float
    reports: tuple[float, float]
    views: tuple[float, float]
    rate: float


class Station:
    """Servers of one kind with one queue, first come, first served."""

    def __init__(self, servers: int) -> None:
        self._free = [0.0] * servers
        self.busy = 0.0

    def serve(self, arrival: float, cost: float) -> float:
        """Return when a request that arrives now is done."""
        start = max(arrival, heapq.heappop(self._free))
        heapq.heappush(self._free, start + cost)
        measured = WARM_SECONDS, WARM_SECONDS + MEASURED_SECONDS
        begin, end = (min(max(time, measured[0]), measured[1]) for time in (start, start + cost))
        self.busy += end - begin
        return start + cost


def simulate(costs: Costs, site: Site, seed: int) -> Outcome:
    """Return what becomes of a site. The same seed gives the same outcome."""
    chance = random.Random(seed)
    service, database = Station(site.workers), Station(site.cores)
    events = [(chance.random() * FLUSH_SECONDS, True, 0.0) for _ in range(site.trainers)]
    events += [(chance.random() * VIEW_SECONDS, False, 0.0) for _ in range(site.viewers)]
    heapq.heapify(events)
    took: dict[bool, list[float]] = {True: [], False: []}
    end = WARM_SECONDS + MEASURED_SECONDS
    while events and events[0][0] < end:
        at, is_trainer, before = heapq.heappop(events)
        cost = costs.of_report(site.points * (at - before)) if is_trainer else costs.view
        vary = chance.uniform(0.5, 1.5)
        done = service.serve(at, cost.service * vary)
        # In the order in which they came to the service: near enough, and no second heap.
        done = database.serve(done, cost.database * vary)
        if at > WARM_SECONDS:
            took[is_trainer].append(done - at)
        pause = FLUSH_SECONDS if is_trainer else chance.expovariate(1 / VIEW_SECONDS)
        heapq.heappush(events, (done + pause, is_trainer, at))
    return Outcome(
        service.busy / MEASURED_SECONDS / site.workers,
        database.busy / MEASURED_SECONDS / site.cores,
        _percentiles(took[True]),
        _percentiles(took[False]),
        len(took[True]) / MEASURED_SECONDS,
    )


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    ordered = sorted(seconds)
    if not ordered:
        return 0.0, 0.0
    return ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]


@contextmanager
def served(directory: Path, dialect: str, workers: int) -> Iterator[Server]:
    """Start a service with so many worker processes on an empty database; ended at the end."""
    home = directory / f"workers{workers}"
    home.mkdir()
    executable = Path(sys.executable).with_name("llm-train")
    command = [str(executable), "serve", "--workers", str(workers)] if workers > 1 else None
    with (
        databases(dialect, home) as (url,),
        running_server(home, command=command, DATABASE_URL=url) as server,
    ):
        yield server


def measure(server: Server, seconds: float) -> Costs:
    """Return what requests cost a server in CPU time."""
    made = call(server, "POST", "/v1/experiments", {"name": "capacity", "task_type": "sft"})
    experiment = str(made["experiment_id"])
    runs = [new_run(server, experiment) for _ in range(CLIENTS)]

    def report(points: int, first: int, count: int) -> Cost:
        lanes = [reports(run, "columns", first, count, points=points) for run in runs]
        return _cost(server, lanes, None)

    few, many = (max(1, int(seconds * rate)) for rate in (60, 15))
    report(8, 1, 2)  # the first of each run makes its series
    small, large = report(8, 3, few), report(BATCH, 3 + few, many)
    point = Cost(*((b - a) / (BATCH - 8) for a, b in zip(small, large, strict=True)))
    paths = [f"/v1/experiments/{experiment}/runs/{run_id}/status" for run_id, _ in runs]
    view = request("POST", "/graphql", orjson.dumps({"query": LIST}))
    body, submitted = orjson.dumps(RUN), f"/v1/experiments/{experiment}/runs"
    submits = [
        [
            request("POST", submitted, body, idempotency_key=secrets.token_hex(12))
            for _ in range(few)
        ]
        for _ in range(CLIENTS)
    ]
    return Costs(
        Cost(*(max(0.0, a - 8 * b) for a, b in zip(small, point, strict=True))),
        point,
        _cost(server, [[view]] * CLIENTS, seconds),
        _cost(server, [[request("GET", path)] for path in paths], seconds),
        _cost(server, submits, None),
    )


def _cost(server: Server, lanes: Sequence[Sequence[bytes]], seconds: float | None) -> Cost:
    of_database = _database_processes(server)
    of_service = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    groups = (of_service, of_database)
    before = [_cpu(group) for group in groups]
    done = len(run_load(port(server), [list(lane) for lane in lanes], seconds).latencies)
    return Cost(*((_cpu(group) - was) / done for group, was in zip(groups, before, strict=True)))


def _database_processes(server: Server) -> list[psutil.Process]:
    if server.database_url.startswith("sqlite"):
        return []
    import psycopg

    with psycopg.connect(dsn(server.database_url)) as connection:
        rows = connection.execute("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        return [psutil.Process(pid) for (pid,) in rows]


def _cpu(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes if process.is_running())


def read_rates(directory: Path, seconds: float, turns: int) -> str:
    """Return the reads a second of one worker and of two on PostgreSQL, measured in turns."""
    lines = []
    with (
        served(directory, "postgresql", 1) as alone,
        served(directory, "postgresql", 2) as both,
    ):
        asked = {1: (alone, _status(alone)), 2: (both, _status(both))}
        for _ in range(turns):
            for workers, (server, requests) in asked.items():
                load = run_load(port(server), requests, seconds).expect(200)
                cost = _cost(server, requests, seconds)
                lines.append(
                    f"{workers} workers: {load.rate:,.0f} reads/s; CPU a read: service "
                    f"{cost.service * 1e3:.2f} ms, PostgreSQL {cost.database * 1e3:.2f} ms"
                )
    return "\n".join(lines)


def _status(server: Server) -> list[list[bytes]]:
    made = call(server, "POST", "/v1/experiments", {"name": "reads", "task_type": "sft"})
    experiment = str(made["experiment_id"])
    runs = [new_run(server, experiment)[0] for _ in range(2 * CLIENTS)]
    return [[request("GET", f"/v1/experiments/{experiment}/runs/{run}/status")] for run in runs]


def sites(dialect: str) -> Iterator[Site]:
    """Yield what is simulated: SQLite has one process, which does the work of the database too."""
    for workers in (1,) if dialect == "sqlite" else (1, 2, 4, 8):
        for trainers in (100, 300, 1_000, 3_000, 10_000):
            yield Site(workers, workers, trainers, max(10, trainers // 50), 10.0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.capacity", description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--workers", action="store_true", help="instead: reads of 1 and 2 workers")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llm-train-capacity-") as name:
        print(machine(Path(name)))
        if asked.workers:
            print(read_rates(Path(name), asked.seconds, 3))
            return 0
        with served(Path(name), asked.database, 1) as server:
            costs = measure(server, asked.seconds)
    for work, (service, database) in vars(costs).items():
        print(f"{work}: service {service * 1e6:,.1f} µs, PostgreSQL {database * 1e6:,.1f} µs")
    print(f"seed {asked.seed}; milliseconds until a report and a view are answered, p50 and p99")
    print("workers  trainers  viewers  service  database  reports/s  report p50    p99  view p99")
    for site in sites(asked.database):
        was = simulate(costs, site, asked.seed)
        p50, p99 = (1e3 * seconds for seconds in was.reports)
        print(
            f"{site.workers:7} {site.trainers:9,} {site.viewers:8,} {was.service:8.0%}"
            f" {was.database:9.0%} {was.rate:10,.0f} {p50:11,.0f} {p99:6,.0f}"
            f" {1e3 * was.views[1]:9,.0f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
