"""Several processes that serve one socket: `llm-train serve --workers N`.

    supervise   starts them, starts one again that ended, ends all on SIGINT or SIGTERM
    worker      what such a process runs; it ends with its parent

The kernel gives each new connection to one of those that wait for it. Each worker is a whole
server, as one on another machine would be: they share the database, and one of them leads.
uvicorn's own `Multiprocess` is not used: it tries twice a second to start a worker that cannot
start, and kills one that does not answer within five seconds, as on a machine that was suspended.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnProcess
from types import FrameType

PAUSES = (0.5, 1.0, 2.0, 5.0)
"""Seconds before a worker that ended soon after its start is started again; the last for ever."""
SOON = 10.0
STOP_SECONDS = 15.0

log = logging.getLogger(__name__)


class _Worker:
    """One of the processes, in whichever life it is."""

    def __init__(self, work: Callable[[socket.socket], None], sock: socket.socket) -> None:
        self._start_args = (work, sock)
        self._context = get_context("spawn")  # a fork would copy threads' locks and not the threads
        self.process: SpawnProcess | None = None
        self.start_at = time.monotonic()
        self._failures = 0

    def start(self) -> None:
        """Start the process."""
        self.start_at = time.monotonic()
        self.process = self._context.Process(target=worker, args=self._start_args)
        self.process.start()

    def note_end(self) -> None:
        """Record that the process has ended, and decide when to start the next one."""
        assert self.process is not None
        self.process.join()  # its sentinel may be ready before it is reaped
        log.error("worker %s ended with %s", self.process.pid, self.process.exitcode)
        now = time.monotonic()
        self._failures = self._failures + 1 if now - self.start_at < SOON else 0
        self.start_at = now + PAUSES[min(self._failures, len(PAUSES) - 1)]
        self.process.close()
        self.process = None


def supervise(work: Callable[[socket.socket], None], number: int, sock: socket.socket) -> None:
    """Run `work(sock)` in `number` processes until SIGINT or SIGTERM. `work` must be picklable."""
    workers = [_Worker(work, sock) for _ in range(number)]
    stopping = threading.Event()
    wake, signalled = os.pipe()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()
        os.write(signalled, b".")  # `connection.wait` goes on with waiting after a signal

    for handled in (signal.SIGINT, signal.SIGTERM):
        signal.signal(handled, stop)
    while not stopping.is_set():
        now = time.monotonic()
        for each_worker in workers:
            if each_worker.process is None and each_worker.start_at <= now:
                each_worker.start()
        due = [w.start_at - now for w in workers if w.process is None]
        alive = {w.process.sentinel: w for w in workers if w.process is not None}
        ended = connection.wait([*alive, wake], timeout=max(0.0, min(due)) if due else None)
        if not stopping.is_set():
            for sentinel in ended:
                alive[sentinel].note_end()  # type: ignore[index]
    _end([w.process for w in workers if w.process is not None])


def _end(processes: list[SpawnProcess]) -> None:
    """End processes as a signal to each would, and kill the rest after `STOP_SECONDS`."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def worker(work: Callable[[socket.socket], None], sock: socket.socket) -> None:
    """Run `work(sock)`; end as by SIGTERM when the parent has gone, even by SIGKILL.

    It would hold the port otherwise, and nobody could end it.
    """
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="parent", daemon=True).start()
    work(sock)
