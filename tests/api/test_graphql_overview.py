"""Many runs at a glance over GraphQL: counts, facets, comparisons, bands, logs; all bounded."""

import math
from pathlib import Path
from typing import Any

import pytest

from app.domain.filters import MAX_BUCKETS
from app.graphql import limits
from app.graphql.logs import MAX_LOG
from tests.api.conftest import Api
from tests.support.graphql import Graph

BANDS = """query ($id: ID!, $buckets: Int!, $from: Long, $to: Long) {
    run(id: $id) { metricBands(buckets: $buckets, fromStep: $from, toStep: $to) {
        key steps means lows highs counts special { bucket value count } wallTimes } } }"""
LOG = """query ($id: ID!, $offset: Long!, $limit: Int!) {
    run(id: $id) { log(offset: $offset, limit: $limit) { text offset nextOffset totalBytes } } }"""


@pytest.fixture(scope="module")
def graph(api: Api) -> Graph:
    return Graph(api.send)


def report(graph: Graph, made: Any, **metrics: Any) -> None:
    headers = {"Authorization": f"Bearer {made['runToken']}"}
    body = {"step": 1, "attempt": 1, "batch": 1, "metrics": metrics}
    path = f"/v1/runs/{made['run']['id']}/reports"
    answer = graph.send("POST", path, headers=headers, json=body)
    assert answer.status_code == 200, answer.text


def create(graph: Graph, experiment: str, **fields: Any) -> Any:
    given = {"experimentId": experiment, "model": "m"} | fields
    return graph.do("createRun", "run { id } runToken", **given)


def test_runs_are_counted_by_status_for_a_filter_and_for_each_experiment(graph: Graph) -> None:
    one, other, empty = (graph.experiment(name=name) for name in "abc")
    for experiment, number in ((one, 3), (other, 2)):
        for _ in range(number):
            create(graph, experiment)
    graph.cancel(create(graph, one)["run"]["id"])
    found = graph.data(
        """query ($one: ID!, $ids: [ID!]!) {
            runCounts(filter: {experimentId: $one}) { status count }
            nodes(ids: $ids) { ... on Experiment { runCounts { status count } } } }""",
        one=one, ids=[one, other, empty],
    )  # fmt: skip
    of_one = [{"status": "QUEUED", "count": 3}, {"status": "CANCELLED", "count": 1}]
    assert found["runCounts"] == of_one
    assert [row["runCounts"] for row in found["nodes"]] == [
        of_one, [{"status": "QUEUED", "count": 2}], [],
    ]  # fmt: skip


def test_facets_and_metric_keys_are_those_of_the_runs_that_match(graph: Graph) -> None:
    mine = graph.experiment(owner="facet-owner")
    for model, keys in (("qwen", ("loss", "val/loss")), ("qwen", ("loss",)), ("llama", ("acc",))):
        made = create(graph, mine, model=model)
        report(graph, made, **{key: {"steps": [1], "values": [0.5]} for key in keys})
    elsewhere = create(graph, graph.experiment(), model="other")
    report(graph, elsewhere, other={"steps": [1], "values": [0.5]})
    query = """query ($e: ID!, $prefix: String!, $n: Int!) {
        models: facets(field: MODEL, filter: {experimentId: $e}, prefix: $prefix, first: $n) {
            value count }
        owners: facets(field: OWNER, filter: {experimentId: $e}) { value count }
        recipes: facets(field: RECIPE, filter: {experimentId: $e}) { value count }
        metricKeys(filter: {experimentId: $e}, first: $n) { value count } }"""
    found = graph.data(query, e=mine, prefix="", n=10)
    qwen, llama = {"value": "qwen", "count": 2}, {"value": "llama", "count": 1}
    assert found["models"] == [qwen, llama]
    assert found["owners"] == [{"value": "facet-owner", "count": 3}]
    assert found["recipes"] == [], "external runs have none"
    assert found["metricKeys"] == [
        {"value": "loss", "count": 2}, {"value": "acc", "count": 1},
        {"value": "val/loss", "count": 1},
    ]  # fmt: skip
    found = graph.data(query, e=mine, prefix="ll", n=1)
    assert found["models"] == [llama]
    assert len(found["metricKeys"]) == 1


