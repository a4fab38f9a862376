"""GraphQL end to end in one process: what is asked is what is answered, at a constant cost."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graphql import GraphQLObjectType, build_schema, get_named_type

from app.graphql import curves
from app.graphql.context import Context
from app.graphql.ide import EXAMPLES
from app.graphql.mutations.payloads import ROWS
from app.graphql.schema import Schema, sdl
from app.services.audit import name_of
from tests.api.conftest import running
from tests.support.graphql import Graph, statements
from tests.support.server import REPOSITORY


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    with running(tmp_path_factory.mktemp("graphql")) as api:
        yield Graph(api.send)


def report(graph: Graph, run: str, token: str, **body: Any) -> None:
    answer = graph.send(
        "POST", f"/v1/runs/{run}/reports", json=body, headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def story(graph: Graph) -> dict[str, Any]:
    """A run that trained, was cancelled, resumed and marked."""
    experiment = graph.experiment(
        name="story", tags=["a", "b"], owner="ada", paramConfig={"lr": 0.1}
    )
    made = graph.do(
        "createRun", "run { id } runToken", experimentId=experiment, model="m",
        hyperparams={"lr": 0.1, "layers": 2}, resources={"gpuType": "A100", "count": 4},
    )  # fmt: skip
    run, token = made["run"]["id"], made["runToken"]
    points = [{"key": "loss", "step": 3, "value": 2.5}, {"key": "acc", "step": 3, "value": "NaN"}]
    report(graph, run, token, step=3, total_steps=12, points=points)
    checkpoint = graph.cancel(run)
    child = graph.do(
        "resumeRun", "run { id } runToken", runId=run, overrideHyperparams={"lr": 0.01}
    )
    marked = graph.mark(run, checkpoint["ckptPath"], releaseTag="v1", metrics={"loss": 2.5})
    assert marked["id"] == checkpoint["id"]
    return {"experiment": experiment, "run": run, "child": child["run"]["id"], "ckpt": checkpoint}


def test_every_row_of_a_payload_is_one_that_a_replay_can_make_again() -> None:
    mutations = build_schema(sdl()).mutation_type
    assert mutations is not None
    for name, mutation in mutations.fields.items():
        payload = get_named_type(mutation.type)
        assert isinstance(payload, GraphQLObjectType)
        of_rows = {
            name_of(field) for field, made in payload.fields.items()
            if isinstance(get_named_type(made.type), GraphQLObjectType)
        }  # fmt: skip
        assert of_rows - {"query", "user_errors"} <= ROWS, name


def test_every_edge_can_be_walked_there_and_back(graph: Graph, story: dict[str, Any]) -> None:
    found = graph.data(
        """query ($id: ID!) { experiment(id: $id) {
            name tags paramConfig owner
            runs(filter: {status: [CANCELLING]}) { totalCount nodes {
                id status progress step hyperparams resources { gpuType count cpus }
                metrics { key step value }
                experiment { id } parent { id } root { id }
                checkpoints { edges { cursor node { id ckptPath state tagType releaseTag metrics
                    run { id } experiment { id } storedAs { id } } } }
                children { nodes { id hyperparams root { id } parent { id }
                    overrides { key requested effective applied }
                    sourceCheckpoint { id } } }
            } }
        } }""",
        id=story["experiment"],
    )["experiment"]
    assert (found["name"], found["tags"], found["owner"]) == ("story", ["a", "b"], "ada")
    assert found["paramConfig"] == {"lr": 0.1}
    (run,) = found["runs"]["nodes"]
    assert (run["id"], run["progress"], run["step"]) == (story["run"], 0.25, 3)
    assert run["resources"] == {"gpuType": "A100", "count": 4, "cpus": None}
    assert run["metrics"] == [
        {"key": "acc", "step": 3, "value": None},
        {"key": "loss", "step": 3, "value": 2.5},
    ]
    assert (run["experiment"]["id"], run["parent"]) == (story["experiment"], None)
    (edge,) = run["checkpoints"]["edges"]
    node = edge["node"]
    assert (node["id"], node["state"]) == (story["ckpt"]["id"], "PENDING")
    assert (node["tagType"], node["releaseTag"]) == ("candidate", "v1")
    assert node["metrics"] == {"loss": 2.5}
    assert (node["run"]["id"], node["storedAs"]) == (story["run"], None)
    (child,) = run["children"]["nodes"]
    assert (child["id"], child["root"]["id"]) == (story["child"], story["run"])
    assert child["parent"]["id"] == story["run"]
    assert child["hyperparams"] == {"lr": 0.01, "layers": 2}
    assert child["overrides"] == [
        {"key": "lr", "requested": 0.01, "effective": None, "applied": None}
    ]
    assert child["sourceCheckpoint"]["id"] == story["ckpt"]["id"]


def test_metrics_are_curves_as_columns(graph: Graph) -> None:
    experiment = graph.experiment()
    made = graph.do("createRun", "run { id } runToken", experimentId=experiment, model="m")
    run, token = made["run"]["id"], made["runToken"]
    steps = list(range(2000))
    values: list[Any] = [step / 2 for step in steps]
    values[3], values[4] = "NaN", "Infinity"
    columns = {"steps": steps, "values": values, "wall_times": [1e9 + step for step in steps]}
    report(graph, run, token, attempt=1, batch=1, metrics={"loss": columns, "acc": columns})
    query = """query ($id: ID!, $keys: [String!], $from: Long, $to: Long, $points: Int! = 10) {
        run(id: $id) { metricSeries(keys: $keys, fromStep: $from, toStep: $to, points: $points) {
            key steps values wallTimes downsampled } } }"""

    def series(**variables: Any) -> Any:
        return graph.data(query, id=run, **variables)["run"]["metricSeries"]

    (loss,) = series(keys=["loss"], **{"from": 2, "to": 5})
    assert loss == {
        "key": "loss", "steps": [2, 3, 4, 5], "values": [1.0, None, None, 2.5],
        "wallTimes": [1e9 + 2, 1e9 + 3, 1e9 + 4, 1e9 + 5], "downsampled": False,
    }  # fmt: skip
    assert [each["key"] for each in series()] == ["acc", "loss"]
    thinned = series(keys=["loss"], points=100)[0]
    assert thinned["downsampled"] is True
    assert 50 < len(thinned["steps"]) <= 100
    assert series(keys=["none"])[0]["steps"] == []
    for wrong in ({"points": 1}, {"from": 5, "to": 2}, {"keys": ["\0"]}):
        assert graph.code(query, id=run, **wrong) == "BAD_USER_INPUT"
    many = "{ runs(first: 100) { nodes { metricSeries(points: 10000) { key } } } }"
    assert graph.code(many) == "TOO_COMPLEX"


def test_nodes_are_found_again_by_their_ids(graph: Graph, story: dict[str, Any]) -> None:
    event = f"{story['experiment']}:1"
    ids = [story["experiment"], story["run"], story["ckpt"]["id"], event]
    nothing = ["", "run_", "exp_" + "0" * 26, f"{story['experiment']}:999", "x:y", ":", "é"]
    query = "query ($ids: [ID!]!) { nodes(ids: $ids) { __typename id } }"
    kinds = ["Experiment", "Run", "Checkpoint", "Event"]
    expected = [{"__typename": k, "id": id} for k, id in zip(kinds, ids, strict=True)]
    found = graph.data(query, ids=ids + nothing)["nodes"]
    assert found == expected + [None] * len(nothing)
    one = graph.data("query ($id: ID!) { node(id: $id) { id } run(id: $id) { id } }", id=ids[0])
    assert one == {"node": {"id": ids[0]}, "run": None}


def test_events_are_a_gapless_history_in_pages(graph: Graph, story: dict[str, Any]) -> None:
    query = """query ($id: ID!, $after: String) { experiment(id: $id) {
        lastSeq events(first: 2, after: $after) {
            nodes { seq type run { id } } pageInfo { hasNextPage endCursor } } } }"""
    seen: list[Any] = []
    after = None
    while True:
        found = graph.data(query, id=story["experiment"], after=after)["experiment"]
        seen += found["events"]["nodes"]
        if not found["events"]["pageInfo"]["hasNextPage"]:
            break
        after = found["events"]["pageInfo"]["endCursor"]
    assert [event["seq"] for event in seen] == list(range(1, found["lastSeq"] + 1))
    assert seen[0] == {"seq": 1, "type": "experiment.created", "run": None}
    assert {"run.queued", "run.running", "checkpoint.marked"} <= {event["type"] for event in seen}


@pytest.mark.parametrize(
    ("mutation", "input", "code", "field"),
    [
        ("createExperiment", {"name": "", "taskType": "t"}, "invalid_input", ["input", "name"]),
        ("createExperiment", {"name": "a\0", "taskType": "t"}, "invalid_input", ["input", "name"]),
        ("createExperiment", {"name": "n", "taskType": "t", "paramConfig": [1]}, "invalid_input",
         ["input", "paramConfig"]),
        ("createRun", {"experimentId": "exp_x", "model": "m"}, "not_found", None),
        ("createRun", {"experimentId": "$experiment", "model": "m", "recipe": "no"},
         "unknown_recipe", ["input", "recipe"]),
        ("createRun", {"experimentId": "$experiment", "model": "m", "resources": {"count": -1}},
         "invalid_input", ["input", "resources", "count"]),
        ("cancelRun", {"runId": "run_x"}, "not_found", None),
        ("resumeRun", {"runId": "$run", "ckptPath": "/etc/passwd"}, "bad_checkpoint_path",
         ["input", "ckptPath"]),
        ("markCheckpoint", {"runId": "$run", "ckptPath": "/ckpts/../x", "tagType": "t"},
         "bad_checkpoint_path", ["input", "ckptPath"]),
        ("markCheckpoint", {"runId": "$run", "ckptPath": "$ckpt", "tagType": "Not A Slug"},
         "invalid_input", ["input", "tagType"]),
        ("markCheckpoint", {"runId": "$run", "ckptPath": "$ckpt", "tagType": "t",
                            "metrics": {"loss": "low"}}, "invalid_input",
         ["input", "metrics", "loss"]),
    ],
)  # fmt: skip
def test_what_a_caller_can_mend_is_a_user_error_and_changes_nothing(
    graph: Graph, story: dict[str, Any], mutation: str, input: Any, code: str, field: Any
) -> None:
    known = {"$experiment": story["experiment"], "$run": story["run"]}
    known["$ckpt"] = story["ckpt"]["ckptPath"]
    input = {k: known.get(v, v) if isinstance(v, str) else v for k, v in input.items()}
    count = "{ experiments { totalCount } runs { totalCount } checkpoints { totalCount } }"
    before = graph.data(count)
    payload = graph.do(mutation, "", **input)
    (error,) = payload["userErrors"]
    assert (error["code"], error["field"]) == (code, field)
    assert error["message"].endswith(".")
    assert graph.data(count) == before


def test_a_key_does_the_work_once_and_replays_the_answer(graph: Graph) -> None:
    experiment = graph.experiment()
    select = "run { id status hyperparams createdAt } runToken replayed"
    input = {"experimentId": experiment, "model": "m", "hyperparams": {"b": 1, "a": 2}}
    first = graph.do("createRun", select, **input, idempotencyKey="k")
    assert first["replayed"] is False
    graph.cancel(first["run"]["id"])
    again = graph.do("createRun", select, **input, idempotencyKey="k")
    assert again == first | {"replayed": True}
    assert graph.data(
        "query ($e: ID!) { experiment(id: $e) { runs { totalCount } } }", e=experiment
    )["experiment"]["runs"] == {"totalCount": 1}
    other = graph.do("createRun", select, **(input | {"model": "n"}), idempotencyKey="k")
    assert (other["run"], other["userErrors"][0]["code"]) == (None, "idempotency_key_reused")
    elsewhere = graph.do("cancelRun", "run { id }", runId=first["run"]["id"], idempotencyKey="k")
    assert elsewhere["userErrors"] == []
    bad = graph.do("createRun", select, **input, idempotencyKey="")
    assert bad["userErrors"][0]["code"] == "invalid_input"


def test_a_bug_is_masked_and_logged(
    graph: Graph, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr("app.db.keyset.page", broken)
    (error,) = graph.ask("{ runs { totalCount nodes { id } } }")["errors"]
    assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
    assert "secret" not in error["message"]
    assert "secret inside" in caplog.text


EDGES = """
  experiments(first: %(n)d) { totalCount edges { cursor node {
    id tags labels project { id } runCounts { status count }
    events(first: 5) { totalCount nodes { id seq experiment { id } run { id } } }
    checkpoints(first: %(n)d) { nodes { id run { id } experiment { id } storedAs { id } } }
    runs(first: %(n)d) { totalCount pageInfo { endCursor } nodes {
      id metrics { key value } overrides { key } labels models { id }
      experiment { id } parent { id } root { id } sourceCheckpoint { id }
      children(first: 5) { totalCount nodes { id } }
      events(first: 2) { nodes { id } }
      checkpoints(first: %(n)d, orderBy: {field: STEP}) {
        totalCount edges { cursor node { id ckptPath run { id } } } }
    } }
  } } }
