"""The rows of the bench that are measured over HTTP against two running servers.

A row measures its cells in turns, repetition by repetition, checks that the work was really done
(rows landed, data equal), and returns its figures. `processes.py` has the rows about processes.
"""

import itertools
import json
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import orjson

from tests.bench.databases import open_database
from tests.bench.fixture import (
    KEYS,
    MODELS,
    RUN,
    Workbench,
    call,
    new_run,
    port,
    reports,
)
from tests.bench.load import Load, request, run_load, start_load
from tests.bench.report import Figure, Target, figure
from tests.support.server import Server, wait_until

CLIENTS = 32
FEW = (1_000,) * 8  # trainers, by the points of each of their reports
CROWD = tuple(range(100, 1_001, 100)) * 10


def in_turns(repetitions: int, *cells: Callable[[], float]) -> list[list[float]]:
    """What each cell measured; every second round goes backwards, and the first only warms up."""
    measured: list[list[float]] = [[] for _ in cells]
    for repetition in range(repetitions + 1):
        order = list(zip(cells, measured, strict=True))
        for cell, values in order if repetition % 2 else reversed(order):
            value = cell()
            if repetition:
                values.append(value)
    return measured


def same(what: str, ours: Any, other: Any) -> None:
    if ours != other:
        raise RuntimeError(f"{what} differs:\n{ours!r:.1500}\n{other!r:.1500}")


def submit(bench: Workbench) -> list[Figure]:
    each = 30 if bench.quick else 150
    ours, bare = in_turns(
        bench.repetitions,
        lambda: submit_rate(bench, bench.ours, each),
        lambda: submit_rate(bench, bench.bare, each),
    )
    target = Target("at least", 0.5)
    return [figure("submit", "submit runs, 32 clients", "/s", ours, bare, target)]


def submit_rate(bench: Workbench, server: Server, each: int) -> float:
    """Runs a second; each client submits `each`, with keys of their own."""
    experiment_id = bench.experiments["work"]
    path, body = f"/v1/experiments/{experiment_id}/runs", json.dumps(RUN).encode()
    lanes = [
        [request("POST", path, body, idempotency_key=secrets.token_hex(12)) for _ in range(each)]
        for _ in range(CLIENTS)
    ]
    before = landed(server, experiment_id)
    load = run_load(port(server), lanes).expect(201)
    after = landed(server, experiment_id)
    new = [now - was for now, was in zip(after, before, strict=True)]
    same("runs, events, last_seq and keys", new, [CLIENTS * each] * 4)
    return load.rate


def landed(server: Server, experiment_id: str) -> tuple[int, ...]:
    with open_database(server) as database:
        row: tuple[int, ...] = database.execute(
            "SELECT (SELECT count(*) FROM run WHERE experiment_id = e.id),"
            " (SELECT count(*) FROM event WHERE experiment_id = e.id), last_seq,"
            " (SELECT count(*) FROM idempotency_key) FROM experiment e WHERE id = ?",
            (experiment_id,),
        ).fetchone()
    return row


def read(bench: Workbench) -> list[Figure]:
    path = status_paths(bench)[0]
    one, other = (call(server, "GET", path) for server in (bench.ours, bench.bare))
    same("status", {key: one[key] for key in other}, other)
    seconds = 1.0 if bench.quick else 3.0
    ours, bare = in_turns(
        bench.repetitions,
        lambda: read_load(bench, bench.ours, seconds).rate,
        lambda: read_load(bench, bench.bare, seconds).rate,
    )
    target = Target("at least", 0.6)
    return [figure("read", "read one run, 32 clients", "/s", ours, bare, target)]


def read_load(bench: Workbench, server: Server, seconds: float) -> Load:
    lanes = [[request("GET", path)] for path in status_paths(bench)]
    return run_load(port(server), lanes, seconds).expect(200)


def status_paths(bench: Workbench) -> list[str]:
    """One run for each client."""
    experiment_id = bench.experiments["10k"]
    with open_database(bench.bare) as database:
        wanted = "SELECT id FROM run WHERE experiment_id = ? ORDER BY id LIMIT ?"
        runs = [row[0] for row in database.execute(wanted, (experiment_id, CLIENTS))]
    return [f"/v1/experiments/{experiment_id}/runs/{run_id}/status" for run_id in runs]


