"""Processes by identity: a pid alone names another process as soon as the system reuses it.

An `Identity` is a pid with the boot and pid namespace in which it is valid (`place`), its start
time and a random nonce in the process's environment. On Linux a pidfd is opened before the check,
so that the pid cannot be reused between check and signal.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.agent.process import NONCE, host_namespace, start_time

_LINUX = sys.platform == "linux"
_GIVE_UP_SECONDS = 2.0


@dataclass(frozen=True)
class Identity:
    """One process. `start_time` is None if the system that recorded it has none."""

    pid: int
    start_time: int | None
    place: str
    nonce: str

    def is_here(self) -> bool:
        """Return True if its pid is one of this host's namespace."""
        return self.place == host_namespace()

    def is_alive(self) -> bool:
        """Return True if the process exists here and is the recorded one. A zombie has ended.

        Raises OSError where /proc cannot be read now, such as EMFILE.
        """
        return (
            self.is_here()
            and self.start_time == start_time(self.pid)
            and _read_nonce(self.pid) == self.nonce
        )


def send(identity: Identity, number: int) -> bool:
    """Send a signal to this process. Return False if it has ended; no other process gets it."""
    descriptor = watch(identity)
    try:
        if descriptor is not None:
            signal.pidfd_send_signal(descriptor, number)
            return True
        if identity.is_alive():  # no pidfds here, or forbidden as in some containers
            os.kill(identity.pid, number)
            return True
        return False
    except ProcessLookupError:
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)


def watch(identity: Identity) -> int | None:
    """Return a pidfd of this process, which is readable when it ends.

    None if it has ended, or the system has no pidfds.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        descriptor = os.pidfd_open(identity.pid)
    except OSError:
        return None
    alive = False
    try:
        alive = identity.is_alive()
    finally:
        if not alive:
            os.close(descriptor)
    return descriptor if alive else None


def kill_tree(nonce: str) -> int:
    """Kill every process that carries `nonce`, until none is left; return how many there were.

    Gives up after two seconds: a process in uninterruptible sleep does not end.
    """
    killed = set()
    deadline = time.monotonic() + _GIVE_UP_SECONDS
    while (processes := list(_find_carriers(nonce))) and time.monotonic() < deadline:
        for identity in processes:
            with suppress(PermissionError):
                send(identity, signal.SIGKILL)
            killed.add(identity)
        time.sleep(0.005)
    return len(killed)


def _find_carriers(nonce: str) -> Iterator[Identity]:
    """Return the living processes whose environment holds `nonce`, this one excepted."""
    here = host_namespace()
    for pid in _list_pids():
        if pid != os.getpid() and _read_nonce(pid) == nonce:
            yield Identity(pid, start_time(pid), here, nonce)


def _list_pids() -> list[int]:
    if _LINUX:
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    import psutil

    return psutil.pids()


def _read_nonce(pid: int) -> str | None:
    """Return the nonce in a process's environment.

    None if it has none, the process has ended, or belongs to another user.
    """
    if not _LINUX:
        import psutil

        try:
            return psutil.Process(pid).environ().get(NONCE)
        except (psutil.Error, OSError):
            return None
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    for variable in environment.split(b"\0"):
        if variable.startswith(NONCE.encode() + b"="):
            return variable.partition(b"=")[2].decode(errors="replace")
    return None
