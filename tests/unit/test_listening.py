"""New clients are let in together: an event loop that is slow does not take them one by one."""

import asyncio
import socket
import threading
from typing import Any

import pytest
import uvicorn

from app.server import listening

CLIENTS = 40
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


class SlowApp:
    """An app whose first request holds up the loop until all clients have sent theirs.

    Attributes:
        rounds: of the loop until now.
        answered_in: the round in which each request was answered.
    """

    def __init__(self, all_sent: threading.Event) -> None:
        self.rounds = 0
        self.answered_in: list[int] = []
        self._all_sent = all_sent

    def count_round(self) -> None:
        self.rounds += 1
        if len(self.answered_in) < CLIENTS:
            asyncio.get_running_loop().call_soon(self.count_round)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self.answered_in:
            self.count_round()
            self._all_sent.wait(60)
        self.answered_in.append(self.rounds)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def test_forty_clients_at_once_are_let_in_within_a_few_rounds_of_the_loop() -> None:
    assert rounds_until_all_are_answered() < 15


def test_with_one_descriptor_each_client_takes_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "ACCEPTED_AT_ONCE", 1)
    assert rounds_until_all_are_answered() > 20


def rounds_until_all_are_answered() -> int:
    """Return how many rounds of the loop passed between the first answer and the last."""
    all_sent = threading.Event()
    app = SlowApp(all_sent)
    server = uvicorn.Server(uvicorn.Config(app, loop="uvloop", lifespan="off", log_config=None))
    sock = socket.create_server(("127.0.0.1", 0), backlog=CLIENTS)
    address = sock.getsockname()
    thread = threading.Thread(target=listening.run, args=(server, sock))
    thread.start()
    try:
        clients = [send_request(address) for _ in range(CLIENTS)]
        all_sent.set()
        for client in clients:
            with client:
                assert client.recv(100).startswith(b"HTTP/1.1 204")
    finally:
        all_sent.set()
        server.should_exit = True
        thread.join(60)
    with pytest.raises(OSError):  # every descriptor is closed
        socket.create_connection(address)
    return app.answered_in[-1] - app.answered_in[0]


def send_request(address: tuple[str, int]) -> socket.socket:
    client = socket.create_connection(address, timeout=60)
    client.sendall(REQUEST)
    return client
