"""Names, notes, tags, priorities and the archive: the same over REST and GraphQL."""

from typing import Any

import httpx
import pytest

from tests.api.conftest import Api
from tests.api.problem import problem
from tests.support.database import postgresql_heavy
from tests.support.graphql import Graph

pytestmark = postgresql_heavy


@pytest.fixture(scope="module")
def graph(api: Api) -> Graph:
    return Graph(api.send)


def found(api: Api, query: str) -> list[str]:
    answer = api.send("GET", f"/v1/runs?{query}")
    assert answer.status_code == 200, answer.text
    return [row["run_id"] for row in answer.json()["runs"]]


def listed(graph: Graph, **filter: Any) -> list[str]:
    query = "query ($f: RunFilter) { runs(filter: $f, first: 500) { totalCount nodes { id } } }"
    page = graph.data(query, f=filter or None)["runs"]
    assert page["totalCount"] == len(page["nodes"])
    return [row["id"] for row in page["nodes"]]


def test_a_run_is_described_and_found_by_it(api: Api, graph: Graph) -> None:
    experiment = graph.experiment(notes="why", tags=["of-experiment"])
    given = {"model": "m", "name": "base line", "tags": ["zh", "paper"], "priority": "high"}
    made = api.send("POST", f"/v1/experiments/{experiment}/runs", json=given)
    run = made.json()["run_id"]
    path = f"/v1/experiments/{experiment}/runs/{run}"
    assert made.headers["location"] == path
    one = api.send("GET", path).json()
    assert {name: one[name] for name in given} == given
    assert (one["archived_at"], one["metrics"], one["newest_ckpt_path"]) == (None, {}, None)
    select = "{ name tags priority archivedAt resources { count } experiment { notes } }"
    assert graph.data(f'{{ run(id: "{run}") {select} }}')["run"] == {
        "name": "base line", "tags": ["zh", "paper"], "priority": "HIGH", "archivedAt": None,
        "resources": {"count": None}, "experiment": {"notes": "why"},
    }  # fmt: skip
    other = graph.run(experiment, tags=["zh"])
    for query, filter, expected in (
        ("name=base%20line", {"name": "base line"}, [run]),
        (f"id_ends={run[-6:]}", {"idEnds": run[-6:]}, [run]),
        ("tags=paper&tags=of-experiment", {"tags": ["paper", "of-experiment"]}, [run]),
        ("tags=zh", {"tags": ["zh"]}, [other, run]),
        ("search=base%20LINE", {"search": "base LINE"}, [run]),
        (f"ids={run}&ids={other}", {"ids": [run, other]}, [other, run]),
    ):
        both = f"{query}&experiment_id={experiment}"
        assert found(api, both) == expected == listed(graph, **filter, experimentId=experiment)
    facets = "query ($e: ID!) { facets(field: TAG, filter: {experimentId: $e}) { value count } }"
    assert graph.data(facets, e=experiment)["facets"] == [
        {"value": "zh", "count": 2}, {"value": "paper", "count": 1},
    ]  # fmt: skip


@pytest.mark.parametrize("api_name", ["rest", "graphql"])
def test_what_is_given_is_changed_and_found_anew(api: Api, graph: Graph, api_name: str) -> None:
    experiment = graph.experiment()
    run = graph.run(experiment, name="old words", notes="first", tags=["a"])

    def update(**fields: Any) -> Any:
        if api_name == "rest":
            path = f"/v1/experiments/{experiment}/runs/{run}"
            return api.send("PATCH", path, json=fields).json()
        select = "run { name notes tags priority }"
        payload = graph.do("updateRun", select, runId=run, **fields)
        assert payload["userErrors"] == []
        return payload["run"]

    def events() -> list[Any]:
        query = "query ($id: ID!) { run(id: $id) { events { nodes { type data } } } }"
        nodes = graph.data(query, id=run)["run"]["events"]["nodes"]
        return [event["data"]["changed"] for event in nodes if event["type"] == "run.updated"]

    row = update(name="new words", tags=["b", "c"])
    assert (row["name"], row["notes"], row["tags"]) == ("new words", "first", ["b", "c"])
    assert events() == [["name", "tags"]]
    update(name="new words", tags=["b", "c"])
    assert events() == [["name", "tags"]], "what changes nothing is no event"
    for words, expected in (("new words", [run]), ("old words", [])):
        assert listed(graph, search=words, experimentId=experiment) == expected
    assert listed(graph, tags=["c"], experimentId=experiment) == [run]
    assert listed(graph, tags=["a"], experimentId=experiment) == []
    row = update(name=None, notes=None, tags=[])
    assert (row["name"], row["notes"], row["tags"]) == (None, None, [])
    row = update(priority="low" if api_name == "rest" else "LOW")
    assert row["priority"].lower() == "low"


