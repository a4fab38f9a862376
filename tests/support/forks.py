"""Starts `python -m app.main` without waiting for its imports, which take longer than most tests.

    ForkServer: one process for a test session that has imported the service, and serves nothing
    fork        a child of it runs `app.main`, or another module or program, as a fresh interpreter
                would, with the environment, the directory and the outputs that it is given
    Forked      what a test holds of that child: as much of `subprocess.Popen` as is needed

`start_python` forks where it can, and `interpreter.run_python` is as `subprocess.run` of that.

What a fresh interpreter does of its own (missing packages, Ctrl-C while it imports) is tested with
a command of its own, in tests/e2e/test_failures.py.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, TypedDict

MAIN = "app.main"
_ENVIRONMENT = dict(os.environ)
"""As it is before a test changes it for itself."""


class Forked:
    """A child of the fork server. Its exit status comes by a socket, as it is not ours to wait for.

    Attributes:
        pid: of the child.
        returncode: as of `subprocess.Popen`; None while it runs.
    """

    def __init__(self, pid: int, status: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self._receive(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status when it has ended. Raises subprocess.TimeoutExpired."""
        code = self._receive(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(MAIN, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it is known to have ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended, and its status is on its way
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless it is known to have ended."""
        self.send_signal(signal.SIGKILL)

    def _receive(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                text = self._status.recv(100)
            except (BlockingIOError, TimeoutError):
                return None
            self._status.close()
            self.returncode = int(text)
        return self.returncode


class ForkServer:
    """The process that has imported the service. It ends when its socket is closed."""

    def __init__(self) -> None:
        environment = {**without_settings(_ENVIRONMENT), "PYTHONUNBUFFERED": "1"}
        environment.pop("SLURM_CONF", None)  # a cluster ends with all that have its own
        self._python = _python_of(environment)
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forks", str(other.fileno())],
                env=environment,
                pass_fds=[other.fileno()],
                start_new_session=True,
            )

    def start(
        self,
        directory: Path,
        environment: Mapping[str, str],
        output: IO[bytes],
        errors: IO[bytes] | None = None,
        arguments: Sequence[str] = ("-m", MAIN),
    ) -> Forked:
        """Start a module or a program in a directory.

        Args:
            output: where stdout goes, and stderr if `errors` is None.
            arguments: what an interpreter would be given: `-m MODULE …` or `-c PROGRAM …`.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request: Request = {
            "directory": str(directory),
            "environment": dict(environment),
            "arguments": list(arguments),
        }
        with theirs:
            fds = [output.fileno(), (errors or output).fileno(), theirs.fileno()]
            socket.send_fds(self._socket, [json.dumps(request).encode()], fds)
        return Forked(int(ours.recv(100)), ours)

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Return True if an interpreter would start with this environment as this process did."""
        return _python_of(environment) == self._python

    def close(self) -> None:
        """End the process. What it has started goes on."""
        self._socket.close()
        self._process.wait(30)


@cache
def fork_server() -> ForkServer:
    """Return that of this process; it ends with it."""
    server = ForkServer()
    atexit.register(server.close)
    return server


def start_python(
    arguments: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    output: IO[bytes],
    errors: IO[bytes] | None = None,
) -> "Forked | subprocess.Popen[bytes]":
    """Start `python ARGUMENTS` in a directory, in a session of its own.

    It is a fork, unless an interpreter would import other things with this environment.

    Args:
        arguments: `-m MODULE …` or `-c PROGRAM …`.
        output: where stdout goes, and stderr if `errors` is None.
    """
    if fork_server().fits(environment):
        return fork_server().start(directory, environment, output, errors, arguments)
    return start_command((sys.executable, *arguments), directory, environment, output, errors)


def start_command(
    command: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    output: IO[bytes],
    errors: IO[bytes] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a command as `start_python` starts a Python, without a fork."""
    return subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if errors is None else errors,
        start_new_session=True,
    )


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the service's variables."""
    return {key: environment[key] for key in environment if not key.startswith("LLM_TRAIN_")}


def _python_of(environment: Mapping[str, str]) -> dict[str, str]:
    return {key: environment[key] for key in environment if key.startswith("PYTHON")}


class Request(TypedDict):
    """What a server is started with."""

    directory: str
    environment: dict[str, str]
    arguments: list[str]


def _serve(requests: socket.socket) -> tuple[Request, list[int]] | None:
    """Fork a child for each request, and tell its exit status, until the other end is closed.

    Return in each child its request and its outputs' descriptors, and None at the end.
    """
    children: dict[int, socket.socket] = {}
    woken, wakes = socket.socketpair()
    for end in (woken, wakes):
        end.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    while True:
        ready = [key.fileobj for key, _ in selector.select()]
        if woken in ready:
            woken.recv(100)
            _tell_ended(children)
        if requests in ready:
            text, fds, _, _ = socket.recv_fds(requests, 1 << 20, 3)
            if not text:
                return None
            pid = os.fork()
            if pid == 0:
                return json.loads(text), fds[:2]
            for number in fds[:2]:
                os.close(number)
            children[pid] = socket.socket(fileno=fds[2])
            children[pid].send(str(pid).encode())


def _tell_ended(children: dict[int, socket.socket]) -> None:
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with children.pop(pid) as told, suppress(OSError):  # its test may have ended
                told.send(str(os.waitstatus_to_exitcode(status)).encode())


IMPORTED = (
    MAIN, "app.graphql.router", "app.db.sqlite", "app.db.postgresql",
    "sqlalchemy.dialects.postgresql", "app.launchers.local.launcher", "app.storage.directory",
    "uvicorn.loops.uvloop", "uvicorn.lifespan.on", "psutil",
)  # fmt: skip
"""Modules that a server imports until it serves, on either database, and for GraphQL."""


def _import_service() -> None:
    """Import once what each server would import. The heap is not walked again by any of them."""
    gc.disable()
    for name in IMPORTED:
        importlib.import_module(name)
    del sys.modules[MAIN]  # to be executed as __main__
    gc.freeze()
    gc.enable()


def _begin(request: Request, outputs: list[int]) -> None:
    """Make this child look like a process that has just been started."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), *outputs)):
        os.dup2(file, number)
    os.closerange(3, 256)
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["directory"])


def _execute(how: str, what: str, *arguments: str) -> None:
    """Do what an interpreter does that is started with `-m MODULE` or `-c PROGRAM`."""
    sys.argv = [what if how == "-m" else how, *arguments]
    if how == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = program = ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), program.__dict__)


if __name__ == "__main__":
    _import_service()
    if (started := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        _begin(*started)
        _execute(*started[0]["arguments"])
