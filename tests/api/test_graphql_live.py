"""Subscriptions over websockets and server-sent events, against a real server."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import websockets

from tests.support.database import postgresql_only
from tests.support.graphql import PROTOCOL, Graph, Socket, connected
from tests.support.server import Server, running_server

pytestmark = pytest.mark.anyio

TOKEN = "0123456789abcdef-token"
RUN = "subscription ($id: ID!) { run(id: $id) { id status step progress } }"
RUN_EVENTS = """subscription ($id: ID!, $after: Long) {
    runEvents(runId: $id, afterSeq: $after) { seq type run { id status } } }"""
FEED = """subscription ($id: ID!, $after: Long) {
    experimentEvents(experimentId: $id, afterSeq: $after) { id seq type } }"""


@pytest.fixture
def graph(server: Server) -> Iterator[Graph]:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        yield Graph(http.request)


def start(graph: Graph) -> tuple[str, str, str]:
    """An experiment, an external run of it and the run's token."""
    experiment = graph.experiment()
    made = graph.do("createRun", "run { id } runToken", experimentId=experiment, model="m")
    return experiment, made["run"]["id"], made["runToken"]


def report(graph: Graph, run: str, token: str, **body: Any) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    answer = graph.send("POST", f"/v1/runs/{run}/reports", json=body, headers=headers)
    assert answer.status_code == 200, answer.text


async def test_a_run_is_watched_from_now_to_its_end(server: Server, graph: Graph) -> None:
    _, run, token = start(graph)
    async with connected(server.url) as socket:
        await socket.ask(RUN, id=run)
        assert await socket.next() == {"id": run, "status": "QUEUED", "step": 0, "progress": None}
        for step in (3, 6):
            await asyncio.to_thread(report, graph, run, token, step=step, total_steps=12)
            while (found := await socket.next())["step"] != step:
                pass
            assert (found["status"], found["progress"]) == ("RUNNING", step / 12)
        await asyncio.to_thread(graph.cancel, run)
        await asyncio.to_thread(report, graph, run, token, step=7, finished=True)
        seen = []
        while (found := await socket.next()) is not None:
            seen.append(found["status"])
        assert seen[0] == "CANCELLING"
        assert seen[-1] == "CANCELLED"


async def test_a_reconnect_loses_nothing_and_repeats_nothing(server: Server, graph: Graph) -> None:
    experiment, run, _ = start(graph)
    seqs: list[int] = []

    async def read(socket: Socket, count: int) -> None:
        for _ in range(count):
            seqs.append((await socket.next())["seq"])

    def work(number: int) -> None:
        graph.mark(run, f"/ckpts/{experiment}/{run}/c{number}")  # declared, then marked

    async with connected(server.url) as socket:
        await socket.ask(FEED, id=experiment, after=0)
        await read(socket, 2)
        await asyncio.to_thread(work, 1)
        await read(socket, 1)
    await asyncio.to_thread(work, 2)
    async with connected(server.url) as socket:
        await socket.ask(FEED, id=experiment, after=seqs[-1])
        await read(socket, 3)
        await asyncio.to_thread(work, 3)
        await read(socket, 2)
    assert seqs == list(range(1, 9))


async def test_the_events_of_a_run_alone(server: Server, graph: Graph) -> None:
    experiment, run, _ = start(graph)
    other = graph.run(experiment)
    async with connected(server.url) as socket:
        await socket.ask(RUN_EVENTS, id=run, after=0)
        assert (await socket.next())["type"] == "run.queued"
        await asyncio.to_thread(graph.cancel, other)
        await asyncio.to_thread(graph.cancel, run)
        seen = []
        while (found := await socket.next()) is not None:
            assert found["run"]["id"] == run
            seen.append(found["type"])
    assert seen[0] == "run.cancelled"
    assert seen[-1].startswith("checkpoint.")


async def test_server_sent_events_carry_the_same(server: Server, graph: Graph) -> None:
    _, run, _ = start(graph)
    body = {"query": RUN, "variables": {"id": run}}
    headers = {"Accept": "text/event-stream"}
    async with (
        httpx.AsyncClient(timeout=60) as http,
        http.stream("POST", f"{server.url}/graphql", json=body, headers=headers) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.aiter_lines()
        assert await anext(lines) == "event: next"
        first = json.loads((await anext(lines)).removeprefix("data: "))
        assert first["data"]["run"]["status"] == "QUEUED"
        await asyncio.to_thread(graph.cancel, run)
        rest = [line async for line in lines]
    assert "event: complete" in rest
    ended = [json.loads(line[6:]) for line in rest if line.startswith("data: {")]
    assert ended[-1]["data"]["run"]["status"] == "CANCELLED"


async def test_a_stream_is_for_get_and_post_and_its_head_ends(server: Server, graph: Graph) -> None:
    _, run, _ = start(graph)
    params = {"query": RUN, "variables": json.dumps({"id": run})}
    headers = {"Accept": "text/event-stream"}
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        async with http.stream("GET", "/graphql", params=params, headers=headers) as answer:
            assert await anext(answer.aiter_lines()) == "event: next"
        head = await http.head("/graphql", params=params, headers=headers)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"].startswith("text/event-stream")
        for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "SUBSCRIBE"):
            odd = await http.request(method, "/graphql", params=params, headers=headers)
            assert (odd.status_code, odd.headers["allow"]) == (405, "GET, POST")
            assert odd.json()["errors"][0]["extensions"]["code"] == "METHOD_NOT_ALLOWED"


