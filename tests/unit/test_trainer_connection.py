"""The way to the service: proxies, certificates and prefixes, and what is said of them."""

import base64
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from llm_train import Reporter, connection, sender, specs

from tests.support.reports import ReportServer


class Proxy(ThreadingHTTPServer):
    """An HTTP proxy that notes what it was asked for."""

    def __init__(self) -> None:
        asked: list[tuple[str, str, str | None]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                asked.append(("CONNECT", self.path, self.headers["Proxy-Authorization"]))
                self.send_error(502)

            def do_POST(self) -> None:
                asked.append(("POST", self.path, self.headers["Proxy-Authorization"]))
                self.rfile.read(int(self.headers["Content-Length"]))
                content = b'{"batch": 1, "should_stop": false}'
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = asked
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    proxy = Proxy()
    for name in ("HTTPS_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://me:p%40ss@127.0.0.1:{proxy.server_port}")
    yield proxy
    proxy.shutdown()
    proxy.server_close()


def post(url: str) -> connection.Response:
    link = connection.ApiConnection(url, "/v1/runs/run_1/reports", "secret")
    reply = link.post(b'{"attempt": 1, "batch": 1}')
    link.close()
    return reply


def test_a_service_elsewhere_is_reached_through_the_proxy(proxy: Proxy) -> None:
    word = "Basic " + base64.b64encode(b"me:p@ss").decode()
    reply = post("https://train.example.com/prefix")
    assert "502" in reply.trouble
    assert proxy.asked == [("CONNECT", "train.example.com:443", word)]
    assert post("http://train.example.com:8000/prefix").delivered
    url = "http://train.example.com:8000/prefix/v1/runs/run_1/reports"
    assert proxy.asked[1:] == [("POST", url, word)]


def test_no_proxy_and_this_machine_are_reached_directly(
    proxy: Proxy, server: ReportServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert post(server.url).delivered
    monkeypatch.setenv("NO_PROXY", ".example.invalid")
    assert post("https://train.example.invalid").status == 0
    assert proxy.asked == []


def test_a_proxy_that_cannot_be_used_is_named(
    server: ReportServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    assert post("https://train.example.invalid").status == 0
    assert "the proxy of https must be http://host[:port]" in capfd.readouterr().err


def test_an_untrusted_certificate_and_a_wrong_prefix_are_told_as_what_they_are(
    secure: str,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sender, "SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(specs, "SPEC_TIMEOUT_SECONDS", 0)
    monkeypatch.setattr(specs, "RETRY_SECONDS", 0.01)
    given: dict[str, Any] = {"api_url": secure + "/prefix", "run_id": "run_1", "token": "secret"}
    with Reporter(**given) as training, pytest.raises(ConnectionError, match="SSL_CERT_FILE"):
        training.log(1, loss=1.0)
        _ = training.hyperparams
        training.close(0.5)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_suffix(".crt")))
    with Reporter(**given) as training:
        training.log(1, loss=1.0)
        training.close(0.5)
    first, *_, last = capfd.readouterr().err.splitlines()
    assert "its certificate is not trusted" in first
    assert f"{secure}/prefix/v1/runs/run_1/reports answers 404, and not as this service" in last


def test_a_port_without_a_service_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert f"{url}: " in post(url).trouble
        assert "refused" in post(url).trouble
