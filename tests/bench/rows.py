"""The rows of the bench that are measured over HTTP against two running servers.

A row measures its cells in turns, repetition by repetition, checks that the work was really done
(rows landed, data equal), and returns its figures. `ingest.py` has the rows in which trainers
report, `processes.py` those about processes.
"""

import json
import secrets
from collections.abc import Callable
from typing import Any

import orjson

from tests.bench.databases import open_database
from tests.bench.fixture import (
    KEYS,
    MODELS,
    RUN,
    Workbench,
    call,
    port,
)
from tests.bench.load import Load, request, run_load
from tests.bench.report import Figure, Target, figure
from tests.support.server import Server

CLIENTS = 32
RATE = {"sqlite": Target("at least", 0.7), "postgresql": Target("at least", 0.6)}
"""Of submits and of reads, to the bare cell."""


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
    each = 15 if bench.quick else 150
    ours, bare = in_turns(
        bench.repetitions,
        lambda: submit_rate(bench, bench.ours, each),
        lambda: submit_rate(bench, bench.bare, each),
    )
    target = RATE[bench.dialect]
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
    seconds = 0.6 if bench.quick else 3.0
    loads: list[Load] = []

    def our_rate() -> float:
        loads.append(read_load(bench, bench.ours, seconds))
        return loads[-1].rate

    ours, bare = in_turns(
        bench.repetitions, our_rate, lambda: read_load(bench, bench.bare, seconds).rate
    )
    p50s, p99s = ([load.percentile(part) * 1_000 for load in loads[1:]] for part in (50, 99))
    spread = Target("at most", 3)
    return [
        figure("read", "read one run, 32 clients", "/s", ours, bare, RATE[bench.dialect]),
        figure("read", "the same, 99 of 100 answers, to p50", "ms p99", p99s, p50s, spread),
    ]


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


def p50(load: Load) -> float:
    return load.expect(200).percentile(50) * 1_000


def latency(bench: Workbench, server: Server, *asked: bytes) -> float:
    """The median in ms for one client that sends these requests in turn."""
    return p50(run_load(port(server), [list(asked)], 0.3 if bench.quick else 2.0))


def list_path(bench: Workbench, name: str) -> str:
    return (
        f"/v1/experiments/{bench.experiments[name]}/runs"
        f"?status=succeeded&model={MODELS[0]}&order=-created_at&limit=100"
    )


def listing(bench: Workbench) -> list[Figure]:
    path = list_path(bench, "10k")
    one, other = (call(server, "GET", path)["runs"] for server in (bench.ours, bench.bare))
    same("list", one, other)
    same("runs in the list", len(other), 100)
    ours, bare, small, large = in_turns(
        bench.repetitions,
        lambda: latency(bench, bench.ours, request("GET", path)),
        lambda: latency(bench, bench.bare, request("GET", path)),
        lambda: latency(bench, bench.ours, request("GET", list_path(bench, "1k"))),
        lambda: latency(bench, bench.ours, request("GET", list_path(bench, "100k"))),
    )
    work, limit = "list 100 of 10 k runs, filtered, sorted", Target("at most", 1.5)
    flat = Target("at most", 2)
    return [
        figure("list", work, "ms p50", ours, bare, limit),
        figure("list", "the same of 100 k runs to 1 k", "ms p50", large, small, flat),
    ]


def history_path(bench: Workbench) -> str:
    run_id, key = bench.history_run[0], KEYS[0].replace("/", "%2F")
    return f"/v1/experiments/{bench.experiments['trained']}/runs/{run_id}/metrics?keys={key}"


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
        figure("history", "10 k points", "ms p50", ours, bare, Target("at most", 0.5)),
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
    target = Target("at most", 2.5)
    return [figure("graphql", "nested GraphQL, 1 × 50 × 10", "ms p50", ours, bare, target)]
