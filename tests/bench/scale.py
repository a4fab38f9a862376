"""`python -m tests.bench --scale`: what a million runs cost.

`runs` starts a server with an experiment of 1,000 runs and one of a million (`million.py` says how
they are written), and measures over HTTP what a team does with them: one client, each figure the
median of its answers, beside the same work with 1,000 runs where that is the target.
"""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tests.bench import million
from tests.bench.databases import Database, open_database
from tests.bench.fixture import RUN, call, databases, new_run, port, reports
from tests.bench.load import request, run_load
from tests.bench.report import Figure, Target, figure
from tests.support.server import Server, running_server, wait_until

SMALL = 1_000
AMONG = 200
"""The middle experiment has one run for so many of the large one."""
SECONDS = 2.0
LIMIT = Target("at most", 50, of="ours")
TALLIED = 1_000
"""Rows of counts that are left at most when they have been added up."""
FEW = 12
"""Answers that a slow request is measured with at least."""

LIST = """
query List($filter: RunFilter, $order: RunOrder) {
  runs(first: 50, filter: $filter, orderBy: $order) {
    nodes { id name model status createdAt notes metrics { key step value } }
    pageInfo { hasNextPage endCursor }
  }
}
"""
COUNT = "query Count($filter: RunFilter) { runs(first: 1, filter: $filter) { totalCount } }"


@dataclass
class Scale:
    """A server, and the ids of its small, its middle and its large experiment.

    `high` is one in which all metrics are above those of the others.
    """

    server: Server
    size: int
    small: str
    middle: str
    large: str
    high: str


@contextmanager
def scale(directory: Path, dialect: str, size: int) -> Iterator[Scale]:
    """Start a server and fill it; ended when the block is left."""
    home = directory / "scale"
    home.mkdir()
    with databases(dialect, home) as (url,):
        with running_server(home, DATABASE_URL=url) as server:
            ids = [_experiment(server, name) for name in ("small", "middle", "large", "high")]
            _fill(server, ids, size)
        # A start with the data is what an operator has, and what the planner has seen. The counts
        # have been added up by then, as they are while runs come in.
        with running_server(home, DATABASE_URL=url) as server, open_database(server) as database:
            wait_until(lambda: _rows_of_tally(database) < TALLIED, "the counts are added up")
            yield Scale(server, size, *ids)


def _rows_of_tally(database: Database) -> int:
    (rows,) = database.execute("SELECT count(*) FROM tally").fetchone()
    return int(rows)


def _experiment(server: Server, name: str) -> str:
    made = call(server, "POST", "/v1/experiments", {"name": name, "task_type": "sft"})
    return str(made["experiment_id"])


def _fill(server: Server, ids: Sequence[str], size: int) -> None:
    small, *_, high = ids
    run_id, token = new_run(server, small)
    run_load(port(server), [reports((run_id, token), "columns", 1, 1, points=8)]).expect(200)
    path = f"/ckpts/{small}/{run_id}/step-000002"
    mark = {"run_id": run_id, "ckpt_path": path, "tag_type": "candidate", "metrics": {"loss": 1.5}}
    marked = call(server, "POST", f"/v1/experiments/{small}/checkpoints/mark", mark)
    with open_database(server) as database:
        database.hurry()
        checkpoint_id = marked["checkpoint_id"]
        first = 0
        sizes = SMALL, size // AMONG, size, size // 5
        for experiment_id, number in zip(ids, sizes, strict=True):
            million.fill(database, run_id, checkpoint_id, experiment_id, number, first)
            first += number
        raised = "UPDATE metric_latest SET value = value + 10 WHERE experiment_id = ?"
        database.execute(raised, (high,))
        database.analyze()


def runs(directory: Path, dialect: str, size: int) -> list[Figure]:
    """Return the figures of a database of `size` runs."""
    with scale(directory, dialect, size) as data:
        return [
            *_lists(data),
            *_searches(data),
            *_counts(data),
            *_groups(data),
            *_writes(data),
        ]


def _graphql(text: str, **variables: Any) -> bytes:
    return request("POST", "/graphql", orjson.dumps({"query": text, "variables": variables}))


def _median(data: Scale, asked: bytes, seconds: float = SECONDS) -> float:
    """Return the median in ms of one client, after one answer that warms up."""
    run_load(port(data.server), [[asked]]).expect(200)
    load = run_load(port(data.server), [[asked]], seconds)
    if len(load.latencies) < FEW:
        load = run_load(port(data.server), [[asked] * FEW])
    body = orjson.loads(load.expect(200).bodies[0])
    if "errors" in body:
        raise RuntimeError(f"an error was answered: {body['errors']!r:.500}")
    return load.percentile(50) * 1_000


def _under(data: Scale, work: str, asked: bytes, target: Target | None = LIMIT) -> Figure:
    return figure(
        "scale", f"{data.size:,} runs: {work}", "ms p50", [_median(data, asked)], target=target
    )


