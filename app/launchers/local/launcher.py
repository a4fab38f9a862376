"""Trainers on this machine: each under an agent (app/agent) in a session of its own.

What is known of an attempt stands in its directory; a launcher keeps nothing in memory but
the handles of agents that it must reap, and the pulses that it watches.

    identity.json   the agent that claimed the attempt, linked into place once; its time is
                    renewed as long as the agent lives
    age.json        how long it has run, renewed with that time
    stop.json       a stop or kill was asked for
    exit.json       how it ended

    ../train.log, ../dropped.json   what its trainers printed, and which bytes are no longer there

Servers on several machines, or in several containers, may share these files. What became of a
agent of another host namespace is told by exit.json and by its pulse; it is asked to
end by stop.json alone.
"""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from app import files
from app.agent import directory as attempt_files
from app.agent.mailbox import ExitRecord, LaunchConfig, now
from app.agent.main import STOPPED, command
from app.agent.process import KILL, NONCE, STOP, host_namespace
from app.domain import failpoints
from app.domain.resources import Capacity, Gpu
from app.launchers.base import LauncherError, LaunchPlan, Observation
from app.launchers.local import processes
from app.launchers.local.processes import Identity

_children: dict[Path, list[subprocess.Popen[bytes]]] = {}
"""Wrappers that this process spawned and must reap, by attempt; they outlive any launcher."""
_children_lock = threading.Lock()

SILENT_SECONDS = 10.0
"""After so long without a pulse, all of it watched, an agent elsewhere is gone."""
_MOST_RECORD = 1 << 16  # bytes of identity.json, stop.json, exit.json
_MOST_WATCHED = 1.0  # of the time between two looks: of the rest we cannot know

_GPU_SECONDS = 60.0
_FIRST_GPU_SECONDS = 2.0  # a start waits no longer for a slow driver
_GPU_QUERY = ("--query-gpu=index,uuid,name", "--format=csv,noheader")


@dataclass
class _Pulse:
    """The time of an identity.json as it was last seen, and for how long it stood still.

    It is compared with itself only: the clocks of two machines differ.
    """

    beat: int
    looked_at: float
    silence: float = 0.0

    def look(self, beat: int) -> bool:
        """Whether the agent counts as alive, with what is seen now."""
        now = time.monotonic()
        watched = min(now - self.looked_at, _MOST_WATCHED)
        self.silence = 0.0 if beat != self.beat else self.silence + watched
        self.beat, self.looked_at = beat, now
        return self.silence < SILENT_SECONDS


