"""Raw bytes to a server, and what it answers."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support.server import Server


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        yield connection


def ask(server: Server, request: bytes, *, shut: bool = False) -> tuple[int, bytes]:
    """Status and all bytes of the answer to a raw request; 0: the server just hung up."""
    with connected(server) as connection:
        with suppress(ConnectionError):
            connection.sendall(request)
            if shut:
                connection.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionError, TimeoutError):
            while b"\r\n\r\n" not in answer or not complete(answer):
                if not (part := connection.recv(65536)):
                    break
                answer += part
    found = re.match(rb"HTTP/1.1 (\d+)", answer)
    return (int(found[1]) if found else 0), answer


def complete(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return length is not None and len(body) >= int(length[1])
