"""MLflow's own tracking server, with a database and artifacts, as other teams run it.

It is installed apart: the whole of MLflow holds graphql-core and others to older versions.

    python3 -m venv .cache/mlflow && .cache/mlflow/bin/pip install 'mlflow>=3.10'
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.server import REPOSITORY, free_port, wait_until

PYTHON = REPOSITORY / ".cache" / "mlflow" / "bin" / "python"


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Serve FOLDER/mlflow.db and FOLDER/artifacts; yield the URL."""
    assert PYTHON.exists(), __doc__
    port = free_port()
    command = [
        str(PYTHON), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("MLFLOW_", "PYTHONPATH"))
    }
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # more processes, unused here
    url, log = f"http://127.0.0.1:{port}", folder / "mlflow.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # a group of its own: it starts workers
            command, cwd=folder, env=environment, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: _answers(url), lambda: log.read_text()[-3000:], 180)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=60, verify=False).status_code == 200
    except httpx.HTTPError:
        return False