def test_what_is_archived_is_out_of_lists_and_comes_back(api: Api, graph: Graph) -> None:
    experiment = graph.experiment()
    kept, gone, live = (graph.run(experiment) for _ in range(3))
    for run in (kept, gone):
        graph.cancel(run)

    def archive(run: str, archived: bool) -> Any:
        return graph.do("updateRun", "run { archivedAt }", runId=run, archived=archived)

    refused = archive(live, True)["userErrors"]
    assert refused[0]["code"] == "conflict", "it would go on unseen"
    assert archive(gone, True)["run"]["archivedAt"]
    assert listed(graph, experimentId=experiment) == [live, kept]
    assert listed(graph, experimentId=experiment, archived=True) == [gone]
    assert listed(graph, experimentId=experiment, archived=None) == [live, gone, kept]
    of_experiment = f"experiment_id={experiment}"
    assert found(api, of_experiment) == [live, kept]
    assert found(api, f"{of_experiment}&archived=true") == [gone]
    assert found(api, f"{of_experiment}&archived=any") == [live, gone, kept]
    counts = api.send("GET", f"/v1/runs/counts?{of_experiment}").json()["counts"]
    assert counts == {"queued": 1, "cancelled": 1}
    nested = """query ($id: ID!) { experiment(id: $id) {
        runCounts { status count } runs { totalCount nodes { id } } } }"""
    told = graph.data(nested, id=experiment)["experiment"]
    assert [row["id"] for row in told["runs"]["nodes"]] == [live, kept]
    assert told["runs"]["totalCount"] == 2
    assert sum(row["count"] for row in told["runCounts"]) == 2
    archive(gone, False)
    assert listed(graph, experimentId=experiment) == [live, gone, kept]


def test_rest_archives_and_restores_too_and_twice_is_as_once(api: Api, graph: Graph) -> None:
    experiment = graph.experiment()
    ended, live = graph.run(experiment), graph.run(experiment)
    graph.cancel(ended)

    def archive(run: str, archived: bool) -> httpx.Response:
        path = f"/v1/experiments/{experiment}/runs/{run}"
        return api.send("PATCH", path, json={"archived": archived})

    def history() -> int:
        return len(api.send("GET", f"/v1/experiments/{experiment}/detail").json()["events"])

    assert problem(archive(live, True), "conflict")["status"] == 409
    of_experiment = f"experiment_id={experiment}"
    for is_archived, shown in ((True, [live]), (False, [live, ended])):
        first = archive(ended, is_archived).json()
        assert (first["archived_at"] is not None) == is_archived
        before = history()
        assert archive(ended, is_archived).json() == first
        assert history() == before, "what changes nothing is no event"
        assert found(api, of_experiment) == listed(graph, experimentId=experiment) == shown


def test_an_experiment_takes_its_ended_runs_along(api: Api, graph: Graph) -> None:
    experiment = graph.experiment(name="of the archive")
    before, ended, live = (graph.run(experiment) for _ in range(3))
    for run in (before, ended):
        graph.cancel(run)
    graph.do("updateRun", "run { id }", runId=before, archived=True)
    path = f"/v1/experiments/{experiment}"
    assert api.send("PATCH", path, json={"archived": True}).json()["archived_at"]
    assert listed(graph, experimentId=experiment) == [live]
    names = "{ experiments(first: 500) { nodes { name } } }"
    shown = [row["name"] for row in graph.data(names)["experiments"]["nodes"]]
    assert "of the archive" not in shown
    answer = api.send("PATCH", path, json={"archived": False, "goal": "again", "tags": ["x"]})
    row = answer.json()
    assert (row["archived_at"], row["goal"], row["tags"]) == (None, "again", ["x"])
    assert listed(graph, experimentId=experiment) == [live, ended], "one was archived by itself"
    assert api.send("GET", path).json() == row