def test_capacity_is_that_of_rest(graph: Graph) -> None:
    query = """{ capacity { queued launchers {
        name cpus memoryGb gpus { type count } maxRuns active queued trouble } } }"""
    found = graph.data(query)["capacity"]
    known = graph.send("GET", "/v1/capacity").json()
    assert found["queued"] == known["queued"]
    (local,), (rest,) = found["launchers"], known["launchers"]
    assert local["name"] == rest["name"] == "local"
    assert local["cpus"] == rest["cpus"] and local["memoryGb"] == rest["memory_gb"]
    assert {gpu["type"]: gpu["count"] for gpu in local["gpus"]} == rest["gpus"]
    assert (local["maxRuns"], local["active"]) == (rest["max_runs"], rest["active"])
    assert (local["queued"], local["trouble"]) == (rest["queued"], rest["trouble"]) == (0, None)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("first: 0", "BAD_USER_INPUT"),
        ('after: "\\u0000"', "BAD_USER_INPUT"),
    ],
)
def test_usage_refuses_what_it_cannot_read(graph: Graph, arguments: str, code: str) -> None:
    assert graph.code(f"{{ usage({arguments}) {{ group }} }}") == code


def test_an_unknown_experiment_has_no_account(graph: Graph) -> None:
    assert graph.data('{ usage(experimentId: "x") { group } }') == {"usage": None}


def test_a_comparison_shows_what_differs_and_all_if_asked(graph: Graph) -> None:
    experiment = graph.experiment()
    given = [
        {"hyperparams": {"lr": lr, "seed": 1}, "dataset": {"name": "d"}} for lr in (1e-3, 3e-4)
    ]
    runs = [create(graph, experiment, **fields)["run"]["id"] for fields in given]
    query = """query ($ids: [ID!]!, $only: Boolean!) {
        compareRuns(ids: $ids, onlyDifferent: $only) { section key values differs } }"""
    found = graph.data(query, ids=runs, only=True)["compareRuns"]
    assert found == [
        {"section": "HYPERPARAMS", "key": "lr", "values": [1e-3, 3e-4], "differs": True}
    ]
    keys = [row["key"] for row in graph.data(query, ids=runs, only=False)["compareRuns"]]
    assert keys == ["model", "recipe", "lr", "seed", "name"]


def test_bands_hold_every_point_and_tell_nan_apart(graph: Graph) -> None:
    made = create(graph, graph.experiment())
    values = [float(step % 7) for step in range(1, 1001)]
    for step, name in ((500, "NaN"), (510, "-Infinity"), (511, "NaN")):
        values[step] = name  # type: ignore[call-overload]
    report(graph, made, loss={"steps": list(range(1, 1001)), "values": values})
    id = made["run"]["id"]
    (band,) = graph.data(BANDS, id=id, buckets=10)["run"]["metricBands"]
    assert band["counts"] == [100] * 5 + [97] + [100] * 4
    assert band["special"] == [
        {"bucket": 5, "value": "-Infinity", "count": 1}, {"bucket": 5, "value": "NaN", "count": 2}
    ]  # fmt: skip
    own = [value for value in values[:100] if isinstance(value, float)]
    assert band["means"][0] == pytest.approx(sum(own) / 100)
    assert (band["lows"][0], band["highs"][0], band["wallTimes"][0]) == (0.0, 6.0, None)
    (part,) = graph.data(BANDS, id=id, buckets=10, **{"from": 1, "to": 1000})["run"]["metricBands"]
    assert part == band, "the same ends, named"
    (part,) = graph.data(BANDS, id=id, buckets=10, **{"from": 0, "to": 9_999})["run"]["metricBands"]
    assert part["counts"] == [996, 1], "buckets of equal width between the ends that are named"
    series = """query ($id: ID!) { run(id: $id) { metricSeries { special { step value } } } }"""
    (found,) = graph.data(series, id=id)["run"]["metricSeries"]
    assert found["special"] == [
        {"step": 501, "value": "NaN"}, {"step": 511, "value": "-Infinity"},
        {"step": 512, "value": "NaN"},
    ]  # fmt: skip


