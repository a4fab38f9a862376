"""A real server process for tests.

`running_server(tmp_path, **settings)` starts `python -m app.main` on a free port with its database
and data directory under `tmp_path`, waits until `/healthz` answers, yields a `Server`, ends it by
its pid and asserts that nothing of it is left; the fixture `server` is one for a whole module.
`wait_until` polls a condition with a deadline.
"""

import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import BinaryIO, TypeVar

import psutil
import pytest

from app.db import migrate
from app.launchers.local import launcher as local_launcher
from tests.support.clock import slowness
from tests.support.forks import Forked, start_command, start_python, without_settings

REPOSITORY = Path(__file__).parents[2]
T = TypeVar("T")


@dataclass(frozen=True)
class Server:
    """A running server: `url` has no trailing slash; `log` holds its stdout and stderr."""

    url: str
    pid: int
    log: Path
    data_dir: Path
    database_url: str


PATIENCE_SECONDS = 180.0
"""How long a test waits for what has to happen.

What takes a second on an idle machine takes a minute on one at a quarter of its speed where six
suites and their clusters run. What must happen *soon* is another promise: see `clock.is_soon`.
"""
LEFT_SECONDS = PATIENCE_SECONDS
"""How long what a server has started may take to end after it."""
END_SECONDS = 15.0
"""How long a server may take to end, on an idle machine."""


def wait_until(
    condition: Callable[[], T],
    what: str | Callable[[], str],
    timeout: float = PATIENCE_SECONDS,
    every: float = 0.02,
) -> T:
    """Poll `condition` until it is truthy and return its value; AssertionError after `timeout` s.

    `what` names the thing waited for in the error; a callable is asked when time is up. A condition
    that costs much, such as a look at all processes, is asked less often.
    """
    deadline = time.monotonic() + timeout
    while True:
        asked = time.monotonic()
        if value := condition():
            return value
        if (now := time.monotonic()) > deadline:
            raise AssertionError(
                f"after {timeout:g} s still not: {what() if callable(what) else what}"
            )
        time.sleep(max(every, min(4 * (now - asked), 0.25)))


def remove_tree(path: Path) -> None:
    """Remove a folder in which somebody may still be writing."""

    def is_gone() -> bool:
        shutil.rmtree(path, ignore_errors=True)
        return not path.exists()

    wait_until(is_gone, f"{path} is gone")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago.

    Not one of those that connections begin at: one of these might have it when a server that was
    killed is started again.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def running_server(
    tmp_path: Path,
    *,
    command: Sequence[str] | None = None,
    port: int | None = None,
    code: Path = REPOSITORY,
    keep_trainers: bool = False,
    **settings: str,
) -> Iterator[Server]:
    """Start a server, yield it when it is ready, stop it.

    It finds empty tables; that a server makes them is tested in tests/unit/test_migrations.py and,
    as a user starts it, in tests/packaging/wheels.py.

    Args:
        settings: more settings without their prefix: `MAX_LOCAL_RUNS="2"`.
        port: to start again where a server was before; a free one otherwise.
        command: another program that reads the same environment, instead of a fork (`forks`) of
            one that has imported the service.
        code: the checkout whose `app` is served.
        keep_trainers: leave what the server launched alive, for a test that starts it again; it is
            killed otherwise.

    The same `tmp_path` again finds the same database and data: that is a restart. A body that ends
    the server itself (a crash test kills `server.pid`) is fine.
    """
    port = port or free_port()
    data_dir, log = tmp_path / "data", tmp_path / "server.log"
    environment = without_settings(os.environ) | {
        "PYTHONUNBUFFERED": "1",
        "LLM_TRAIN_HOST": "127.0.0.1",
        "LLM_TRAIN_PORT": str(port),
        "LLM_TRAIN_DATA_DIR": str(data_dir),
        "LLM_TRAIN_DATABASE_URL": f"sqlite:///{tmp_path / 'app.db'}",
        **{f"LLM_TRAIN_{name}": value for name, value in settings.items()},
    }
    if command is None and code == REPOSITORY and "DATABASE_URL" not in settings:
        _give_tables(tmp_path / "app.db")
    with log.open("ab") as output:
        process = _start(command, code, environment, output)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(
            lambda: process.poll() is not None or _healthy(url),
            lambda: f"the server answers /healthz\n{log.read_text()}",
        )
        if process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}\n{log.read_text()}")
        yield Server(url, process.pid, log, data_dir, environment["LLM_TRAIN_DATABASE_URL"])
    except BaseException:
        print(f"{log}, the end of it:\n{log.read_text()[-20_000:]}")  # pytest shows it: it failed
        raise
    finally:
        stuck = _stop(process)
        if not keep_trainers:
            end_trainers(data_dir)
    assert not stuck, f"the server did not end soon after SIGTERM\n{log.read_text()}"
    # A command that a killed server had just started ends by itself, as soon as it has begun.
    wait_until(
        lambda: not _group(process.pid),
        lambda: f"the server leaves no process behind: {_group(process.pid)}",
        LEFT_SECONDS,
    )


