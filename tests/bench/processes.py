"""The rows of the bench about processes: start, idle memory, installed size, launch."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.bench.fixture import Workbench, call
from tests.bench.report import Figure, Target, figure
from tests.bench.rows import in_turns
from tests.support.server import REPOSITORY, Server, free_port, wait_until

MB = 1_000_000
CACHE = REPOSITORY / "build" / "bench"
IDLE_SECONDS = 1.0


@contextmanager
def started(directory: Path, *command: str) -> Iterator[tuple[Server, float]]:
    """A fresh process in an empty directory, and the seconds from its start to its first answer.

    `{port}` and `{directory}` in the command are filled in; it is ended with its whole group.
    """
    home, port = Path(tempfile.mkdtemp(dir=directory)), free_port()
    database_url = f"sqlite:///{home / 'app.db'}"
    settings = {
        "LLM_TRAIN_PORT": str(port),
        "LLM_TRAIN_DATA_DIR": str(home / "data"),
        "LLM_TRAIN_DATABASE_URL": database_url,
    }
    environment = os.environ | settings
    # Where it is set, a module that was changed since is compiled again by every start. An
    # installation has its bytecode, as the bare cell's packages have.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    log = home / "log"
    with log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            [part.format(port=port, directory=home) for part in command],
            cwd=REPOSITORY,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        while not answers(port):
            if process.poll() is not None or time.perf_counter() - began > 60:
                raise RuntimeError(f"{command} did not start:\n{log.read_text()[-2_000:]}")
            time.sleep(0.001)
        seconds = time.perf_counter() - began
        yield Server(f"http://127.0.0.1:{port}", process.pid, log, home, database_url), seconds
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: int) -> bool:
    """Return True if `GET /` has an answer of 200; an error is no first answer."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return connection.recv(1024).startswith(b"HTTP/1.1 200")
    return False


def start_and_idle(directory: Path, memory: list[float], *command: str) -> float:
    """Seconds to the first answer; the idle memory in MB joins `memory`."""
    with started(directory, *command) as (server, seconds):
        time.sleep(IDLE_SECONDS)
        memory.append(resident(server.pid) / MB)
        return seconds


OURS = (sys.executable, "-m", "app.main")
BARE = (sys.executable, "-m", "tests.bench.bare_start")


def start(bench: Workbench) -> list[Figure]:
    memory: tuple[list[float], list[float]] = ([], [])
    ours, bare = in_turns(
        1 if bench.quick else 9,  # a busy machine makes one start half as long again
        lambda: start_and_idle(bench.directory, memory[0], *OURS),
        lambda: start_and_idle(bench.directory, memory[1], *BARE),
    )
    limit = Target("at most", 90, of="ours")
    return [
        figure("start", "start to first answer", "s", ours, bare, Target("at most", 1.4)),
        figure("start", "idle memory", "MB RSS", *memory, limit),
    ]


def resident(pid: int) -> int:
    """Bytes, with all children."""
    process = psutil.Process(pid)
    return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])


def size(bench: Workbench) -> list[Figure]:
    """`pip install .` without extras into a fresh environment, kept until dependencies change."""
    wanted = hashlib.sha256((REPOSITORY / "pyproject.toml").read_bytes()).hexdigest()[:12]
    home = CACHE / f"size-{wanted}"
    if not (home / "complete").exists():
        if bench.quick:
            return []
        venv.create(home, clear=True, with_pip=False)
        pip_install(home, str(REPOSITORY))
        (home / "complete").touch()
    used = sum(path.lstat().st_blocks * 512 for path in home.rglob("*"))
    limit = Target("at most", 130, of="ours")
    return [figure("size", "installed size, no extras", "MB", [used / MB], target=limit)]


def pip_install(home: Path, *packages: str) -> Path:
    """Install into a virtual environment without a pip of its own; its interpreter."""
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    subprocess.run([*pip, "install", "--quiet", *packages], check=True)
    return python


def launch(bench: Workbench) -> list[Figure]:
    """From sending POST run, or from calling Popen, to the first line that the trainer executes."""
    path = f"/v1/experiments/{bench.experiments['work']}/runs"
    script, log = bench.directory / "first_line.py", bench.directory / "popen.log"

    def ours() -> float:
        began = time.time()
        run_id = call(bench.ours, "POST", path, {"model": "bench", "recipe": "first-line"})[
            "run_id"
        ]
        seen = first_line(bench.ours.data_dir / "runs" / run_id / "train.log") - began
        wait_until(lambda: ended(run_id), "the run has ended", 60)
        return seen * 1_000

    def ended(run_id: str) -> bool:
        return bool(call(bench.ours, "GET", f"{path}/{run_id}/status")["finished_at"])

    def popen() -> float:
        with log.open("wb") as output:
            began = time.time()
            process = subprocess.Popen([sys.executable, str(script)], stdout=output)
            seen = first_line(log) - began
            process.wait()
        return seen * 1_000

    launched, bare = in_turns(8 if bench.quick else 30, ours, popen)
    work, target = "POST run → trainer executing", Target("at most", 6)
    return [figure("launch", work, "ms p50", launched, bare, target)]


def first_line(log: Path) -> float:
    """The time that the trainer wrote as its first line."""

    def line() -> str:
        with suppress(FileNotFoundError):
            head, newline, _ = log.read_text().partition("\n")
            return head if newline else ""
        return ""

    return float(wait_until(line, f"a first line in {log}", 60))