"""


def _edges(schema: Any) -> set[str]:
    """Every field of an entity that leads to other rows."""
    found = set()
    for name in ("Experiment", "Run", "Checkpoint", "Event"):
        kind = schema.type_map[name]
        assert isinstance(kind, GraphQLObjectType)
        for field, definition in kind.fields.items():
            if "column" in definition.extensions["strawberry-definition"].metadata:
                found.add(field)
    return found


_load = Context.load


def alone(self: Context, name: Any, *arguments: Any, **options: Any) -> Any:
    """`Context.load` without its batches: the control of tests that count."""
    return _load(self, (name, object()), *arguments, **options)


def test_the_number_of_statements_does_not_grow_with_the_lists(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    edges = _edges(Schema()._schema) - {"metricSeries", "metricBands"}  # the next test
    words = re.findall(r"\w+", EDGES)
    assert edges <= set(words), "an edge is not asked for"
    # One statement each, one more for the order by a value that a row may lack, and one more for
    # the runs that are archived, wherever runs are counted.
    most = sum(word in edges | {"experiments", "totalCount"} for word in words) + 3
    for number in range(4):
        experiment = graph.experiment(name=f"many {number}")
        for _ in range(3):
            run = graph.run(experiment)
            graph.cancel(run)
            graph.do("resumeRun", "run { id }", runId=run, overrideHyperparams={"a": 1})

    def asked(n: int) -> int:
        with statements() as seen:
            data = graph.data("{" + EDGES % {"n": n} + "}")
            assert len(data["experiments"]["edges"]) == n
        return len(seen)

    assert asked(2) <= most
    assert asked(4) <= most

    monkeypatch.setattr("app.graphql.executor._value", lambda *_: None)
    assert asked(4) <= most, "row by row, the context alone makes one read of many"
    monkeypatch.setattr(Context, "load", alone)
    assert asked(4) > most, "the count sees a load that is not batched"


def test_the_curves_of_all_runs_are_one_read_of_few_statements_each(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = graph.experiment()
    columns = {"steps": list(range(3000)), "values": [0.5] * 3000}
    for _ in range(3):
        made = graph.do("createRun", "run { id } runToken", experimentId=experiment, model="m")
        batch = {"attempt": 1, "batch": 1, "metrics": {"loss": columns, "acc": columns}}
        report(graph, made["run"]["id"], made["runToken"], **batch)
    reads: list[int] = []
    read = curves.read

    def counted(keys: Any, asked: Any, budget: Any, tx: Any, run_ids: list[str]) -> Any:
        reads.append(len(run_ids))
        return read(keys, asked, budget, tx, run_ids)

    monkeypatch.setattr(curves, "read", counted)
    query = """query ($id: ID!) { experiment(id: $id) { runs { nodes {
        metricSeries(points: %d) { key steps } } } } }"""
    for points in (1000, 10):  # all points of a curve are read, or what is kept of many
        with statements() as seen:
            runs = graph.data(query % points, id=experiment)["experiment"]["runs"]["nodes"]
        assert [len(run["metricSeries"]) for run in runs] == [2, 2, 2]
        assert len(seen) <= 3 + 3 * 2 + 6 * 4, "the list's three, a run's two, a curve's four"
    assert reads == [3] * 2

    monkeypatch.setattr(Context, "load", alone)
    monkeypatch.setattr("app.graphql.executor._value", lambda *_: None)
    graph.data(query % 10, id=experiment)
    assert reads == [3, 3, 1, 1, 1], "the count sees reads that are not batched"


def test_the_examples_of_graphiql_work(graph: Graph, story: dict[str, Any]) -> None:
    known = {"exp_…": story["experiment"], "run_…": story["run"]}
    known["/ckpts/…"] = story["ckpt"]["ckptPath"]
    for example in EXAMPLES:
        text = re.sub(r'"([^"]*…)"', lambda gap: f'"{known[gap[1]]}"', example)
        if "subscription" not in text:
            graph.data(text)


def test_the_committed_sdl_is_current_and_complete() -> None:
    assert (REPOSITORY / "schema.graphql").read_text() == sdl(), (
        "stale: llm-train export-schema > schema.graphql"
    )
    schema = build_schema(sdl())
    for name, kind in schema.type_map.items():
        if name.startswith("__"):
            continue
        assert kind.description, name
        for field_name, field in getattr(kind, "fields", {}).items():
            assert field.description, f"{name}.{field_name}"
            for argument_name, argument in getattr(field, "args", {}).items():
                assert argument.description, f"{name}.{field_name}({argument_name})"


def test_every_database_answers_the_same_nested_question(tmp_path: Path, database_url: str) -> None:
    with running(tmp_path, database_url=database_url) as api:
        graph = Graph(api.send)
        experiment = graph.experiment()
        runs = [graph.run(experiment) for _ in range(4)]
        for run in runs:
            graph.cancel(run)
        found = graph.data("{" + EDGES % {"n": 4} + "}")["experiments"]
    (edge,) = found["edges"]
    listed = edge["node"]["runs"]
    assert [run["id"] for run in listed["nodes"]] == runs[::-1]
    assert all(run["checkpoints"]["totalCount"] == 1 for run in listed["nodes"])
    assert found["totalCount"] == 1


def test_an_infinite_latest_value_is_null_as_the_schema_promises(graph: Graph) -> None:
    """Three runs, so that the list is completed by column, and one alone."""
    experiment = graph.experiment()
    for _ in range(3):
        made = graph.do("createRun", "run { id } runToken", experimentId=experiment, model="m")
        run, token = made["run"]["id"], made["runToken"]
        values = {"loss": {"steps": [1], "values": ["Infinity"]}}
        report(graph, run, token, step=1, attempt=1, batch=1, metrics=values)
    metrics = "metrics { key value step }"
    expected = [{"key": "loss", "value": None, "step": 1}]
    query = f"query ($id: ID!) {{ experiment(id: $id) {{ runs {{ nodes {{ {metrics} }} }} }} }}"
    found = graph.data(query, id=experiment)["experiment"]["runs"]["nodes"]
    assert [each["metrics"] for each in found] == [expected] * 3
    alone = graph.data(f"query ($id: ID!) {{ run(id: $id) {{ {metrics} }} }}", id=run)
    assert alone["run"]["metrics"] == expected
