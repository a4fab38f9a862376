"""A list reads those columns of its rows alone that its selection needs, and answers the same.

Each was seen red: rows without the column that they are sorted by, or by which an edge finds what
it leads to; lists side by side that share the columns of the first; a list that reads all columns.
"""

import re
from typing import Any

import pytest
from graphql import GraphQLObjectType, get_named_type, is_leaf_type

from app.graphql.schema import Schema
from tests.api.conftest import Api
from tests.support.graphql import Graph, statements

KINDS = {"experiments": "Experiment", "runs": "Run", "checkpoints": "Checkpoint"}
TYPES = Schema()._schema.type_map


@pytest.fixture(scope="module")
def graph(api: Api) -> Graph:
    """A client of a service with two experiments, whose runs were cancelled and resumed."""
    graph = Graph(api.send)
    for number in range(2):
        experiment = graph.experiment(name=f"e{number}", goal="g", notes="n", tags=["t"])
        for of_experiment in range(2):
            made = graph.do(
                "createRun", "run { id } runToken", experimentId=experiment, model=f"m{number}",
                name=f"r{of_experiment}", notes="n", hyperparams={"lr": 0.1}, tags=["t"],
            )  # fmt: skip
            run, token = made["run"]["id"], made["runToken"]
            points = [{"key": "loss", "step": 3, "value": 0.5 + number + 2 * of_experiment}]
            body = {"step": 3 + number, "total_steps": 12, "points": points}
            headers = {"Authorization": f"Bearer {token}"}
            answer = graph.send("POST", f"/v1/runs/{run}/reports", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            checkpoint = graph.cancel(run)
            graph.do("resumeRun", "run { id }", runId=run, overrideHyperparams={"lr": 0.2})
            graph.mark(run, checkpoint["ckptPath"], metrics={"loss": 2.5})
    return graph


def fields(kind: str) -> list[str]:
    """Every field of a type, with the first plain field of what it leads to."""
    return [_selection(name, field.type) for name, field in _fields(kind)]


def _fields(kind: str) -> list[tuple[str, Any]]:
    named = TYPES[kind]
    assert isinstance(named, GraphQLObjectType)
    return list(named.fields.items())


def _selection(name: str, kind: Any) -> str:
    named = get_named_type(kind)
    if is_leaf_type(named):
        return name
    if named.name.endswith("Connection"):
        return f"{name} {{ nodes {{ __typename id }} }}"
    leaves = (name for name, own in _fields(named.name) if is_leaf_type(get_named_type(own.type)))
    return f"{name} {{ {next(leaves)} }}"


@pytest.mark.parametrize("listed", KINDS)
@pytest.mark.parametrize("form", ["nodes { %s }", "edges { node { ... on Node { id } %s } }"])
def test_each_field_alone_is_what_it_is_among_all(graph: Graph, listed: str, form: str) -> None:
    selections = fields(KINDS[listed])

    def ask(selected: str) -> list[Any]:
        found = graph.data(f"{{ {listed} {{ {form % selected} }} }}")[listed]
        return found["nodes"] if "nodes" in found else [edge["node"] for edge in found["edges"]]

    whole = ask(" ".join(selections))
    assert len(whole) >= 2
    for selection in selections:
        name = selection.split()[0]
        assert [row[name] for row in ask(selection)] == [row[name] for row in whole], name


@pytest.mark.parametrize("field", ["CREATED_AT", "STARTED_AT", "FINISHED_AT", "STEP", "METRIC"])
def test_pages_go_on_in_any_order_whatever_is_selected(graph: Graph, field: str) -> None:
    key = ', metricKey: "loss"' if field == "METRIC" else ""
    by = f"{{field: {field}{key}}}"
    page = f"runs(first: %d, orderBy: {by}, after: $after) {{ nodes {{ model name }} %s }}"
    query = "query ($after: String) { " + page + " }"
    whole = graph.data(query % (100, ""))["runs"]["nodes"]
    pieces: list[Any] = []
    after = None
    while len(pieces) < len(whole):
        found = graph.data(query % (3, "pageInfo { endCursor }"), after=after)["runs"]
        assert found["nodes"], "a page is empty before the end"
        pieces += found["nodes"]
        after = found["pageInfo"]["endCursor"]
    assert pieces == whole


def test_lists_side_by_side_have_each_its_own_columns(graph: Graph) -> None:
    found = graph.data(
        """{ experiments { nodes { name
            first: runs { nodes { name } } second: runs { nodes { ...More } }
        } } } fragment More on Run { model ... on Run { hyperparams } }"""
    )["experiments"]["nodes"]
    for experiment in found:
        assert {run["name"] for run in experiment["first"]["nodes"]} == {"r0", "r1", None}
        of_experiment = experiment["name"].replace("e", "m")
        assert {run["model"] for run in experiment["second"]["nodes"]} == {of_experiment}


def test_no_column_is_read_that_nothing_asks_for(graph: Graph) -> None:
    def read(selected: str) -> str:
        with statements() as seen:
            graph.data(f"{{ experiments {{ nodes {{ runs {{ nodes {{ {selected} }} }} }} }} }}")
        return " ".join(seen)

    few = read("id status checkpoints { nodes { ckptPath } }")
    assert "ckpt_path" in few and ".status" in few
    assert not {"hyperparams", "sha256", "param_config"} & set(re.findall(r"\w+", few))
    assert "hyperparams" in read("id hyperparams")
    assert "hyperparams" in read("id progress"), "a resolver reads what it likes"
