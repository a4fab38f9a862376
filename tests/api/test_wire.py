"""What arrives as bytes on a real connection: large, endless, lying and broken requests."""

import json
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.server import Server, running_server, wait_until
from tests.support.wire import ask, connected

BODY = b'{"name": "a", "task_type": "b"}'
TEN_MB = b'{"name": "' + b"x" * 10_000_000 + b'"}'


def post(*headers: bytes, body: bytes = b"", host: bytes = b"Host: localhost") -> bytes:
    lines = [b"POST /v1/experiments HTTP/1.1", host, b"Content-Type: application/json", *headers]
    return b"\r\n".join(line for line in lines if line) + b"\r\n\r\n" + body


def length(number: int | str) -> bytes:
    return f"Content-Length: {number}".encode()


@pytest.fixture(autouse=True)
def nothing_changed(server: Server) -> Iterator[None]:
    """No experiment more than before, a server that answers, and no traceback in its log."""
    url = f"{server.url}/v1/experiments?limit=1000"
    before = httpx.get(url).json()
    yield
    assert httpx.get(url).json() == before
    assert "Traceback" not in server.log.read_text()


def test_a_request_written_like_these_reaches_the_service(server: Server) -> None:
    # And so what is refused below is refused for what is wrong with it.
    status, answer = ask(server, post(length(4), body=b"null"))
    assert (status, b'"code":"invalid_input"' in answer) == (422, True)


def test_10_mb_are_refused_before_they_are_sent(server: Server) -> None:
    status, answer = ask(server, post(length(len(TEN_MB))))
    assert (status, b'"code":"body_too_large"' in answer) == (413, True)


@pytest.mark.parametrize("chunked", [False, True])
def test_10_mb_from_an_ordinary_client_are_refused(server: Server, chunked: bool) -> None:
    def parts() -> Iterator[bytes]:
        for start in range(0, len(TEN_MB), 65536):
            yield TEN_MB[start : start + 65536]

    answer = httpx.post(
        f"{server.url}/v1/experiments",
        content=parts() if chunked else TEN_MB,
        headers={"content-type": "application/json"},
        timeout=30,
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_an_endless_body_costs_no_memory(server: Server) -> None:
    process = psutil.Process(server.pid)
    before, highest = process.memory_info().rss, 0
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with connected(server) as connection, suppress(ConnectionError):
        connection.sendall(post(b"Transfer-Encoding: chunked"))
        for _ in range(1600):  # 100 MB
            connection.sendall(chunk)
            highest = max(highest, process.memory_info().rss)
    assert highest - before < 40_000_000


def test_more_than_was_announced_is_cut_off(server: Server) -> None:
    status, _ = ask(server, post(length(5), body=BODY))  # the rest is a second, broken request
    assert status == 400


def test_less_than_was_announced_is_no_request(server: Server) -> None:
    status, _ = ask(server, post(length(len(BODY) + 1), body=BODY), shut=True)
    assert status == 0


@pytest.mark.parametrize(
    "request_",
    [
        post(length(-1), body=BODY),
        post(length("0x1f"), body=BODY),
        post(length("9" * 5000), body=BODY),
        post(length("1e3"), body=BODY),
        post(length("²"), body=BODY),
        post(length(31), length(32), body=BODY),
        post(length(31), b"Transfer-Encoding: chunked", body=BODY),
        post(b"Transfer-Encoding: chunked", body=b"zz\r\n" + BODY),
        post(b"Transfer-Encoding: gzip", length(31), body=BODY),
        post(length(31), body=BODY, host=b""),
        post(length(31), b"Host: evil.example", body=BODY),
        post(length(31), body=BODY, host=b"Host: localhost\x00"),
        post(length(31), b"Idempotency-Key: a\nX: b\x00", body=BODY),
        post(length(31), b"Idempotency-Key: \x01", body=BODY),
        post(length(31), b"Idempotency-Key : a\x7f", body=BODY),
        post(length(31), b"Content-Type: application/json", body=BODY),
        post(length(31), body=BODY).replace(b"HTTP/1.1", b"HTTP/9.9"),
        post(length(31), body=BODY).replace(b"/v1/experiments", b"/v1/experiments\x00"),
        post(length(31), body=BODY).replace(b"POST", b"P\xd6ST"),
        post(length(31), body=BODY).replace(b"/v1/", b"/v1/../v1/"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"\x00" * 100,
        b"{}\r\n\r\n",
    ],
    ids=lambda request: repr(request.replace(b"\r\n", b" ")[:70]),
)
def test_a_broken_request_is_refused(server: Server, request_: bytes) -> None:
    status, answer = ask(server, request_, shut=True)
    assert status == 0 or 400 <= status < 500, answer
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"application/problem+json" in head:
        assert json.loads(body)["status"] == status


def test_a_client_that_leaves_halfway_leaves_no_connection(server: Server) -> None:
    process = psutil.Process(server.pid)

    def open_ones() -> int:
        return sum(c.status == psutil.CONN_ESTABLISHED for c in process.net_connections("tcp"))

    wait_until(lambda: open_ones() == 0, "no connection is open")
    with connected(server) as connection:
        connection.sendall(post(length(100), body=BODY))
        wait_until(lambda: open_ones() == 1, "the connection is open")
    wait_until(lambda: open_ones() == 0, "the connection is closed")


@pytest.mark.parametrize("path", ["/v1/experiments", "/graphql", "/v1/nothing", "/healthz"])
@pytest.mark.parametrize("size", [9_000_000, 30_000_000])
def test_a_client_that_sends_all_before_it_reads_gets_the_answer(
    server: Server, path: str, size: int
) -> None:
    # urllib, as most simple clients, looks for the answer when it has sent the whole body, and
    # asks that the connection be closed.
    request = urllib.request.Request(
        server.url + path, b"x" * size, {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert (refused.value.code, refused.value.headers["connection"]) == (413, "close")
    assert b"8388608 bytes" in refused.value.read()


def test_an_answer_after_which_the_connection_closes_says_so(tmp_path: Path) -> None:
    # Whoever would reuse it must not lose the next request. (A bug of the service: the table is
    # gone.)
    with running_server(tmp_path) as server, httpx.Client(base_url=server.url) as client:
        with closing(sqlite3.connect(tmp_path / "app.db")) as database:
            database.execute("DROP TABLE experiment_tag")
        answer = client.get("/v1/experiments?tags=a")
        assert (answer.status_code, answer.headers["connection"]) == (500, "close")
        assert client.get("/healthz").status_code == 200


def test_a_refused_websocket_is_no_error_of_the_service(server: Server) -> None:
    head = (
        b"GET /%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    before = server.log.read_text()
    for path, host, expected in (
        (b"graphql", b"evil.example", 403),
        (b"nothing", b"localhost", 403),
    ):
        assert ask(server, head % (path, host))[0] == expected
    assert server.log.read_text() == before


def test_every_address_means_those_of_ipv4_too(tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        return  # this machine has no IPv6, and so no address `::`
    # The test's server waits for http://127.0.0.1:…/healthz.
    with running_server(tmp_path, HOST="::", API_TOKEN="t" * 20) as server:
        port = server.url.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]"):
            assert httpx.get(f"http://{host}:{port}/healthz").status_code == 200
