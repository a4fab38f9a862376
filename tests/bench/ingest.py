"""The rows of the bench in which trainers report: points a second, retries, reads meanwhile."""

import itertools
import time
from collections.abc import Sequence
from functools import partial

from tests.bench.databases import open_database
from tests.bench.fixture import KEYS, Workbench, new_run, port, reports
from tests.bench.load import run_load, start_load
from tests.bench.report import Figure, Target, figure
from tests.bench.rows import in_turns, p50, read_load, same
from tests.support.server import Server, wait_until

FEW = (1_000,) * 8  # trainers, by the points of each of their reports
CROWD = tuple(range(100, 1_001, 100)) * 10


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
    """Return how many points of these runs the server's database holds, however it packs them."""
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
        *ingest_by(bench, f"{work}, columns", "columns", FEW, each, 0.75),
        *ingest_by(bench, f"{work}, rows", "rows", FEW, each, 0.60),
        *ingest_by(
            bench, "100 trainers at once, 100 to 1,000 points a request, columns", "columns",
            CROWD, each // 4, 0.70,
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
    target = Target("at least", limit if bench.dialect == "sqlite" else 0.6)
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
    seconds, lanes, runs = 0.3 if bench.quick else 2.0, [], []
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
    work, target = "retry of a batch, 1 M points of history to 10 k", Target("at most", 1.2)
    return [figure("retry", work, "ms p50", large, small, target)]


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
    work, target = "reads, 32 clients, while 100 trainers report, to idle", Target("at most", 2)
    figures = [figure("reads", work, "ms p99", loaded, idle, target)]
    if by_hand:
        bare_idle, bare_loaded = by_hand
        work = "the same of the bare handlers"
        figures.append(figure("reads", work, "ms p99", bare_loaded, bare_idle))
    return figures
