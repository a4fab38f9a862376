"""Live lists, metrics and logs over websockets: coalesced, and resumed without doubling."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.db.changes import Changes
from tests.support.graphql import Graph, Socket, connected
from tests.support.server import Server

pytestmark = pytest.mark.anyio

CHANGED = """subscription ($e: ID!, $status: [RunStatus!]) {
    runsChanged(filter: {experimentId: $e, status: $status}, seconds: 0.2) { id status step } }"""
HISTORIES = """subscription ($type: String) {
    experimentsChanged(filter: {taskType: $type}, seconds: 0.2) {
        id tags runCounts { status count } } }"""
METRICS = """subscription ($id: ID!, $after: Long, $keys: [String!]) {
    runMetrics(runId: $id, afterStep: $after, keys: $keys, seconds: 0.1) { key steps values } }"""
LOG = """subscription ($id: ID!, $offset: Long!) {
    runLog(runId: $id, offset: $offset) { text offset nextOffset totalBytes } }"""


@pytest.fixture
def graph(server: Server) -> Iterator[Graph]:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        yield Graph(http.request)


class Trainer:
    """An external run and what reports on it."""

    def __init__(self, graph: Graph, experiment: str) -> None:
        self.graph = graph
        made = graph.do("createRun", "run { id } runToken", experimentId=experiment, model="m")
        self.id, self.token = made["run"]["id"], made["runToken"]
        self.batch = 0

    def report(self, **body: Any) -> None:
        self.batch += 1
        headers = {"Authorization": f"Bearer {self.token}"}
        given = {"attempt": 1, "batch": self.batch} | body
        path = f"/v1/runs/{self.id}/reports"
        answer = self.graph.send("POST", path, json=given, headers=headers)
        assert answer.status_code == 200, answer.text

    def log(self, first: int, last: int, key: str = "loss") -> None:
        steps = list(range(first, last + 1))
        self.report(step=last, metrics={key: {"steps": steps, "values": [float(s) for s in steps]}})


async def test_changes_of_a_list_come_together_and_only_those_of_the_list(
    server: Server, graph: Graph
) -> None:
    mine, other = graph.experiment(), graph.experiment()
    trainers = [Trainer(graph, mine) for _ in range(5)]
    stranger = Trainer(graph, other)
    async with connected(server.url) as socket:
        await socket.ask(CHANGED, e=mine, status=["QUEUED"])
        await asyncio.sleep(1)  # nothing tells when the subscription is there

        def work() -> None:
            stranger.report(step=1)
            for step in (1, 2, 3):
                for trainer in trainers:
                    trainer.report(step=step)

        await asyncio.to_thread(work)
        steps: dict[str, int] = {}
        answers = 0
        while len(steps) < 5 or set(steps.values()) != {3}:
            rows = await socket.next()
            answers += 1
            for row in rows:
                assert row["status"] == "RUNNING", "those that leave a list by status are told"
                steps[row["id"]] = row["step"]
        assert set(steps) == {trainer.id for trainer in trainers}
        assert answers <= 8, "fifteen reports, told together"


async def test_experiments_whose_history_goes_on_come_together(
    server: Server, graph: Graph
) -> None:
    mine, other = graph.experiment(taskType="mine"), graph.experiment(taskType="other")
    async with connected(server.url) as socket:
        await socket.ask(HISTORIES, type="mine")
        await asyncio.sleep(1)  # nothing tells when the subscription is there

        def work() -> None:
            Trainer(graph, other)
            for _ in range(4):
                Trainer(graph, mine)
            graph.do("updateExperiment", "experiment { id }", experimentId=mine, tags=["kept"])

        await asyncio.to_thread(work)
        answers: list[Any] = []
        while not answers or answers[-1][0]["tags"] != ["kept"]:
            answers.append(await socket.next())
        assert {row["id"] for rows in answers for row in rows} == {mine}
        assert answers[-1][0]["runCounts"] == [{"status": "QUEUED", "count": 4}]
        assert len(answers) <= 4, "nine events, told together"
        new = await asyncio.to_thread(graph.experiment, taskType="mine")
        assert [row["id"] for row in await socket.next()] == [new]


async def test_new_points_come_once_each_also_after_a_reconnect(
    server: Server, graph: Graph
) -> None:
    trainer = Trainer(graph, graph.experiment())
    trainer.log(1, 100)
    seen: list[int] = []

    async def read(socket: Socket, last: int) -> None:
        while not seen or seen[-1] < last:
            for series in await socket.next():
                if series["key"] == "loss":
                    assert series["values"] == [float(step) for step in series["steps"]]
                    seen.extend(series["steps"])

    async with connected(server.url) as socket:
        await socket.ask(METRICS, id=trainer.id, after=40)
        await read(socket, 100)
        await asyncio.to_thread(trainer.log, 101, 103)
        await read(socket, 103)
    await asyncio.to_thread(trainer.log, 104, 2_500)  # more than one answer holds
    async with connected(server.url) as socket:
        await socket.ask(METRICS, id=trainer.id, after=seen[-1])
        await read(socket, 2_500)
        await asyncio.to_thread(trainer.log, 50, 60, "val")  # another key, behind the first
        trainer.report(step=2_500, finished=True)
        keys = []
        while (answer := await socket.next()) is not None:
            keys += [series["key"] for series in answer]
    assert seen == list(range(41, 2_501))
    assert keys == [], "steps before `afterStep` of a key are not new"


async def test_a_key_that_lags_behind_another_loses_nothing(server: Server, graph: Graph) -> None:
    trainer = Trainer(graph, graph.experiment())
    async with connected(server.url) as socket:
        await socket.ask(METRICS, id=trainer.id, keys=["loss", "val"])
        await asyncio.sleep(1)  # nothing tells when the subscription is there
        await asyncio.to_thread(trainer.log, 1, 100)
        assert [row["key"] for row in await socket.next()] == ["loss"]
        await asyncio.to_thread(trainer.log, 50, 51, "val")
        (row,) = await socket.next()
        assert (row["key"], row["steps"]) == ("val", [50, 51])
        await asyncio.to_thread(trainer.report, step=101, finished=True)
        assert await socket.next() is None


async def test_a_log_goes_on_where_the_last_part_ended(server: Server, graph: Graph) -> None:
    experiment = graph.experiment()
    run = graph.run(experiment, recipe="demo", hyperparams={"steps": 300, "step_delay_ms": 2})
    text, offset = "", 0
    async with connected(server.url) as socket:
        await socket.ask(LOG, id=run, offset=0)
        while not text:
            part = await socket.next()
            assert part["offset"] == offset
            text, offset = text + part["text"], part["nextOffset"]
    async with connected(server.url) as socket:
        await socket.ask(LOG, id=run, offset=offset)
        while (part := await socket.next()) is not None:
            assert part["offset"] == offset, "neither a gap nor a line twice"
            text, offset = text + part["text"], part["nextOffset"]
    path = f"/v1/experiments/{experiment}/runs/{run}/logs"
    assert graph.send("GET", path).text == text


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("runsChanged(seconds: 0) { id }", "BAD_USER_INPUT"),
        ("runsChanged(seconds: 1e300) { id }", "BAD_USER_INPUT"),
        ("runsChanged { metrics { key } }", "TOO_COMPLEX"),
        ("experimentsChanged(seconds: 0) { id }", "BAD_USER_INPUT"),
        ("experimentsChanged { runs(first: 100) { nodes { id } } }", "TOO_COMPLEX"),
        ('runsChanged(filter: {model: "\\u0000"}) { id }', "BAD_USER_INPUT"),
        ('runMetrics(runId: "x") { key }', "NOT_FOUND"),
        ("runMetrics(runId: $id, afterStep: -1) { key }", "BAD_USER_INPUT"),
        ('runMetrics(runId: $id, keys: ["\\u0000"]) { key }', "BAD_USER_INPUT"),
        ("runLog(runId: $id) { text }", "NOT_FOUND"),
        ("runLog(runId: $id, offset: 9007199254740993) { text }", "BAD_USER_INPUT"),
    ],
)
async def test_what_cannot_be_watched_is_refused(
    server: Server, graph: Graph, query: str, code: str
) -> None:
    run = graph.run(graph.experiment())
    given = "($id: ID!)" if "$id" in query else ""
    async with connected(server.url) as socket:
        await socket.ask(f"subscription {given} {{ {query} }}", id=run)
        message = await socket.receive()
        errors = message["payload"] if message["type"] == "error" else message["payload"]["errors"]
        assert errors[0]["extensions"]["code"] == code


async def test_a_collector_holds_each_topic_once_and_knows_when_it_lost_some() -> None:
    changes = Changes()
    with changes.collect("run_") as collector:
        for _ in range(3):
            changes.publish(["run_b", "exp_a", "run_a"])
        assert collector.event.is_set()
        assert collector.take(1) == ["run_b"] and collector.event.is_set()
        assert collector.take(5) == ["run_a"] and not collector.event.is_set()
        changes.publish_all()
        assert collector.event.is_set() and collector.take_lost() and not collector.take_lost()
    changes.publish(["run_c"])
    assert collector.take(5) == [], "nobody collects any more"