def _give_tables(file: Path) -> None:
    """Make a SQLite database with empty tables if there is none, quicker than a server would."""
    if not file.exists():
        file.touch(0o600)
        file.write_bytes(_tables())


@cache
def _tables() -> bytes:
    with TemporaryDirectory() as directory:
        file = Path(directory) / "app.db"
        migrate.create(f"sqlite:///{file}")
        return file.read_bytes()


def _start(
    command: Sequence[str] | None, code: Path, environment: dict[str, str], output: BinaryIO
) -> "subprocess.Popen[bytes] | Forked":
    if command is None and code == REPOSITORY:
        return start_python(("-m", "app.main"), code, environment, output)
    return start_command(command or (sys.executable, "-m", "app.main"), code, environment, output)


def refused_start(tmp_path: Path, **settings: str) -> str:
    """Start a server that is to refuse its settings; return what it has said on its way out."""
    told = {"HOST": "127.0.0.1", "PORT": "0", "DATA_DIR": f"{tmp_path}/data"} | settings
    environment = without_settings(os.environ) | {"PYTHONUNBUFFERED": "1"}
    environment |= {f"LLM_TRAIN_{name}": value for name, value in told.items()}
    with TemporaryFile() as output:
        process = start_python(("-m", "app.main"), REPOSITORY, environment, output)
        status = process.wait(PATIENCE_SECONDS)
        output.seek(0)
        said = output.read().decode()
    assert status == 1, said
    return said


def end_trainers(data_dir: Path) -> None:
    """Kill whatever runs for a run of this data directory: it outlives its server on purpose."""
    found = [process for process in psutil.process_iter() if _belongs(process, data_dir)]
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until(lambda: not any(map(alive, found)), "the trainers are gone")
    reap(data_dir)


def reap(below: Path = Path("/")) -> None:
    """Wait for the ended agents that this very process has launched, as a server would go on to.

    A child that nobody has waited for is a ResourceWarning when the tests end.
    """

    def reaped() -> bool:
        local_launcher._reap()
        return not any(directory.is_relative_to(below) for directory in local_launcher._children)

    wait_until(reaped, "the agents are gone")


def alive(process: psutil.Process | int) -> bool:
    """Return True until all of a process has ended; one that nobody has waited for yet has.

    Killed, its first thread may end before the others, which still hold its files and locks.
    """
    try:
        process = psutil.Process(process) if isinstance(process, int) else process
        has_ended = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() < 2
        return process.is_running() and not has_ended
    except psutil.NoSuchProcess:
        return False


def command_line(process: psutil.Process) -> list[str]:
    """Return a process's command and arguments; none once it has ended, at whatever moment."""
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def environment_of(process: psutil.Process) -> dict[str, str]:
    """Return a process's environment; none once it has ended, or is another user's."""
    with suppress(psutil.Error, OSError):
        return process.environ()
    return {}


def _belongs(process: psutil.Process, data_dir: Path) -> bool:
    try:
        run_dir = process.environ().get("LLM_TRAIN_RUN_DIR", "")
        return any(text.startswith(f"{data_dir}/") for text in (run_dir, *process.cmdline()))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with default settings for the tests of a module."""
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=10) as response:
            healthy: bool = response.status == 200
            return healthy
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: "subprocess.Popen[bytes] | Forked") -> bool:
    """End the server by its pid; true if it had to be killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
        return False
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS * (slowness() - 1))
        return False
    process.kill()
    process.wait()
    return True


def _group(pgid: int) -> list[str]:
    """Return what is still alive in a process group, as command lines."""
    left = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pgid and alive(process):
                left.append(f"{process.pid} {shlex.join(process.cmdline())}")
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return left
