"""What an operation may cost: counted as its resolvers will read it, in objects and in bytes."""

import asyncio
from functools import partial
from typing import Any

import pytest

from app.graphql import limits
from app.graphql.budget import Budget, Memory
from tests.api.conftest import Api
from tests.support.graphql import Graph, connected, statements
from tests.support.server import wait_until

KIB = 1024
SERIES = "{ runs(first: 100) { nodes { metricSeries(points: 10000) { key } } } }"


@pytest.fixture(scope="module")
def graph(api: Api) -> Graph:
    return Graph(api.send)


def reporting(graph: Graph, experiment: str, keys: int, **fields: Any) -> str:
    """A run that has reported so many metrics."""
    given = {"experimentId": experiment, "model": "m"} | fields
    made = graph.do("createRun", "run { id } runToken", **given)
    run, token = made["run"]["id"], made["runToken"]
    for start in range(0, keys, 1000):
        own = range(start, min(keys, start + 1000))
        columns = {f"k{key}": {"steps": [1], "values": [0.5]} for key in own}
        body = {"step": 1, "attempt": 1, "batch": 1 + start // 1000, "metrics": columns}
        headers = {"Authorization": f"Bearer {token}"}
        answer = graph.send("POST", f"/v1/runs/{run}/reports", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
    return str(run)


NEGATIVE = {
    "points": "a: runs { nodes { metricSeries(points: -2147483648) { key } } }",
    "first": "a: runs(first: -2147483648) { nodes { id } }",
}


@pytest.mark.parametrize("name", NEGATIVE)
def test_a_negative_number_makes_no_room_for_a_query_that_is_too_large(
    graph: Graph, name: str
) -> None:
    query = "{" + NEGATIVE[name] + SERIES[1:]
    assert graph.code(query) == "TOO_COMPLEX"


@pytest.mark.parametrize("number", [100, 100.0, "default", "negative default"])
def test_a_number_counts_as_the_resolver_gets_it(graph: Graph, number: Any) -> None:
    """A client whose numbers are all floats sends 100.0; so did somebody who read the code."""
    default = {"default": " = 100", "negative default": " = -5"}.get(number, "")
    variables = {} if number == "default" else {"n": 100 if default else number}
    pages = "runs(first: $n) { nodes { children(first: $n) { nodes { id } } } }"
    query = f"query ($n: Int{default}) {{ {pages} }}"
    assert graph.code(query, **variables) == "TOO_COMPLEX"
    points = "runs(first: 100) { nodes { metricSeries(points: $p) { key } } }"
    assert graph.code(f"query ($p: Int!) {{ {points} }}", p=10000.0) == "TOO_COMPLEX"


def test_what_is_refused_for_its_variables_is_refused_for_them(graph: Graph) -> None:
    for wrong in ("a", 1.5, 2**40, True, [1]):
        answer = graph.ask("query ($n: Int) { runs(first: $n) { totalCount } }", n=wrong)
        assert "data" not in answer or answer["data"] is None
        assert answer["errors"][0]["extensions"]["code"] != "INTERNAL_SERVER_ERROR"


def test_no_keys_are_no_metrics_and_cost_nothing(graph: Graph) -> None:
    experiment = graph.experiment()
    run = reporting(graph, experiment, 3)
    query = """query ($id: ID!, $keys: [String!]) { run(id: $id) {
        metrics(keys: $keys) { key } metricSeries(keys: $keys) { key } } }"""
    answer = graph.ask(query, id=run, keys=[])
    assert answer["data"]["run"] == {"metrics": [], "metricSeries": []}
    assert answer["extensions"]["cost"]["nodes"] == 1, "the run"
    some = [{"key": "k0"}, {"key": "k2"}]
    assert graph.data(query, id=run, keys=["k2", "k0", "k2"])["run"]["metrics"] == some
    assert len(graph.data(query, id=run, keys=None)["run"]["metrics"]) == 3
    assert graph.code(query, id=run, keys=[f"k{i}" for i in range(201)]) == "BAD_USER_INPUT"


def test_metrics_of_many_runs_are_bound_by_what_is_read(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.graphql.curves.MAX_LATEST", 500)
    experiment = graph.experiment()
    for _ in range(3):
        reporting(graph, experiment, 300)
    query = """query ($id: ID!, $keys: [String!]) { experiment(id: $id) { runs { nodes {
        metrics(keys: $keys) { key value } } } } }"""
    assert graph.code(query, id=experiment) == "TOO_COMPLEX"
    runs = graph.data(query, id=experiment, keys=["k7"])["experiment"]["runs"]["nodes"]
    assert [run["metrics"] for run in runs] == [[{"key": "k7", "value": 0.5}]] * 3


def test_any_number_of_keys_is_asked_with_one_statement(graph: Graph) -> None:
    """One for each number of keys would be compiled, and kept, for each number."""
    run = reporting(graph, graph.experiment(), 1)
    query = "query ($id: ID!, $k: [String!]) { run(id: $id) { metricSeries(keys: $k) { key } } }"
    with statements() as seen:
        for number in (1, 2, 3, 50):
            graph.data(query, id=run, k=[f"k{i}" for i in range(number)])
    assert len({each for each in seen if "FROM metric_series" in each}) == 1


def test_use_and_members_of_many_projects_are_read_together(graph: Graph) -> None:
    query = """{ projects { name use { runs gpus bytes } members { user role } } }"""

    def cost() -> int:
        with statements() as seen:
            assert graph.data(query)["projects"]
        return len([each for each in seen if "membership" in each or "checkpoint" in each])

    before = cost()
    user = graph.do("createUser", "user { id }", name="together")["user"]["id"]
    for name in ("a", "b", "c", "d"):
        made = graph.do("createProject", "project { id }", name=f"together-{name}")
        id = made["project"]["id"]
        graph.do("setMember", "member { user }", projectId=id, user="together", role="MEMBER")
    assert cost() == before
    found = {each["name"]: each for each in graph.data(query)["projects"]}
    assert found["together-c"]["members"] == [{"user": "together", "role": "MEMBER"}]
    assert found["default"]["members"] == [] and user


@pytest.fixture(scope="module")
def heavy(graph: Graph) -> str:
    """An experiment of ten runs with 60 KB of hyperparameters each."""
    experiment = graph.experiment()
    for _ in range(10):
        graph.run(experiment, hyperparams={"template": "x" * 60 * KIB})
    return experiment


def test_json_counts_in_bytes_however_often_it_is_named(
    graph: Graph, heavy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 aliases of one field are 30 MB here; of 100 runs they were 300 MB."""
    monkeypatch.setattr(limits, "ANSWER_BYTES", 20_000_000)
    many = " ".join(f"a{i}: hyperparams" for i in range(50))
    for selected in (f"nodes {{ {many} }}", f"edges {{ node {{ {many} }} }}"):
        query = f"query ($id: ID!) {{ experiment(id: $id) {{ runs {{ {selected} }} }} }}"
        answer = graph.ask(query, id=heavy)
        assert answer["data"] is None
        (error,) = answer["errors"]
        assert error["extensions"]["code"] == "TOO_COMPLEX"
        assert "20 MB" in error["message"]
    few = many[: many.index("a20")]
    query = f"query ($id: ID!) {{ experiment(id: $id) {{ runs {{ nodes {{ {few} }} }} }} }}"
    assert len(graph.data(query, id=heavy)["experiment"]["runs"]["nodes"]) == 10


def test_rows_count_as_they_are_read_whatever_is_answered_of_them(
    graph: Graph, heavy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ANSWER_BYTES", 500_000)
    query = "query ($id: ID!) { experiment(id: $id) { runs(first: %d) { nodes { %s } } } }"
    assert graph.code(query % (10, "progress"), id=heavy) == "TOO_COMPLEX", "a whole row"
    graph.data(query % (5, "progress"), id=heavy)
    graph.data(query % (10, "id"), id=heavy)


@pytest.fixture
def memory(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> Memory:
    """The memory of all answers of this server."""
    seen: list[Memory] = []
    take = Memory.take

    def watched(self: Memory, size: int) -> None:
        seen.append(self)
        take(self, size)

    with monkeypatch.context() as patch:
        patch.setattr(Memory, "take", watched)
        graph.data("{ experiments { nodes { id } } }")
    return seen[0]


def test_all_answers_under_way_have_a_bound_and_leave_nothing_behind(
    graph: Graph, heavy: str, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "query ($id: ID!) { experiment(id: $id) { runs { nodes { hyperparams } } } }"
    graph.data(query, id=heavy)
    assert memory.bytes == 0
    with monkeypatch.context() as patch:
        patch.setattr(limits, "ALL_ANSWERS_BYTES", 500_000)
        (error,) = graph.ask(query, id=heavy)["errors"]
        assert error["extensions"] == {"code": "BUSY", "retryAfter": 1}
    assert memory.bytes == 0
    graph.data(query, id=heavy)


WATCHED = "subscription ($id: ID!) { run(id: $id) { experiment { runs(first: %d) {"


@pytest.mark.anyio
async def test_subscriptions_have_a_bound_each_and_together(
    graph: Graph, url: str, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """950 subscriptions of 9,600 objects each made one event cost 12 s."""
    run = await asyncio.to_thread(lambda: graph.run(graph.experiment()))
    small = WATCHED % 100 + " nodes { id } } } } }"
    large = WATCHED % 100 + " nodes { checkpoints(first: 95) { nodes { id } } } } } } }"

    async def refusal(socket: Any) -> str:
        message = await socket.receive()
        assert message["type"] == "error", message
        return str(message["payload"][0]["extensions"]["code"])

    async with connected(url) as socket:
        await socket.ask(large, id=run)
        assert await refusal(socket) == "TOO_COMPLEX"
        monkeypatch.setattr(limits, "ALL_WATCHED", 250)  # two of the small ones
        for name in ("1", "2"):
            await socket.ask(small, name, id=run)
            assert (await socket.next())["experiment"]["runs"]["nodes"] == [{"id": run}]
        await socket.ask(small, "3", id=run)
        assert await refusal(socket) == "BUSY"
        await asyncio.to_thread(graph.cancel, run)  # and so they end
        while (await socket.receive())["type"] != "complete":
            pass
    async with connected(url) as socket:
        await socket.ask(small, id=run)
        assert (await socket.next())["experiment"]["runs"]["nodes"] == [{"id": run}]
        assert await socket.next() is None
    # The last message is sent before the server gives back what it had set aside.
    given_back = partial(
        wait_until, lambda: (memory.watched, memory.bytes) == (0, 0), lambda: f"{vars(memory)}"
    )
    await asyncio.to_thread(given_back)


def test_a_read_that_goes_on_after_its_answer_was_given_up_takes_nothing() -> None:
    """Once it was never given back: the reads of a closed subscription end in their threads."""
    memory = Memory()
    budget = Budget(memory)
    budget.charge(100)
    budget.release()
    budget.charge(1004)
    assert memory.bytes == 0