class Trainers:
    """External runs that report to one server at once; `sizes`: the points of each one's batches.

    Each reports its own batches one after the other, the next when the last is acknowledged.
    """

    def __init__(
        self, bench: Workbench, server: Server, form: str, sizes: Sequence[int] = FEW
    ) -> None:
        self.bench, self.server, self.form, self.sizes, self.sent = bench, server, form, sizes, 0
        self.runs = [new_run(bench.ours, bench.experiments["trained"]) for _ in sizes]

    def lanes(self, each: int) -> list[list[bytes]]:
        self.sent += each
        return [
            reports(run, self.form, self.sent - each + 1, each, size)
            for run, size in zip(self.runs, self.sizes, strict=True)
        ]

    def rate(self, each: int) -> float:
        """Points a second, all of them found in the database afterwards."""
        load = run_load(port(self.server), self.lanes(each)).expect(200)
        same("points in the database", self.points(), self.sent * sum(self.sizes))
        return each * sum(self.sizes) / load.seconds

    def points(self) -> int:
        return points(self.server, [run_id for run_id, _ in self.runs])


def points(server: Server, run_ids: Sequence[str]) -> int:
    """How many points of these runs the server's database holds, however it packs them."""
    runs = f"run_id IN ({', '.join('?' * len(run_ids))})"
    with open_database(server) as database:
        if database.has_table("bare_point"):
            count, table, series = "count(*)", "bare_point", "bare_series"
        else:
            count, table, series = "sum(count)", "metric_chunk", "metric_series"
        found: int | None = database.execute(
            f"SELECT {count} FROM {table} p JOIN {series} s ON s.id = p.series_id WHERE {runs}",
            run_ids,
        ).fetchone()[0]
    return found or 0


def ingest(bench: Workbench) -> list[Figure]:
    each = 8 if bench.quick else 25
    work = "ingest 1,000 points a request"
    return [
        *ingest_by(bench, f"{work}, columns", "columns", FEW, each, 0.60),
        *ingest_by(bench, f"{work}, rows", "rows", FEW, each, 0.45),
        *ingest_by(
            bench, "100 trainers at once, 100 to 1,000 points a request, columns", "columns",
            CROWD, each // 4, 0.60,
        ),
    ]  # fmt: skip


def ingest_by(
    bench: Workbench, work: str, form: str, sizes: Sequence[int], each: int, limit: float
) -> list[Figure]:
    trainers, by_hand = (
        Trainers(bench, server, form, sizes) for server in (bench.ours, bench.bare)
    )
    ours, bare, raw = in_turns(
        bench.repetitions,
        lambda: trainers.rate(each),
        lambda: by_hand.rate(each),
        lambda: executemany(bench, sizes, each),
    )
    target = Target("at least", limit)
    return [
        figure("ingest", f"{work}, to executemany", "points/s", ours, raw, target),
        figure("ingest", f"{work}, to a bare handler", "points/s", ours, bare),
    ]