def test_the_latest_value_of_a_metric_is_sorted_and_found_as_what_it_is(graph: Graph) -> None:
    """An infinity is the largest or the smallest and lies in an open range; NaN lies in none."""
    experiment, values = graph.experiment(), (1.5, "NaN", "Infinity", "-Infinity")
    for value in values:
        made = create(graph, experiment)
        report(graph, made, odd={"steps": [1], "values": [value]})
    create(graph, experiment)  # has none
    query = """query ($filter: RunFilter!, $order: RunOrder) {
        runs(filter: $filter, orderBy: $order) { nodes { metrics { value special } } } }"""
    order = {"field": "METRIC", "metricKey": "odd"}

    def found(direction: str, **limits: float) -> list[Any]:
        filter: dict[str, Any] = {"experimentId": experiment}
        if limits:
            filter["metric"] = {"key": "odd", **limits}
        nodes = graph.data(query, filter=filter, order=order | {"direction": direction})
        rows = [node["metrics"] for node in nodes["runs"]["nodes"]]
        return [row and (row[0]["special"] or row[0]["value"]) for row in rows]

    assert found("ASC")[:3] == ["-Infinity", 1.5, "Infinity"]
    assert found("ASC")[3:] in (["NaN", []], [[], "NaN"])
    assert found("DESC")[:3] == ["Infinity", 1.5, "-Infinity"]
    assert found("ASC", min=0) == [1.5, "Infinity"]
    assert found("ASC", max=2) == ["-Infinity", 1.5]
    path = f"/v1/experiments/{experiment}/runs"
    told = [run["metrics"]["odd"]["value"] for run in graph.send("GET", path).json()["runs"][1:]]
    assert told == [None, None, None, 1.5], "JSON has no number for it"


def test_a_log_is_read_in_pieces_that_join_without_a_gap(graph: Graph, api: Api) -> None:
    experiment = graph.experiment()
    run = create(graph, experiment, recipe="demo", hyperparams={"steps": 1_000_000})["run"]["id"]
    graph.cancel(run)
    folder: Path = api.settings.data_dir / "runs" / run
    folder.mkdir(parents=True, exist_ok=True)
    text = "损失 0.5\rStep 1 ✓\n" * 500
    (folder / "train.log").write_bytes(text.encode())
    size, offset = len(text.encode()), 0
    parts: list[str] = []
    while True:
        part = graph.data(LOG, id=run, offset=offset, limit=1000)["run"]["log"]
        if not part["text"]:
            break
        assert part["offset"] == offset and part["totalBytes"] == size
        offset, parts = part["nextOffset"], [*parts, part["text"]]
    assert "".join(parts) == text and offset == size
    for back in range(1, 8):  # some lie within a character
        tail = graph.data(LOG, id=run, offset=-back, limit=MAX_LOG)["run"]["log"]
        assert text.endswith(tail["text"]) and "\ufffd" not in tail["text"]
        assert tail["nextOffset"] == size
    external = create(graph, experiment)["run"]["id"]
    assert graph.data(LOG, id=external, offset=0, limit=10)["run"]["log"] is None


def test_the_events_of_a_run_are_its_own(graph: Graph) -> None:
    experiment = graph.experiment()
    runs = [create(graph, experiment)["run"]["id"] for _ in range(3)]
    graph.cancel(runs[1])
    query = """query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Run {
        events(first: 10) { totalCount nodes { type run { id } } } } } }"""
    found = graph.data(query, ids=runs)["nodes"]
    assert [row["events"]["totalCount"] for row in found] == [
        len(row["events"]["nodes"]) for row in found
    ]
    for run, row in zip(runs, found, strict=True):
        assert {event["run"]["id"] for event in row["events"]["nodes"]} == {run}
        assert row["events"]["nodes"][0]["type"] == "run.queued"
    assert "run.cancelled" in [event["type"] for event in found[1]["events"]["nodes"]]


def test_recipes_are_those_that_a_run_may_name(graph: Graph) -> None:
    found = graph.data("{ recipes { name description launcher launchers maxAttempts } }")
    (demo,) = [row for row in found["recipes"] if row["name"] == "demo"]
    assert demo["description"] and demo["launcher"] == "local"
    assert demo["launchers"] == ["local"]


