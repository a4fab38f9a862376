"""Fixtures of the tests of the trainer's side: a server that takes reports, and LLM_TRAIN_*.

And a server that nobody trusts, for all that connect to one.
"""

import os
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from llm_train import connection, sender

from tests.support.reports import ReportServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReportServer]:
    """A server that takes reports; a reporter beside it has no second to lose."""
    monkeypatch.setattr(sender, "FLUSH_SECONDS", 0.05)
    monkeypatch.setattr(sender, "BACKOFF_SECONDS", (0.02, 0.1))
    monkeypatch.setattr(connection, "TIMEOUT_SECONDS", 0.3)
    server = ReportServer()
    yield server
    server.stop()
    assert server.errors == []


@pytest.fixture
def environment(
    server: ReportServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The environment of a trainer that the service launched, and its signal handlers."""
    for name in list(os.environ):
        if name.startswith("LLM_TRAIN_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LLM_TRAIN_API_URL", server.url)
    monkeypatch.setenv("LLM_TRAIN_RUN_ID", "run_1")
    monkeypatch.setenv("LLM_TRAIN_RUN_TOKEN", "secret")
    monkeypatch.setenv("LLM_TRAIN_ATTEMPT", "1")
    monkeypatch.setenv("LLM_TRAIN_RUN_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # for what is saved where the service does not say
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed but itself."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(path), "-out", str(path.with_suffix(".crt"))]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[str]:
    """A server behind TLS whose every answer is a proxy's page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = b"<html>no such page</html>"
            self.send_response(404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            pass  # clients that do not trust us

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
