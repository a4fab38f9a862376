"""Trainers on this machine: each under a wrapper (wrapper.py) in a session of its own.

What is known of an attempt stands in its directory; a launcher keeps nothing in memory but
the handles of wrappers that it must reap, and the pulses that it watches.

    identity.json   the wrapper that claimed the attempt, linked into place once; its time is
                    renewed as long as the wrapper lives
    age.json        how long it has run, renewed with that time
    stop.json       a stop or kill was asked for
    exit.json       how it ended

Servers on several machines, or in several containers, may share these files. What became of a
wrapper of another place (`wrapper.place`) is told by exit.json and by its pulse; it is asked to
end by stop.json alone.
"""

import json
import marshal
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from app.domain import failpoints
from app.domain.resources import Capacity, Gpu
from app.launchers import processes, wrapper
from app.launchers.base import LauncherError, LaunchPlan, Observation
from app.launchers.processes import NONCE, Identity

_children: dict[Path, list[subprocess.Popen[bytes]]] = {}
"""Wrappers that this process spawned and must reap, by attempt; they outlive any launcher."""
_children_lock = threading.Lock()

SILENT_SECONDS = 10.0
"""After so long without a pulse, all of it watched, a wrapper elsewhere is gone."""
_MOST_WATCHED = 1.0  # of the time between two looks: of the rest we cannot know

