"""Behind a real nginx, as it comes: compressing, buffering, under a prefix of its own."""

import shutil
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.support.server import free_port, running_server, wait_until
from tests.support.service import running

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
CONF = """
daemon off; master_process off; worker_processes 1;
pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections 100; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any;
    server {{
        listen 127.0.0.1:{port};
        location /training/ {{ proxy_pass {url}/; proxy_http_version 1.1; }}
    }}
}}
"""


@contextmanager
def nginx(directory: Path, url: str) -> Iterator[str]:
    """A proxy for a service, at the address it yields."""
    assert NGINX is not None
    directory.mkdir()
    port = free_port()
    conf = directory / "nginx.conf"
    conf.write_text(CONF.format(dir=directory, port=port, url=url))
    process = subprocess.Popen([NGINX, "-c", conf, "-e", directory / "error.log"])
    address = f"http://127.0.0.1:{port}/training"

    def answers() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{address}/healthz").status_code == 200
        return False

    try:
        wait_until(answers, (directory / "error.log").read_text)
        yield address
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_a_log_that_is_followed_comes_line_by_line(tmp_path: Path, accept: str) -> None:
    with running(tmp_path) as service, nginx(tmp_path / "nginx", service.url) as address:
        run = service.submit("obedient", steps=10**6, step_seconds=0.02)
        service.stepping(run)
        log = service.data_dir / "runs" / run / "train.log"
        url = f"{address}/v1/experiments/{service.experiment}/runs/{run}/logs?follow=true"
        headers = {"Accept": accept, "Accept-Encoding": "gzip"}
        with httpx.stream("GET", url, headers=headers, timeout=60) as answer:
            unpack, found = zlib.decompressobj(wbits=31), b""
            packed = answer.headers.get("content-encoding") == "gzip"
            parts = answer.iter_raw()
            for number in range(3):
                line = b"line %d of a test\n" % number
                with log.open("ab") as file:
                    file.write(line)
                while line not in found:  # or there is nothing for 10 s, which is an error
                    part = next(parts)
                    found += unpack.decompress(part) if packed else part
        service.cancel(run)
        service.ended(run)


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_every_link_leads_through_the_proxy(tmp_path: Path) -> None:
    with (
        running_server(tmp_path, ROOT_PATH="/training") as server,
        nginx(tmp_path / "nginx", server.url) as address,
    ):
        host = address.removesuffix("/training")
        links = httpx.get(f"{address}/").json()
        assert httpx.get(host + links["openapi"]).json()["servers"] == [{"url": "/training"}]
        assert httpx.get(host + links["health"]).json() == {"status": "ok"}
