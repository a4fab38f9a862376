"""A checkpoint's file may take hours to arrive, and a body that stands still may not."""

import asyncio
from typing import Any
from unittest.mock import Mock

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

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