class LocalLauncher:
    """Runs trainers as child processes of this machine.

    `gpus`: the types of the GPUs to offer (`["A100", "A100"]`); None: ask `nvidia-smi`, now and
    then and in the background: nobody waits for a driver that hangs, its last answer stands.
    `visible`: the server's CUDA_VISIBLE_DEVICES, if it has one; GPUs outside it are not offered.
    """

    name = "local"

    def __init__(self, gpus: Sequence[str] | None = None, visible: str | None = None) -> None:
        self._fixed = None if gpus is None else tuple(Gpu(str(i), t) for i, t in enumerate(gpus))
        self._visible = visible
        self.host = host_namespace().partition("/")[0]  # of every container on this machine
        self._pulses: dict[Path, _Pulse] = {}
        self._found: tuple[Gpu, ...] = ()
        self._asked_at = 0.0
        self._asking: threading.Thread | None = None

    def capacity(self) -> Capacity:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Capacity(float(cpus or 1), memory / 1e9, self._gpus())

    def launch(self, plan: LaunchPlan) -> None:
        _reap()
        directory = _directory(plan.run_dir, plan.attempt)
        env = {**plan.env, NONCE: plan.nonce}
        config: LaunchConfig = {
            "argv": list(plan.argv),
            "env": dict(plan.env),
            "cwd": None if plan.cwd is None else str(plan.cwd),
            "nonce": plan.nonce,
            "stop_signal": int(plan.stop_signal),
            "grace_seconds": float(plan.grace_seconds),
            "max_log_bytes": plan.max_log_bytes,
            "failpoints": failpoints.armed("agent."),
        }
        failpoints.failpoint("launch.before_spawn")
        try:
            with _opened(plan.run_dir, plan.attempt, make=True) as folder:
                if files.exists(folder, "identity.json"):
                    return
            log = _open_log(plan.run_dir)
            try:
                child = subprocess.Popen(  # noqa: S603 - this very interpreter
                    command("directory", str(plan.run_dir.absolute()), str(plan.attempt)),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=env,
                    start_new_session=True,
                )
            finally:
                os.close(log)
        except (OSError, ValueError) as error:
            raise LauncherError(f"The trainer's agent could not be started: {error}.") from error
        with _children_lock:
            _children.setdefault(directory, []).append(child)
        assert child.stdin is not None
        try:
            with child.stdin as pipe:
                pipe.write(json.dumps(config).encode())
        except BrokenPipeError:
            pass  # it died at once; `observe` finds it ended without a claim
        failpoints.failpoint("launch.spawned")

    def observe(self, run_dir: Path, attempt: int) -> Observation:
        _reap()
        try:
            # Opened, or a client of NFS may go on not to see what is new in it.
            with _opened(run_dir, attempt) as folder:
                return self._observe(folder, _directory(run_dir, attempt))
        except FileNotFoundError:
            return Observation("absent")
        except files.Unusable as error:
            return Observation("vanished", detail=f"{error.strerror}.")

    def _observe(self, folder: int, directory: Path) -> Observation:
        if over := _exited(_read(folder, "exit.json")):
            self._pulses.pop(directory, None)
            return over
        stop_sent = files.exists(folder, "stop.json")
        record = _read(folder, "identity.json")
        if record is None:
            return Observation("absent", stop_sent=stop_sent)
        identity, detail = _identity(record), "Its agent was killed from outside."
        if identity is not None and not identity.is_here():
            pulse = self._pulses.setdefault(directory, _Pulse(record["beat"], time.monotonic()))
            if pulse.look(record["beat"]):
                ran = _number(_read(folder, "age.json") or {}, "ran_seconds")
                return Observation("alive", stop_sent=stop_sent, ran_seconds=ran)
            detail = f"No sign of life from its machine or container for {SILENT_SECONDS:g} s."
        elif identity is not None and identity.is_alive():
            started = _number(record, "started")
            ran = None if started is None else time.monotonic() - started
            return Observation("alive", pid=identity.pid, stop_sent=stop_sent, ran_seconds=ran)
        if over := _exited(_read(folder, "exit.json")):  # written since we looked
            return over
        pid = identity.pid if identity and identity.is_here() else None
        return Observation("vanished", pid=pid, stop_sent=stop_sent, detail=detail)

    def stop(self, run_dir: Path, attempt: int) -> None:
        self._end(run_dir, attempt, kill=False, detail=STOPPED)

    def kill(self, run_dir: Path, attempt: int, nonce: str | None = None) -> None:
        detail = STOPPED
        if nonce is not None:
            # First: an agent that outlived its trainer would tell its end over what we tell.
            processes.kill_tree(nonce)
            detail = "Its files were removed."
        self._end(run_dir, attempt, kill=True, detail=detail)

    def exit_fd(self, run_dir: Path, attempt: int) -> int | None:
        try:
            with _opened(run_dir, attempt) as folder:
                identity = _identity(_read(folder, "identity.json") or {})
        except (FileNotFoundError, files.Unusable):
            return None
        return processes.watch(identity) if identity else None

    def _end(self, run_dir: Path, attempt: int, kill: bool, detail: str) -> None:
        unasked = None
        try:
            with _opened(run_dir, attempt, make=True) as folder:
                if _exited(_read(folder, "exit.json")):
                    return
                try:
                    _request_stop(folder, kill)
                except OSError as error:  # a full disk must not keep a trainer running
                    unasked = error
                if _fence(folder, detail):
                    return
                identity = _identity(_read(folder, "identity.json") or {})
        except OSError as error:
            raise LauncherError(f"The stop could not be recorded: {error}.") from error
        if identity is None:
            return
        if not identity.is_here():
            if unasked is not None:
                raise LauncherError(f"The stop could not be recorded: {unasked}.")
            return  # its agent looks for the request at every pulse
        if processes.send(identity, KILL if kill else STOP):
            processes.send(identity, signal.SIGCONT)  # a paused agent could not act
        else:
            processes.kill_tree(identity.nonce)  # nobody is left to watch over the grace

    def _gpus(self) -> tuple[Gpu, ...]:
        if self._fixed is not None:
            return self._fixed
        now, asked = time.monotonic(), self._asking
        if asked is None or (now - self._asked_at >= _GPU_SECONDS and not asked.is_alive()):
            self._asked_at = now
            self._asking = threading.Thread(target=self._ask, name="nvidia-smi", daemon=True)
            self._asking.start()
            if asked is None:
                self._asking.join(_FIRST_GPU_SECONDS)
        return self._found

    def _ask(self) -> None:
        listing = _ask_nvidia()
        if listing is not None:
            self._found = parse_gpus(listing, self._visible)


def parse_gpus(listing: str, visible: str | None) -> tuple[Gpu, ...]:
    """The GPUs of an `index, uuid, name` listing, as CUDA_VISIBLE_DEVICES `visible` leaves them.

    As in CUDA, the first entry that names no GPU hides itself and all that follow.
    """
    rows = [[cell.strip() for cell in line.split(",", 2)] for line in listing.splitlines()]
    every = [(row[0], row[1], row[2]) for row in rows if len(row) == 3]
    if visible is None:
        return tuple(Gpu(index, name) for index, _, name in every)
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in visible.split(",")):
        match = [
            Gpu(index, name)
            for index, uuid, name in every
            if entry == index or (entry.startswith("GPU-") and uuid.startswith(entry))
        ]
        if len(match) != 1:
            break
        chosen += match
    return tuple(chosen)