async def test_what_does_not_exist_is_an_error_and_the_socket_lives(
    server: Server, graph: Graph
) -> None:
    async with connected(server.url) as socket:
        for id in ("run_nothing", "run_" + "0" * 26, "\0"):
            await socket.ask(RUN, id=id)
            message = await socket.receive()
            errors = message["payload"]
            errors = errors if message["type"] == "error" else errors["errors"]
            assert errors[0]["extensions"]["code"] == "NOT_FOUND"
            if message["type"] == "next":
                assert (await socket.receive())["type"] == "complete"
        await socket.ask("{ __typename }")
        assert await socket.next() == "Query"


@pytest.mark.parametrize(
    "message",
    ["[]", "5", "null", "{}", "x", '{"type": "subscribe"}', '{"type": "subscribe", "id": "1"}',
     '{"type": "subscribe", "id": "1", "payload": []}',
     '{"type": "subscribe", "id": [], "payload": {"query": "{__typename}"}}',
     '{"type": "subscribe", "id": "1", "payload": {"query": 5}}',
     '{"type": "subscribe", "id": "1", "payload": {"query": "{__typename}", "variables": []}}',
     '{"type": "complete"}', '{"type": "complete", "id": []}', '{"type": "other"}',
     '{"type": ["x"]}'],
)  # fmt: skip
async def test_a_malformed_message_closes_that_socket_alone(server: Server, message: str) -> None:
    async with connected(server.url) as socket:
        await socket.connection.send(message)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4400
    log = server.log.read_text()
    assert "Traceback" not in log, log[-3000:]


async def test_the_legacy_protocol_is_not_spoken(server: Server) -> None:
    url = server.url.replace("http", "ws") + "/graphql"
    legacy = websockets.Subprotocol("graphql-ws")
    async with websockets.connect(url, subprotocols=[legacy]) as connection:
        assert connection.subprotocol is None
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await connection.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4406


async def test_limits_hold_on_websockets_too(server: Server) -> None:
    async with connected(server.url) as socket:
        query = "{" + " ".join(f"a{i}: __typename" for i in range(60)) + "}"
        await socket.ask(query)
        message = await socket.receive()
        assert message["type"] == "error"
        assert message["payload"][0]["extensions"]["code"] == "TOO_COMPLEX"


async def test_a_thousand_idle_subscribers_cost_little_and_all_wake(
    server: Server, graph: Graph
) -> None:
    experiment, run, _ = start(graph)
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(connected(server.url)) for _ in range(10)]
        for number in range(1000):
            await sockets[number % 10].ask(FEED, str(number), id=experiment)
        for socket in sockets:  # the last of the hundred that one connection may have
            await socket.ask("{ __typename }", "more")
            assert (await socket.receive())["type"] == "error"
        assert process.memory_info().rss - before < 60e6
        spent = sum(process.cpu_times()[:2])
        await asyncio.sleep(0.5)
        assert sum(process.cpu_times()[:2]) - spent < 0.25
        await asyncio.to_thread(graph.cancel, run)
        for socket in sockets:
            woken: set[str] = set()
            while len(woken) < 100:
                woken.add((await socket.receive())["id"])


@postgresql_only
async def test_a_change_on_one_replica_wakes_a_subscriber_of_another(
    tmp_path: Path, database_url: str
) -> None:
    settings: dict[str, Any] = {"DATABASE_URL": database_url, "SECRET": "s" * 40}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with (
        running_server(tmp_path / "one", **settings) as one,
        running_server(tmp_path / "two", **settings) as two,
        httpx.Client(base_url=one.url, timeout=60) as http,
    ):
        graph = Graph(http.request)
        experiment, run, _ = await asyncio.to_thread(start, graph)
        async with connected(two.url) as socket:
            await socket.ask(RUN, "run", id=run)
            await socket.ask(FEED, "feed", id=experiment, after=2)
            assert (await socket.next())["status"] == "QUEUED"
            await asyncio.to_thread(graph.cancel, run)
            awaited = {"run", "feed"}  # which comes first, and how many each sends, is open
            while awaited:
                message = await socket.receive()
                found = message.get("payload", {}).get("data") or {}
                if "experimentEvents" in found or found.get("run", {}).get("status") == "CANCELLED":
                    awaited.discard(message["id"])


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("guarded"), API_TOKEN=TOKEN) as server:
        yield server


@pytest.mark.parametrize(
    ("hello", "headers"),
    [
        ({"authorization": f"Bearer {TOKEN}"}, {}),
        ({"Authorization": f"bearer {TOKEN}"}, {}),
        (None, {"Authorization": f"Bearer {TOKEN}"}),
    ],
)
async def test_a_token_comes_as_a_header_or_in_the_first_message(
    guarded: Server, hello: Any, headers: Any
) -> None:
    async with connected(guarded.url, hello, **headers) as socket:
        await socket.ask("{ __typename }")
        assert await socket.next() == "Query"


@pytest.mark.parametrize(
    "hello",
    [None, {}, {"authorization": "Bearer wrong"}, {"authorization": ""}, {"authorization": None},
     {"authorization": TOKEN}, {"authorization": ["Bearer", TOKEN]},
     {"authorization": f"Bearer {TOKEN}é"}],
)  # fmt: skip
async def test_without_the_token_nothing_is_answered(guarded: Server, hello: Any) -> None:
    with pytest.raises(websockets.ConnectionClosed) as closed:
        async with connected(guarded.url, hello):
            pass
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4403
    url = guarded.url.replace("http", "ws") + "/graphql"
    async with websockets.connect(url, subprotocols=[PROTOCOL]) as connection:
        socket = Socket(connection)  # that says no hello at all
        await socket.ask("{ __typename }")
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


async def test_a_page_elsewhere_cannot_open_a_socket(server: Server) -> None:
    url = server.url.replace("http", "ws") + "/graphql"
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(
            url, subprotocols=[PROTOCOL], origin=websockets.Origin("https://evil.test")
        ):
            pass
    assert refused.value.response.status_code == 403