def executemany(bench: Workbench, sizes: Sequence[int], each: int) -> float:
    """Points a second by the raw driver without HTTP: the same batches, each durably committed."""
    with open_database(bench.bare) as database:
        (last,) = database.execute("SELECT max(series_id) FROM bare_point").fetchone()
        series = itertools.count(max(last, 10**9) + 1)
        trainers = [
            (size // len(KEYS), list(itertools.islice(series, len(KEYS)))) for size in sizes
        ]
        work = [
            [
                (number, step, 2.0 + 1.0 / (step + 3), 1_763_800_000.25 + step)
                for number in ids
                for step in range(batch * per_key, (batch + 1) * per_key)
            ]
            for batch in range(each)
            for per_key, ids in trainers
        ]
        start = time.perf_counter()
        database.insert_committed(work)
        return each * sum(sizes) / (time.perf_counter() - start)


def retry(bench: Workbench) -> list[Figure]:
    """The last batch of a run again and again: answered, and nothing is added."""
    seconds, lanes, runs = 0.5 if bench.quick else 2.0, [], []
    for batches in (10, 1_000):
        run = new_run(bench.ours, bench.experiments["trained"])
        runs.append(run[0])
        history = reports(run, "columns", 1, batches)
        run_load(port(bench.ours), [history]).expect(200)
        lanes.append([history[-1:]])
    small, large = in_turns(
        bench.repetitions,
        lambda: p50(run_load(port(bench.ours), lanes[0], seconds)),
        lambda: p50(run_load(port(bench.ours), lanes[1], seconds)),
    )
    same("points after retries", points(bench.ours, runs), 1_010_000)
    work, target = "retry of a batch, 1 M points of history to 10 k", Target("at most", 1.3)
    return [figure("retry", work, "ms p50", large, small, target)]


def p50(load: Load) -> float:
    return load.expect(200).percentile(50) * 1_000


def latency(bench: Workbench, server: Server, *asked: bytes) -> float:
    """The median in ms for one client that sends these requests in turn."""
    return p50(run_load(port(server), [list(asked)], 0.5 if bench.quick else 2.0))


def list_path(bench: Workbench, name: str) -> str:
    return (
        f"/v1/experiments/{bench.experiments[name]}/runs"
        f"?status=succeeded&model={MODELS[0]}&order=-created_at&limit=100"
    )


def listing(bench: Workbench) -> list[Figure]:
    path = list_path(bench, "10k")
    one, other = (call(server, "GET", path)["runs"] for server in (bench.ours, bench.bare))
    same("list", [{key: run[key] for key in other[0]} for run in one], other)
    same("runs in the list", len(other), 100)
    ours, bare, small, large = in_turns(
        bench.repetitions,
        lambda: latency(bench, bench.ours, request("GET", path)),
        lambda: latency(bench, bench.bare, request("GET", path)),
        lambda: latency(bench, bench.ours, request("GET", list_path(bench, "1k"))),
        lambda: latency(bench, bench.ours, request("GET", list_path(bench, "100k"))),
    )
    target = Target("at most", 2)
    return [
        figure("list", "list 100 of 10 k runs, filtered, sorted", "ms p50", ours, bare, target),
        figure("list", "the same of 100 k runs to 1 k", "ms p50", large, small, target),
    ]


def history_path(bench: Workbench) -> str:
    run_id, key = bench.history_run[0], KEYS[0].replace("/", "%2F")
    return f"/v1/experiments/{bench.experiments['work']}/runs/{run_id}/metrics?keys={key}"


def history(bench: Workbench) -> list[Figure]:
    path = history_path(bench)
    one, other = (call(server, "GET", path)["series"][0] for server in (bench.ours, bench.bare))
    same("history", {key: one[key] for key in other}, other)
    same("points in the history", len(other["steps"]), 10_000)
    thinned = call(bench.ours, "GET", f"{path}&points=1000")["series"][0]
    if not 900 <= len(thinned["steps"]) <= 1_000:
        raise RuntimeError(f"asked for 1,000 points, got {len(thinned['steps'])}")
    ours, bare, downsampled = in_turns(
        bench.repetitions,
        lambda: latency(bench, bench.ours, request("GET", path)),
        lambda: latency(bench, bench.bare, request("GET", path)),
        lambda: latency(bench, bench.ours, request("GET", f"{path}&points=1000")),
    )
    limit = Target("at most", 3, of="ours")
    return [
        figure("history", "10 k points", "ms p50", ours, bare, Target("at most", 1.5)),
        figure("history", "10 k points, 1,000 of them", "ms p50", downsampled, target=limit),
    ]


NESTED = """
query Nested($id: ID!) {
  experiment(id: $id) {
    name createdAt
    runs(first: 50) {
      nodes {
        id model status step createdAt
        checkpoints(first: 10) { nodes { id ckptPath state step sizeBytes createdAt } }
      }
    }
  }
}
"""


def graphql(bench: Workbench) -> list[Figure]:
    experiment_id = bench.experiments["nested"]
    path, asked = (
        f"/v1/experiments/{experiment_id}/nested",
        {"query": NESTED, "variables": {"id": experiment_id}},
    )
    same(
        "nested answer",
        call(bench.ours, "POST", "/graphql", asked)["data"],
        call(bench.bare, "GET", path)["data"],
    )
    ours, bare = in_turns(
        bench.repetitions,
        lambda: latency(bench, bench.ours, request("POST", "/graphql", orjson.dumps(asked))),
        lambda: latency(bench, bench.bare, request("GET", path)),
    )
    target = Target("at most", 3)
    return [figure("graphql", "nested GraphQL, 1 × 50 × 10", "ms p50", ours, bare, target)]


def reads_while_ingesting(bench: Workbench) -> list[Figure]:
    seconds, each = (0.6, 12) if bench.quick else (2.0, 30)
    servers = (bench.ours,) if bench.quick else (bench.ours, bench.bare)

    def p99(server: Server) -> float:
        return read_load(bench, server, seconds).percentile(99) * 1_000

    def busy(server: Server) -> float:
        trainers = Trainers(bench, server, "columns", CROWD)
        load = start_load(port(server), trainers.lanes(each))
        try:
            wait_until(trainers.points, "the first points have landed")
            value = p99(server)
            if load.poll() is not None:
                raise RuntimeError("the ingest ended before the reads did")
        finally:
            with load:
                load.kill()
        return value

    cells = [partial(cell, server) for server in servers for cell in (p99, busy)]
    idle, loaded, *by_hand = in_turns(bench.repetitions, *cells)
    work, target = "reads, 32 clients, while 100 trainers report, to idle", Target("at most", 3)
    figures = [figure("reads", work, "ms p99", loaded, idle, target)]
    if by_hand:
        bare_idle, bare_loaded = by_hand
        work = "the same of the bare handlers"
        figures.append(figure("reads", work, "ms p99", bare_loaded, bare_idle))
    return figures