def test_runs_are_found_by_the_range_of_a_hyperparameter(api: Api, graph: Graph) -> None:
    experiment = graph.experiment()
    low, high, nested, text = (
        graph.run(experiment, hyperparams=values)
        for values in (
            {"lr": 1e-4}, {"lr": 1, "opt.lr": 5}, {"opt": {"lr": 0.5}}, {"lr": "0.1", "opt": 3},
        )
    )  # fmt: skip
    mine = f"experiment_id={experiment}&hyperparam="
    assert found(api, f"{mine}lr") == [high, low], "a text is no number"
    assert found(api, f"{mine}lr&hyperparam_max=0.5") == [low]
    assert found(api, f"{mine}opt.lr&hyperparam_min=0.5") == [nested, high]
    given = {"key": "lr", "min": 0.5, "max": 2}
    assert listed(graph, experimentId=experiment, hyperparam=given) == [high]
    assert text not in listed(graph, experimentId=experiment, hyperparam={"key": "opt", "max": 2})


def test_a_resumed_run_keeps_tags_and_priority_and_may_get_other_resources(graph: Graph) -> None:
    experiment = graph.experiment()
    parent = graph.run(
        experiment, tags=["a"], priority="LOW", resources={"count": 2, "gpuType": "A100"}
    )
    graph.cancel(parent)
    select = "run { name tags priority resources { count gpuType } }"
    child = graph.do("resumeRun", select, runId=parent, resources={"count": 1}, name="second")
    assert child["run"] == {
        "name": "second", "tags": ["a"], "priority": "LOW",
        "resources": {"count": 1, "gpuType": "A100"},
    }  # fmt: skip


WRONG: dict[str, Any] = {
    "no name": {"name": ""},
    "a name of NUL": {"name": "a\0"},
    "too many tags": {"tags": ["t"] * 51},
    "no tags": {"tags": None},
    "an unknown priority": {"priority": "urgent"},
    "no answer": {"archived": None},
    "an unknown field": {"status": "succeeded"},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_change_changes_nothing(api: Api, graph: Graph, name: str) -> None:
    experiment = graph.experiment()
    run = graph.run(experiment)
    before = api.digest()
    for path in (f"/v1/experiments/{experiment}/runs/{run}", f"/v1/experiments/{experiment}"):
        answer = api.send("PATCH", path, json=WRONG[name])
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    unknown = "run_0cc4q1x3h7p2n4s6v8y0c1e3gj"
    answer = api.send("PATCH", f"/v1/experiments/{experiment}/runs/{unknown}", json={"name": "x"})
    assert answer.status_code == 404
    assert api.digest() == before


@pytest.mark.parametrize(
    "query",
    ["id_ends=abc", "id_ends=%25%25%25%25", "id_ends=____", "hyperparam_min=1", "archived=maybe",
     "hyperparam=%22", "hyperparam=a%5Cb", "name=", "hyperparam=x&hyperparam_min=nan"],
)  # fmt: skip
def test_a_wrong_filter_is_said_to_be_wrong(api: Api, query: str) -> None:
    for path in ("/v1/runs", "/v1/runs/counts"):
        assert api.send("GET", f"{path}?{query}").status_code == 422


def test_recipes_and_capacity_are_told(api: Api) -> None:
    recipes = api.send("GET", "/v1/recipes").json()["recipes"]
    assert [row["launcher"] for row in recipes if row["name"] == "demo"] == ["local"]
    assert [row["launchers"] for row in recipes if row["name"] == "demo"] == [["local"]]
    (local,) = api.send("GET", "/v1/capacity").json()["launchers"]
    assert (local["name"], local["max_runs"]) == ("local", 4) and local["cpus"] >= 1


def test_a_change_with_a_key_is_made_once(api: Api, graph: Graph) -> None:
    experiment = graph.experiment()
    path = f"/v1/experiments/{experiment}"
    headers = {"Idempotency-Key": f"rename-{experiment}"}
    first = api.send("PATCH", path, json={"name": "one"}, headers=headers)
    api.send("PATCH", path, json={"name": "two"})
    again = api.send("PATCH", path, json={"name": "one"}, headers=headers)
    assert again.content == first.content and again.headers["idempotent-replayed"] == "true"
    assert api.send("GET", path).json()["name"] == "two"