def _ask_nvidia() -> str | None:
    """The driver's listing; empty without a driver, None if it did not answer this time."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        answer = subprocess.run(  # noqa: S603 - the path that `which` found
            [program, *_GPU_QUERY], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout


def _reap() -> None:
    """Collect ended agents. An attempt whose last one failed before its claim is over."""
    with _children_lock:
        for directory, children in list(_children.items()):
            codes = [child.poll() for child in children]
            if None in codes:
                continue
            del _children[directory]
            if failed := [code for code in codes if code]:
                detail = f"The agent failed ({failed[-1]}) before it began; train.log may say why."
                with suppress(OSError):  # the attempt stays absent
                    folder = attempt_files.open_directory(str(directory))
                    try:
                        _fence(folder, detail)
                    finally:
                        os.close(folder)


def _request_stop(folder: int, kill: bool) -> None:
    """Write stop.json; a kill is never taken back to a stop. What is no request is replaced."""
    asked = (_read(folder, "stop.json") or {}).get("kill")
    if not isinstance(asked, bool) or kill > asked:
        request = {"kill": kill, "at": now()}
        files.write(folder, "stop.json", json.dumps(request).encode())


def _fence(folder: int, detail: str) -> bool:
    """End an attempt that no agent has claimed: none can any more. False: one has."""
    record = _read(folder, "identity.json")
    if record is None and attempt_files.claim(folder, {"format": 1, "pid": None}):
        record = {}
    if record is None or _identity(record):
        return False
    if not _exited(_read(folder, "exit.json")):
        attempt_files.write_exit(folder, ExitRecord(ended_at=now(), detail=detail))
    return True


def _directory(run_dir: Path, attempt: int) -> Path:
    return run_dir.absolute() / f"attempt-{attempt}"


def _opened(run_dir: Path, attempt: int, make: bool = False) -> AbstractContextManager[int]:
    """An attempt's directory: the trainer can put anything where it and what is in it belong."""
    run_dir = run_dir.absolute()
    return files.directory(run_dir.parent, run_dir.name, f"attempt-{attempt}", make=make)


def _open_log(run_dir: Path) -> int:
    """Open train.log for appending; what is no plain file is set aside."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    run_dir = run_dir.absolute()
    with files.directory(run_dir.parent, run_dir.name, make=True) as folder:
        try:
            log = files.open_file(folder, "train.log", flags)
        except files.Unusable:
            files.set_aside(folder, "train.log")
            log = files.open_file(folder, "train.log", flags)
    os.set_blocking(log, True)  # it becomes the trainer's stdout
    return log


def _read(folder: int, name: str) -> dict[str, Any] | None:
    """A record that was published whole, and as `beat` its file's time; None: there is none.

    Empty: what is there is no record; its trainer wrote it, or a disk broke.
    """
    try:
        with os.fdopen(files.open_file(folder, name), "rb") as file:
            record = json.loads(file.read(_MOST_RECORD))  # opened, NFS tells the time as it is now
            beat = os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
    except (files.Unusable, ValueError, RecursionError):
        return {}
    return {**record, "beat": beat} if isinstance(record, dict) else {}


def _number(record: dict[str, Any], key: str) -> float | None:
    """Return a number of a record; None if it has none there, as those of earlier versions."""
    value = record.get(key)
    return float(value) if isinstance(value, int | float) and abs(value) < 1e15 else None


def _identity(record: dict[str, Any]) -> Identity | None:
    """The agent that a record names. None: the attempt was claimed without one, or the record
    is not what an agent wrote."""
    pid, began, nonce = record.get("pid"), record.get("start_time"), record.get("nonce")
    place = record.get("place")
    if place is None:  # of an agent of the first version: it told the boot alone
        here = host_namespace()
        place = here if record.get("boot_id") in (None, here.partition("/")[0]) else ""
    if not _is_number(pid) or not isinstance(nonce, str) or not isinstance(place, str):
        return None
    if not 0 < pid < 2**31 or not (began is None or _is_number(began)):
        return None
    return Identity(pid, began, place, nonce)


def _exited(record: dict[str, Any] | None) -> Observation | None:
    """The end that exit.json tells; None: it tells none that an agent could have written."""
    record = record or {}
    code, number, detail = (record.get(key) for key in ("exit_code", "signal", "detail"))
    if (
        not (code is None or (_is_number(code) and 0 <= code < 2**31))
        or not (number is None or (_is_number(number) and 0 < number < signal.NSIG))
        or not isinstance(detail, str)
    ):
        return None
    stop_sent, killed, oom = (record.get(key) is True for key in ("stop_sent", "killed", "oom"))
    return Observation(
        "exited",
        exit_code=code,
        signal=number,
        stop_sent=stop_sent,
        killed=killed,
        oom=oom,
        detail=detail,
        log_start=int(_number(record, "log_start") or 0),
    )


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
