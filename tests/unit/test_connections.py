"""Deadlines of connections: of uploads, of bodies that stand still, of idle clients."""

import asyncio
from typing import Any
from unittest.mock import Mock

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from app.server import connections
from app.server.connections import BODY_SECONDS, UPLOAD_RATE, HttpConnection


async def reads_nothing(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()


@pytest.mark.anyio
@pytest.mark.parametrize(("method", "more"), [("PUT", 10.0), ("POST", 0.0)])
async def test_only_a_file_that_goes_on_arriving_has_more_time(method: str, more: float) -> None:
    state = ServerState()
    config = Config(reads_nothing, log_config=None, lifespan="off")
    config.load()
    connection = HttpConnection(config, state, {})
    transport = Mock(**{"is_closing.return_value": False, "get_extra_info.return_value": None})
    connection.connection_made(transport)
    connection.data_received(
        f"{method} /x HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n".encode()
    )
    begun = connection.deadline
    connection.data_received(b"x" * UPLOAD_RATE * 10)
    assert connection.deadline == pytest.approx(begun + more)
    connection.flow.resume_reading()
    connection.close_if_late(begun + BODY_SECONDS - 60 + more - 1)
    assert not transport.abort.called
    connection.close_if_late(begun + more + 1)
    assert transport.abort.called
    connection.connection_lost(None)
    for task in state.tasks:
        task.cancel()


async def says_ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.anyio
async def test_a_request_that_came_while_the_service_was_held_up_is_not_reset() -> None:
    """After a pause of the process uvloop runs what is due before it reads what has arrived."""
    state = ServerState()
    config = Config(says_ok, log_config=None, lifespan="off")
    config.load()
    connection = HttpConnection(config, state, {})
    transport = Mock(**{"is_closing.return_value": False, "get_extra_info.return_value": None})
    connection.connection_made(transport)
    request = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
    for _ in range(2):
        connection.data_received(request)
        await asyncio.wait(state.tasks)
        late = connection.deadline + 60
        connection.timeout_keep_alive_handler()
        connection.close_if_late(late)
        assert not (transport.abort.called or transport.close.called)
    assert transport.write.call_count >= 2, "both were answered"
    connection.close_if_late(late + 1)
    assert transport.abort.called, "a client that sends nothing more is closed at the second look"
    connection.connection_lost(None)


@pytest.mark.anyio
async def test_each_of_many_that_come_at_once_closes_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is closed for want of room is open until the next round of the loop."""
    monkeypatch.setattr(connections, "most_connections", lambda: 2)
    state = ServerState()
    config = Config(reads_nothing, log_config=None, lifespan="off")
    config.load()
    transports = [Mock(**{"get_extra_info.return_value": None}) for _ in range(5)]
    for transport in transports:
        HttpConnection(config, state, {}).connection_made(transport)
    assert [transport.abort.call_count for transport in transports] == [1, 1, 1, 0, 0]