def _lists(data: Scale) -> list[Figure]:
    of = {"experimentId": data.large}
    succeeded = {**of, "status": ["SUCCEEDED"]}
    by_loss = {"field": "METRIC", "metricKey": million.METRICS[0], "direction": "ASC"}
    few = f"50 of {data.size // AMONG:,} among them"
    asked = {
        "the newest 50": _graphql(LIST, filter=of),
        "the newest 50 that succeeded": _graphql(LIST, filter=succeeded),
        "50 of a model": _graphql(LIST, filter={**of, "model": "Phi-4"}),
        "50 of a model that no run has": _graphql(LIST, filter={**of, "model": "none"}),
        "50 with a tag that no run has": _graphql(LIST, filter={**of, "tags": ["none"]}),
        "50 with a hyperparameter in a range of none": _graphql(
            LIST, filter={**of, "hyperparam": {"key": "learning_rate", "min": 1e9}}
        ),
        "50 by a metric": _graphql(LIST, filter=of, order=by_loss),
        f"50 of {data.size // 5:,} above all these, by a metric": _graphql(
            LIST, filter={"experimentId": data.high}, order=by_loss
        ),
        "50 that succeeded, by a metric": _graphql(LIST, filter=succeeded, order=by_loss),
        "50 by a metric, of all experiments": _graphql(LIST, order=by_loss),
        "50 by their step": _graphql(LIST, filter=of, order={"field": "STEP"}),
        "50 by their step, of all experiments": _graphql(LIST, order={"field": "STEP"}),
        "50 by when they finished": _graphql(LIST, filter=of, order={"field": "FINISHED_AT"}),
        "50 of those that are archived, by when they finished": _graphql(
            LIST, filter={**of, "archived": True}, order={"field": "FINISHED_AT"}
        ),
        f"{few}, by a metric": _graphql(LIST, filter={"experimentId": data.middle}, order=by_loss),
        f"{few} that failed, by a metric": _graphql(
            LIST, filter={"experimentId": data.middle, "status": ["FAILED"]}, order=by_loss
        ),
        f"{few} with a tag that no run has, by a metric": _graphql(
            LIST, filter={"experimentId": data.middle, "tags": ["none"]}, order=by_loss
        ),
        "those whose id ends with 6 characters of one": _graphql(
            LIST, filter={"idEnds": _newest(data)[-6:]}
        ),
        "those whose id ends as none": _graphql(LIST, filter={"idEnds": "zzzzzz"}),
    }
    return [_under(data, work, request) for work, request in asked.items()]


def _newest(data: Scale) -> str:
    """Return the id of the newest run of the large experiment."""
    page = call(data.server, "GET", f"/v1/runs?experiment_id={data.large}&limit=1")
    return str(page["runs"][0]["run_id"])


def _searches(data: Scale) -> list[Figure]:
    figures = []
    for term, every in million.TERMS.items():
        found = {"experimentId": data.large, "search": term}
        work = f"search {term!r}, in one of {every:,}"
        figures.append(_under(data, work, _graphql(LIST, filter=found)))
    for term in ("nowhere to be found", "无人之境", "zq"):
        found = {"experimentId": data.large, "search": term}
        figures.append(_under(data, f"search {term!r}, in none", _graphql(LIST, filter=found)))
    return figures


def _counts(data: Scale) -> list[Figure]:
    of = {"experimentId": data.large}
    filters: dict[str, dict[str, Any]] = {
        "totalCount": of,
        "totalCount of all experiments": {},
        "totalCount of those that failed": {**of, "status": ["FAILED"]},
        "totalCount of a model": {**of, "model": "Phi-4"},
    }
    filters |= {
        f"totalCount of {term!r}, in one of {every:,}": {**of, "search": term}
        for term, every in million.TERMS.items()
    }
    return [_under(data, work, _graphql(COUNT, filter=of)) for work, of in filters.items()]


def _groups(data: Scale) -> list[Figure]:
    facets = "query F($f: RunFilter) { facets(field: MODEL, filter: $f) { value count } }"
    counts = "query C($f: RunFilter) { runCounts(filter: $f) { status count } }"
    keys = "query K($f: RunFilter) { metricKeys(filter: $f) { value count } }"
    of = {"experimentId": data.large}
    return [
        _under(data, "/detail", request("GET", f"/v1/experiments/{data.large}/detail")),
        _under(data, "runs by status", _graphql(counts, f=of)),
        _under(data, "runs by status, of all experiments", _graphql(counts, f={})),
        _under(data, "facet of models", _graphql(facets, f=of)),
        _under(data, "keys of metrics", _graphql(keys, f=of)),
    ]


def _writes(data: Scale) -> list[Figure]:
    target = Target("at most", 1.3)
    large, small = ([_submits(data, of) for _ in range(5)] for of in (data.large, data.small))
    told, to_small = ([_reports(data, of) for _ in range(5)] for of in (data.large, data.small))
    work = f"{data.size:,} runs"
    return [
        figure("scale", f"{work}: submit, to 1,000", "ms p50", large, small, target),
        figure("scale", f"{work}: report, to 1,000", "ms p50", told, to_small, target),
    ]


def _submits(data: Scale, experiment_id: str) -> float:
    path, body = f"/v1/experiments/{experiment_id}/runs", orjson.dumps(RUN)
    asked = [request("POST", path, body, idempotency_key=secrets.token_hex(12)) for _ in range(200)]
    return run_load(port(data.server), [asked]).expect(201).percentile(50) * 1_000


def _reports(data: Scale, experiment_id: str) -> float:
    asked = reports(new_run(data.server, experiment_id), "columns", 1, 100, points=100)
    return run_load(port(data.server), [asked]).expect(200).percentile(50) * 1_000
