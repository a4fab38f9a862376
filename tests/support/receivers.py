"""Who is told: a receiver of webhooks and a mail server, both real and on this machine.

with receiving() as receiver:        # POST to receiver.url; what came is in receiver.received
post = Post(); post.controller.start()           # SMTP at post.url(); post.box.received
"""

import asyncio
import email
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from tests.support.server import free_port


class Receiver(ThreadingHTTPServer):
    """Records what is POSTed to it. `status` is what it answers; None: nothing, for `hang` s."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.status: int | None = 204
        self.hang = 0.0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook?a=1"

    def types(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.received]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        time.sleep(self.server.hang)
        self.server.received.append((headers | {"path": self.path}, body))
        if self.server.status is not None:
            self.send_response(self.server.status)
            if self.server.status == 302:
                self.send_header("location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on this machine."""
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()


class Mailbox:
    """Keeps what arrives. `answer`: what the server says instead of taking it; `unknown`:
    recipients that it does not have.
    """

    def __init__(self) -> None:
        self.received: list[tuple[list[str], Any]] = []
        self.answer: str | None = None
        self.hang = 0.0
        self.unknown: set[str] = set()

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if address in self.unknown:
            return "550 nobody of this name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        await asyncio.sleep(self.hang)
        if self.answer is not None:
            return self.answer
        message = email.message_from_bytes(envelope.content, policy=default)
        self.received.append((envelope.rcpt_tos, message))
        return "250 OK"


class Post:
    """A mail server on this machine, which wants a password."""

    def __init__(self) -> None:
        self.box, self.port = Mailbox(), free_port()
        self.logins: list[tuple[bytes, bytes]] = []
        self.controller = Controller(
            self.box, hostname="127.0.0.1", port=self.port, authenticator=self._let_in,
            auth_require_tls=False,
        )  # fmt: skip

    def _let_in(self, server: Any, session: Any, envelope: Any, how: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"p@ss", handled=False)

    def url(self, password: str = "p%40ss") -> str:
        return f"smtp://me:{password}@127.0.0.1:{self.port}"
