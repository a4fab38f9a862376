"""Clients that hold connections and say nothing, or never come to an end: the service goes on."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.server import Server, wait_until
from tests.support.service import Service, home
from tests.support.wire import ask

MANY = 1_300
POST = b"POST /v1/experiments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
WEBSOCKET = (
    b"GET /graphql HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
)
UNFINISHED = (b"", POST, POST + b"Content-Length: 9\r\n\r\n{", WEBSOCKET)
ENDLESS = {
    "a path": (b"GET /", b"x"),
    "a header's name": (POST, b"x"),
    "a header's value": (POST + b"X: ", b"x"),
    "headers": (POST, b"X-Header: some value\r\n"),
    "the size of a chunk": (CHUNKED, b"0"),
    "an extension of a chunk": (CHUNKED + b"1;", b"x"),
    "trailers": (CHUNKED + b"1\r\n{\r\n0\r\n", b"X-Trailer: some value\r\n"),
}


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


@pytest.mark.parametrize("what", ENDLESS)
def test_what_has_no_end_is_cut_off(server: Server, what: str) -> None:
    begin, more = ENDLESS[what]
    block, sent = more * (16_384 // len(more)), 0
    with connect(server.url) as connection:
        with suppress(ConnectionError):
            connection.sendall(begin)
            while sent < 50_000_000:
                connection.sendall(block)
                sent += len(block)
        # What the kernels of both sides hold beyond what the service has read.
        assert sent < 20_000_000
    assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_a_head_that_is_too_large_is_told_so(server: Server) -> None:
    fits = POST.replace(b"POST", b"GET") + b"X: " + b"x" * 60_000 + b"\r\n\r\n"
    assert ask(server, fits)[0] == 200
    status, answer = ask(server, POST + b"X: " + b"x" * 66_000)
    assert (status, b'"code":"head_too_large"' in answer) == (431, True)


def test_large_messages_before_a_websocket_is_let_in_cost_no_memory(server: Server) -> None:
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    size = 7_900_000
    head = bytes([0x81, 0x80 | 127]) + size.to_bytes(8) + bytes(4)
    highest = before
    with ExitStack() as stack:
        for _ in range(100):
            connection = stack.enter_context(connect(server.url))
            connection.sendall(WEBSOCKET)
            assert connection.recv(1000).startswith(b"HTTP/1.1 101")
            with suppress(ConnectionError):  # all but the last byte
                connection.sendall(head + b"x" * (size - 1))
            highest = max(highest, process.memory_info().rss)
    assert highest - before < 100_000_000
    assert httpx.get(f"{server.url}/healthz").status_code == 200


@pytest.fixture
def beset(tmp_path: Path) -> Iterator[tuple[Service, list[socket.socket]]]:
    """A service that may have 1,024 descriptors, and many clients that let it wait."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, MANY + 500), hard))
    with home(tmp_path) as place, place.serve() as service, ExitStack() as stack:
        psutil.Process(service.pid).rlimit(psutil.RLIMIT_NOFILE, (1024, 1024))
        # A kept connection may be closed for want of room just when it is used again.
        fresh = httpx.Client(timeout=20, limits=httpx.Limits(max_keepalive_connections=0))
        service.http = stack.enter_context(fresh)
        hostile = []
        for number in range(MANY):
            connection = stack.enter_context(connect(service.url))
            connection.sendall(
                (b"", POST, POST + b"Content-Length: 9\r\n\r\n{", WEBSOCKET)[number % 4]
            )
            hostile.append(connection)
        yield service, hostile
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_idle_and_half_sent_connections_keep_nobody_out(
    beset: tuple[Service, list[socket.socket]],
) -> None:
    service, hostile = beset
    # While they are held: a client is answered, and a trainer starts and ends.
    assert httpx.get(f"{service.url}/readyz", timeout=10).status_code == 200
    run = service.submit("obedient", steps=5)
    ended = service.ended(run)
    assert ended["status"] == "succeeded", (ended, service.log.read_text()[-3000:])
    # And in the end all that said nothing are closed; a body may take longer.
    silent = [each for number, each in enumerate(hostile) if number % 4 != 2]
    process = psutil.Process(service.pid)

    def left() -> int:
        ports = {c.raddr.port for c in process.net_connections("tcp") if c.raddr}
        return sum(each.getsockname()[1] in ports for each in silent)

    wait_until(lambda: left() == 0, lambda: f"they are closed: {left()}")