def test_runs_are_found_by_ids(graph: Graph) -> None:
    experiment = graph.experiment()
    runs = [create(graph, experiment)["run"]["id"] for _ in range(4)]
    query = "query ($ids: [ID!]) { runs(filter: {ids: $ids}) { totalCount nodes { id } } }"
    found = graph.data(query, ids=[runs[2], runs[0], "run_unknown"])["runs"]
    assert [row["id"] for row in found["nodes"]] == [runs[2], runs[0]]
    assert graph.code(query, ids=["x"] * 501) == "BAD_USER_INPUT"
    rest = graph.send("GET", f"/v1/experiments/{experiment}/runs?ids={runs[1]}").json()
    assert [row["run_id"] for row in rest["runs"]] == [runs[1]]


WRONG = {
    "counts of NUL": 'runCounts(filter: {model: "\\u0000"}) { count }',
    "no facets": "facets(field: MODEL, first: 0) { value }",
    "too many facets": "facets(field: MODEL, first: 501) { value }",
    "facets of NUL": 'facets(field: MODEL, prefix: "\\u0000") { value }',
    "keys of NUL": 'metricKeys(prefix: "\\u0000") { value }',
    "a comparison of nothing": "compareRuns(ids: []) { key }",
    "too few buckets": "run(id: $id) { metricBands(buckets: 1) { key } }",
    "too many buckets": f"run(id: $id) {{ metricBands(buckets: {MAX_BUCKETS + 1}) {{ key }} }}",
    "backwards": "run(id: $id) { metricBands(fromStep: 2, toStep: 1) { key } }",
    "a negative step": "run(id: $id) { metricBands(fromStep: -1) { key } }",
    "no log": "run(id: $id) { log(limit: 0) { text } }",
    "too much of a log": f"run(id: $id) {{ log(limit: {MAX_LOG + 1}) {{ text }} }}",
    "an offset beyond files": "run(id: $id) { log(offset: 9007199254740993) { text } }",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_said_to_be_wrong(graph: Graph, name: str) -> None:
    run = create(graph, graph.experiment())["run"]["id"]
    used = "query ($id: ID!) { node(id: $id) { id } " + WRONG[name] + " }"
    assert graph.code(used, id=run) == "BAD_USER_INPUT"


def test_an_unknown_run_is_not_compared(graph: Graph) -> None:
    query = "query ($ids: [ID!]!) { compareRuns(ids: $ids) { key } }"
    for id in ("x", "run_0cc4q1x3h7p2n4s6v8y0c1e3gj", "exp_0cc4q1x3h7p2n4s6v8y0c1e3gj"):
        assert graph.data(query, ids=[id]) == {"compareRuns": None}


def aliased(field: str) -> str:
    """Return a query that asks for a field twenty-one times."""
    return "{" + " ".join(f"a{number}: {field}" for number in range(21)) + "}"


COMPARED = ", ".join(['"run_x"'] * 50)
COSTLY = {
    "bands": "{ runs(first: 500) { nodes { metricBands(buckets: 5000) { key } } } }",
    "bands of keys": """{ runs(first: 500) { nodes {
        metricBands(keys: ["a", "b", "c", "d"]) { key } } } }""",
    "logs": "{ runs(first: 500) { nodes { log { text } } } }",
    "large logs": "{ runs(first: 20) { nodes { log(limit: 1048576) { text } } } }",
    "rows": "{ runs(first: 500) { nodes { children(first: 21) { nodes { id } } } } }",
    "facets": aliased("facets(field: MODEL, first: 500) { value }"),
    "comparisons": aliased(f"compareRuns(ids: [{COMPARED}]) {{ key }}"),
    "counts": """{ experiments(first: 500) { nodes {
        a: runCounts { count } b: runCounts { count } } } }""",
}


@pytest.mark.parametrize("name", COSTLY)
def test_what_would_be_large_is_refused_before_it_is_read(graph: Graph, name: str) -> None:
    assert graph.code(COSTLY[name]) == "TOO_COMPLEX"


def test_a_page_of_five_hundred_is_served_with_its_sparklines(graph: Graph) -> None:
    query = """query ($n: Int!) { runs(first: $n) { nodes {
        id status metrics(keys: ["loss"]) { value } metricBands(keys: ["loss"], buckets: 50) {
            means } } } }"""
    answer = graph.ask(query, n=limits.PAGE)
    assert "errors" not in answer
    assert answer["extensions"]["cost"]["nodes"] <= limits.NODES
    assert math.isfinite(answer["extensions"]["cost"]["nodes"])