_CODE = cast(Any, wrapper.__loader__).get_code(wrapper.__name__)
_NEVER_BEGAN = "Stopped before the trainer began."
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
        """Whether the wrapper counts as alive, with what is seen now."""
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
        self.host = wrapper.place().partition("/")[0]  # of every container on this machine
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
        if (directory / "identity.json").exists():
            return
        env = {**plan.env, NONCE: plan.nonce}
        order = {  # names as bytes: the trainer's locale may not be the server's
            "directory": os.fsencode(directory),
            "nonce": plan.nonce,
            "argv": [os.fsencode(word) for word in plan.argv],
            "env": {os.fsencode(name): os.fsencode(value) for name, value in env.items()},
            "cwd": None if plan.cwd is None else os.fsencode(plan.cwd),
            "stop_signal": int(plan.stop_signal),
            "grace_seconds": float(plan.grace_seconds),
            "failpoints": failpoints.armed("wrapper."),
        }
        failpoints.failpoint("launch.before_spawn")
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (plan.run_dir / "train.log").open("ab") as log:
                child = subprocess.Popen(  # noqa: S603 - this very interpreter
                    (*wrapper.COMMAND, plan.run_id, str(plan.attempt)),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=env,
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            raise LauncherError(f"The trainer's wrapper could not be started: {error}.") from error
        with _children_lock:
            _children.setdefault(directory, []).append(child)
        assert child.stdin is not None
        try:
            with child.stdin as pipe:
                pipe.write(marshal.dumps((_CODE, order)))
        except BrokenPipeError:
            pass  # it died at once; `observe` finds it ended without a claim
        failpoints.failpoint("launch.spawned")

    def observe(self, run_dir: Path, attempt: int) -> Observation:
        _reap()
        directory = _directory(run_dir, attempt)
        with suppress(FileNotFoundError), os.scandir(directory):
            pass  # opened, or a client of NFS may go on not to see what is new in it
        if over := _read(directory / "exit.json"):
            self._pulses.pop(directory, None)
            return _exited(over)
        stop_sent = (directory / "stop.json").exists()
        record = _read(directory / "identity.json")
        if record is None:
            return Observation("absent", stop_sent=stop_sent)
        identity, detail = _identity(record), "Its wrapper was killed from outside."
        if identity is not None and not identity.is_here():
            pulse = self._pulses.setdefault(directory, _Pulse(record["beat"], time.monotonic()))
            if pulse.look(record["beat"]):
                ran = _number(_read(directory / "age.json") or {}, "ran_seconds")
                return Observation("alive", stop_sent=stop_sent, ran_seconds=ran)
            detail = f"No sign of life from its machine or container for {SILENT_SECONDS:g} s."
        elif identity is not None and identity.is_alive():
            started = _number(record, "started")
            ran = None if started is None else time.monotonic() - started
            return Observation("alive", pid=identity.pid, stop_sent=stop_sent, ran_seconds=ran)
        if over := _read(directory / "exit.json"):  # written since we looked
            return _exited(over)
        pid = identity.pid if identity and identity.is_here() else None
        return Observation("vanished", pid=pid, stop_sent=stop_sent, detail=detail)

    def stop(self, run_dir: Path, attempt: int) -> None:
        self._end(_directory(run_dir, attempt), kill=False, detail=_NEVER_BEGAN)

    def kill(self, run_dir: Path, attempt: int, nonce: str | None = None) -> None:
        detail = _NEVER_BEGAN
        if nonce is not None:
            # First: a wrapper that outlived its trainer would tell its end over what we tell.
            processes.kill_tree(nonce)
            detail = "Its files were removed."
        self._end(_directory(run_dir, attempt), kill=True, detail=detail)

    def exit_fd(self, run_dir: Path, attempt: int) -> int | None:
        record = _read(_directory(run_dir, attempt) / "identity.json")
        identity = record and _identity(record)
        return processes.watch(identity) if identity else None

    def _end(self, directory: Path, kill: bool, detail: str) -> None:
        if (directory / "exit.json").exists():
            return
        unasked = None
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _request_stop(directory, kill)
        except OSError as error:  # a full disk must not keep a trainer running
            unasked = error
        try:
            if _fence(directory, detail):
                return
        except OSError as error:
            raise LauncherError(f"The stop could not be recorded: {error}.") from error
        identity = _identity(_read(directory / "identity.json") or {})
        if identity is None:
            return
        if not identity.is_here():
            if unasked is not None:
                raise LauncherError(f"The stop could not be recorded: {unasked}.")
            return  # its wrapper looks for the request at every pulse
        if processes.send(identity, wrapper.KILL if kill else wrapper.STOP):
            processes.send(identity, signal.SIGCONT)  # a paused wrapper could not act
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
    """Collect ended wrappers. An attempt whose last one failed before its claim is over."""
    with _children_lock:
        for directory, children in list(_children.items()):
            codes = [child.poll() for child in children]
            if None in codes:
                continue
            del _children[directory]
            if failed := [code for code in codes if code]:
                detail = (
                    f"The wrapper failed ({failed[-1]}) before it began; train.log may say why."
                )
                with suppress(OSError):  # the attempt stays absent
                    _fence(directory, detail)


def _request_stop(directory: Path, kill: bool) -> None:
    """Write stop.json; a kill is never taken back to a stop."""
    asked = _read(directory / "stop.json")
    if asked is None or kill > asked.get("kill", False):
        request = {"kill": kill, "at": wrapper.now()}
        wrapper.replace(str(directory), "stop.json", json.dumps(request))


def _fence(directory: Path, detail: str) -> bool:
    """End an attempt that no wrapper has claimed: none can any more. False: one has."""
    record = _read(directory / "identity.json")
    if record is None and wrapper.claim(str(directory), {"format": 1, "pid": None}):
        record = {}
    if record is None or _identity(record):
        return False
    if not (directory / "exit.json").exists():
        wrapper.write_exit(str(directory), detail=detail)
    return True


def _directory(run_dir: Path, attempt: int) -> Path:
    return run_dir.absolute() / f"attempt-{attempt}"


def _read(path: Path) -> dict[str, Any] | None:
    """A record that was published whole, and as `beat` its file's time; None: there is none."""
    try:
        with path.open("rb") as file:  # opened, NFS tells the time as it is now
            record = json.load(file)
            beat = os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return {**record, "beat": beat} if isinstance(record, dict) else {}


def _number(record: dict[str, Any], key: str) -> float | None:
    """Return a number of a record; None if it has none there, as those of earlier versions."""
    value = record.get(key)
    return float(value) if isinstance(value, int | float) else None


def _identity(record: dict[str, Any]) -> Identity | None:
    """The wrapper that a record names; None: the attempt was claimed without one."""
    if not record.get("pid"):
        return None
    place = record.get("place")
    if place is None:  # of a wrapper of the first version: it told the boot alone
        here = wrapper.place()
        place = here if record.get("boot_id") in (None, here.partition("/")[0]) else ""
    return Identity(record["pid"], record["start_time"], place, record["nonce"])


def _exited(record: dict[str, Any]) -> Observation:
    keys = ("exit_code", "signal", "stop_sent", "killed", "oom", "detail")
    return Observation("exited", **{key: record[key] for key in keys})
