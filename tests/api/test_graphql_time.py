"""An operation that takes too long ends, on every transport, and leaves nothing running."""

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from app.db.sql import Statement, Tx
from app.graphql import limits
from tests.api.conftest import Api
from tests.support.clock import is_soon
from tests.support.graphql import Graph, connected

pytestmark = pytest.mark.anyio

SLOW = Statement[tuple[int]](  # half a minute of work
    text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000)"
        " SELECT count(*) FROM n"
    )
)
COUNT = "{ runs { totalCount } }"
TIMEOUT = {"code": "TIMEOUT"}


@pytest.fixture
def run(api: Api) -> str:
    graph = Graph(api.send)
    return graph.run(graph.experiment())


@pytest.fixture
def slow(api: Api, run: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Whoever counts a list gets a statement that takes half a minute; `undo` ends that."""

    def count(tx: Tx, *_: Any) -> Any:
        return tx.first(SLOW)

    monkeypatch.setattr(limits, "SECONDS", 0.4)
    monkeypatch.setattr("app.db.counting.count", count)
    monkeypatch.setattr("app.db.counting.counts", count)
    start = time.perf_counter()
    yield monkeypatch
    monkeypatch.undo()
    assert Graph(api.send).data(COUNT)["runs"]["totalCount"] > 0  # by a thread that is free
    assert is_soon(time.perf_counter() - start, 5)


async def test_over_http_it_is_a_503(api: Api, slow: Any) -> None:
    def ask(_: int) -> httpx.Response:
        return api.send("POST", "/graphql", json={"query": COUNT})

    with ThreadPoolExecutor(20) as clients:  # far more than there are threads for statements
        for answer in clients.map(ask, range(20)):
            assert answer.status_code == 503
            assert answer.json()["errors"][0]["extensions"] == TIMEOUT


async def test_over_a_websocket_it_is_an_error_and_the_rest_goes_on(url: str, slow: Any) -> None:
    async with connected(url) as socket:
        for number in range(20):
            await socket.ask(COUNT, str(number))
        await socket.ask("{ __typename }", "quick")
        assert (await socket.receive())["payload"]["data"] == {"__typename": "Query"}
        answers = [await socket.receive() for _ in range(41)]
        late = {each["id"]: each["payload"] for each in answers if each["type"] == "next"}
        assert len(late) == 20
        assert all(each["errors"][0]["extensions"] == TIMEOUT for each in late.values())


async def test_what_a_client_gives_up_ends_in_the_database(
    url: str, slow: pytest.MonkeyPatch
) -> None:
    slow.setattr(limits, "SECONDS", 60)
    async with connected(url) as socket:
        for number in range(20):
            await socket.ask(COUNT, str(number))
        await asyncio.sleep(0.3)  # some are in their statement
        for number in range(10):
            await socket.send(type="complete", id=str(number))
    # and the others end with the socket


async def test_over_server_sent_events_it_is_an_error(url: str, slow: Any) -> None:
    async with (
        httpx.AsyncClient(timeout=60) as http,
        http.stream(
            "POST", f"{url}/graphql", json={"query": COUNT}, headers={"Accept": "text/event-stream"}
        ) as answer,
    ):
        lines = [line async for line in answer.aiter_lines()]
    (found,) = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert found["errors"][0]["extensions"] == TIMEOUT


async def test_a_subscription_outlives_an_answer_that_took_too_long(
    api: Api, url: str, run: str, slow: pytest.MonkeyPatch
) -> None:
    query = "subscription ($id: ID!) { run(id: $id) { status experiment { runs { totalCount } } } }"
    async with connected(url) as socket:
        await socket.ask(query, id=run)
        first = await socket.receive()
        assert first["payload"]["errors"][0]["extensions"] == TIMEOUT
        slow.undo()
        await asyncio.to_thread(Graph(api.send).cancel, run)
        assert (await socket.next())["status"] == "CANCELLED"
