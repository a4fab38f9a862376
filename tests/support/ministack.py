"""A real S3 server for tests, `ministack`, and a gate before it that can be shut or made careless.

It is installed apart, since it holds other packages to older versions:

    python3 -m venv .cache/ministack && .cache/ministack/bin/pip install 'ministack>=1.5'
"""

import os
import re
import shutil
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Self
from urllib.request import Request, urlopen

import obstore
from obstore.store import S3Store

from tests.support.buckets import NAME
from tests.support.server import REPOSITORY, free_port, wait_until

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "root",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-service",
    "AWS_REGION": "us-east-1",
}
_OWN = REPOSITORY / ".cache/ministack/bin/ministack"


@contextmanager
def ministack(directory: Path) -> Iterator[str]:
    """Serve S3 with the bucket `checkpoints`; yield the URL. Credentials are in the environment."""
    program = str(_OWN) if _OWN.exists() else shutil.which("ministack")
    assert program, __doc__
    port = free_port()
    environment = {**os.environ, **CREDENTIALS, "AUTH": "true", "GATEWAY_PORT": str(port)}
    with (directory / "ministack.log").open("wb") as log:
        process = subprocess.Popen([program], env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: connects(port), "ministack answers")
        make_bucket(url := f"http://127.0.0.1:{port}")
        yield url
    finally:
        process.terminate()
        process.wait(60)


def connects(port: int) -> bool:
    """Return True if somebody listens there."""
    with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), 1)):
        return True
    return False


def make_bucket(url: str, credentials: Mapping[str, str] = CREDENTIALS) -> None:
    """Make the bucket of the tests on a server."""
    store = S3Store(
        NAME, endpoint=url, region=credentials["AWS_REGION"],
        access_key_id=credentials["AWS_ACCESS_KEY_ID"],
        secret_access_key=credentials["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True},
    )  # fmt: skip
    with urlopen(
        Request(obstore.sign(store, "PUT", "", timedelta(minutes=1)), method="PUT")
    ) as got:
        assert got.status == 200


class Gate:
    """Forwards connections to a server, unless it is shut. It listens on `address`.

    `is_careless`: it takes If-None-Match out of the requests, like servers that ignore it.
    """

    def __init__(self, target: str, address: str = "127.0.0.1") -> None:
        host, port = target.removeprefix("http://").split(":")
        self._target = host, int(port)
        self.is_shut = self.is_careless = False
        self._open: set[socket.socket] = set()
        gate = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                gate._forward(self.request)

        self._server = socketserver.ThreadingTCPServer((address, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{address}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()
        self._server.shutdown()
        self._server.server_close()

    def shut(self) -> None:
        """Refuse connections, and break those that are open."""
        self.is_shut = True
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _forward(self, client: socket.socket) -> None:
        if self.is_shut:
            return
        with (
            suppress(ConnectionRefusedError),
            closing(socket.create_connection(self._target)) as server,
        ):
            self._open |= {client, server}
            back = threading.Thread(
                target=self._copy, args=(server, client, self._answered, client), daemon=True
            )
            back.start()
            self._copy(client, server, self._asked, client)
            back.join()
            self._open -= {client, server}

    def _copy(
        self, source: socket.socket, target: socket.socket,
        look: Callable[[socket.socket, bytes], bytes], client: socket.socket,
    ) -> None:  # fmt: skip
        with suppress(OSError):
            while content := source.recv(1 << 16):
                target.sendall(look(client, content))
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _asked(self, client: socket.socket, content: bytes) -> bytes:
        """Return the bytes to pass to the server for this piece of a client's request."""
        if self.is_careless:
            return re.sub(b"(?i)if-none-match", b"xf-none-match", content)
        return content

    def _answered(self, client: socket.socket, content: bytes) -> bytes:
        """Return the bytes to pass to the client for this piece of an answer."""
        return content
