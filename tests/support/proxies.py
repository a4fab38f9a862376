"""Real proxies in front of a server: nginx, and JupyterHub's jupyter-server-proxy.

Jupyter is installed apart:

    python3 -m venv .cache/jupyter &&
        .cache/jupyter/bin/pip install 'jupyter-server>=2.21' 'jupyter-server-proxy>=4.6'
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import trustme

from tests.support.node import CACHE
from tests.support.server import free_port, wait_until

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
JUPYTER = CACHE / "jupyter" / "bin" / "python"
CONF = """
daemon off; master_process off; worker_processes 1;
pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections 100; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
    server {{
        listen 127.0.0.1:{port}{tls};
        location /train/ {{
            proxy_pass {url}{passed};
            proxy_http_version 1.1;
            {host}
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }}
    }}
}}
"""


@contextmanager
def nginx(
    directory: Path,
    url: str,
    *,
    strips: bool = True,
    host: str = "$http_host",
    tls: bool = False,
) -> Iterator[str]:
    """Serve `url` under /train, and yield the address.

    Args:
        strips: nginx takes the prefix away before it passes a request on.
        host: the Host that it passes on; empty: as nginx does by default.
        tls: it speaks https, with a certificate that nobody knows.
    """
    assert NGINX is not None, "nginx is not installed"
    directory.mkdir()
    port = free_port()
    conf = directory / "nginx.conf"
    header = f"proxy_set_header Host {host};" if host else ""
    passed = "/" if strips else ""
    secured = f" ssl; ssl_certificate {directory}/pem; ssl_certificate_key {directory}/pem"
    conf.write_text(
        CONF.format(
            dir=directory, port=port, url=url, host=header, passed=passed,
            tls=secured if tls else "",
        )
    )  # fmt: skip
    if tls:
        certificate = trustme.CA().issue_cert("127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(directory / "pem")
    process = subprocess.Popen([NGINX, "-c", conf, "-e", directory / "error.log"])
    address = f"{'https' if tls else 'http'}://127.0.0.1:{port}/train"
    try:
        _answers(f"{address}/healthz")
        yield address
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def jupyter(directory: Path, port: int) -> Iterator[str]:
    """Serve a port of this machine under /proxy/{port} of a Jupyter server, and yield the address.

    The Jupyter server asks for no token of its own.
    """
    assert JUPYTER.exists(), __doc__
    directory.mkdir()
    own = free_port()
    environment = {
        **os.environ,
        "HOME": str(directory),
        "JUPYTER_CONFIG_DIR": str(directory / "config"),
        "JUPYTER_DATA_DIR": str(directory / "share"),
        "JUPYTER_RUNTIME_DIR": str(directory / "runtime"),
    }
    command = [
        str(JUPYTER), "-m", "jupyter_server", f"--ServerApp.port={own}", "--ServerApp.ip=127.0.0.1",
        "--ServerApp.open_browser=False", "--ServerApp.allow_root=True", "--ServerApp.token=",
        "--ServerApp.password=", f"--ServerApp.root_dir={directory}",
        "--ServerApp.jpserver_extensions={'jupyter_server_proxy': True}",
    ]  # fmt: skip
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=directory)
        address = f"http://127.0.0.1:{own}/proxy/{port}"
        try:
            _answers(f"{address}/healthz")
            yield address
        finally:
            process.terminate()
            process.wait(60)


def _answers(url: str) -> None:
    def answers() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(url, timeout=60, verify=False).status_code == 200
        return False

    wait_until(answers, f"{url} answers")
