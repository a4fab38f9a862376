"""Trainers on this machine: each under an agent (app/agent) in a session of its own.

    submit → the agent claims the attempt's directory → look, stop, kill by its files and signals

What is known of an attempt stands in its directory (app/agent/directory.py; `records` reads it). A
launcher keeps nothing in memory but the handles of agents that it must reap, and the pulses that
it watches. Servers on several machines, or in several containers, may share these files: what
became of an agent of another host namespace is told by exit.json and by its pulse, and it is asked
to end by stop.json alone.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from app.agent import directory as attempt_files
from app.agent.mailbox import ExitRecord, LaunchConfig, now
from app.agent.main import STOPPED, command
from app.agent.process import KILL, NONCE, STOP, host_namespace
from app.domain import failpoints
from app.domain.resources import Capacity, Resources, Shortage, allocate
from app.launchers.base import (
    Job,
    JobState,
    JobStatus,
    Key,
    LauncherContext,
    LauncherError,
    Submission,
)
from app.launchers.local import processes
from app.launchers.local.gpus import GpuList
from app.launchers.local.records import get_number, read_exit, read_identity, read_record
from app.storage import files

_children: dict[Path, list[subprocess.Popen[bytes]]] = {}
"""Agents that this process spawned and must reap, by attempt; they outlive any launcher."""
_children_lock = threading.Lock()

SILENT_SECONDS = 10.0
"""After so long without a heartbeat, all of it watched, an agent elsewhere is gone."""
_MOST_WATCHED = 1.0  # of the time between two looks: of the rest we cannot know


@dataclass
class HeartbeatWatch:
    """The modification time of an identity.json, and for how long it has not changed.

    It is compared with itself only: the clocks of two machines differ.
    """

    mtime: int
    checked_at: float
    heartbeat_age: float = 0.0

    def is_alive(self, mtime: int) -> bool:
        """Return True if the agent counts as alive. `mtime`: of its identity.json now."""
        now = time.monotonic()
        watched = min(now - self.checked_at, _MOST_WATCHED)
        self.heartbeat_age = 0.0 if mtime != self.mtime else self.heartbeat_age + watched
        self.mtime, self.checked_at = mtime, now
        return self.heartbeat_age < SILENT_SECONDS


class LocalLauncher:
    """Runs trainers as child processes of this machine.

    Options: `gpus`: the types of the GPUs to offer; None: those that `nvidia-smi` lists.
    `max_runs`: how many runs it takes at a time; None: as many as fit.
    """

    owns_queue, shares_files = False, True
    look_seconds: float = 0.0
    max_pending: int | None = None

    def __init__(
        self,
        context: LauncherContext,
        name: str = "local",
        gpus: Sequence[str] | None = None,
        max_runs: int | None = None,
    ) -> None:
        self.name, self.data_dir, self.max_runs = name, context.data_dir, max_runs
        self.host = host_namespace().partition("/")[0]  # of every container on this machine
        self._gpus = GpuList(gpus, context.environment.get("CUDA_VISIBLE_DEVICES"))
        self._heartbeats: dict[Key, HeartbeatWatch] = {}

    def offer(self) -> Capacity:
        """Return what the idle machine could give."""
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Capacity(float(cpus or 1), memory / 1e9, self._gpus.get(), self.host, self.max_runs)

    def check(self, resources: Resources) -> Shortage | None:
        """Return what the idle machine lacks for a run with these resources."""
        allocation = allocate(resources, self.offer(), ())
        return allocation if isinstance(allocation, Shortage) else None

    def submit(self, job: Job) -> Submission:
        """Start the agent. The first of several claims the attempt; the others leave."""
        _reap()
        config = job.config
        assert config is not None
        config = {**config, "failpoints": failpoints.list_armed("agent.")}
        failpoints.failpoint("launch.before_spawn")
        try:
            with self._open_directory(job.key, make=True) as folder:
                if files.exists(folder, "identity.json"):
                    return Submission(None)
            child = self._spawn(job.key, config)
        except (OSError, ValueError) as error:
            raise LauncherError(f"The trainer's agent could not be started: {error}.") from error
        with _children_lock:
            _children.setdefault(self._directory(job.key), []).append(child)
        assert child.stdin is not None
        try:
            with child.stdin as pipe:
                pipe.write(json.dumps(config).encode())
        except BrokenPipeError:
            pass  # it died at once; `look` finds it ended without a claim
        failpoints.failpoint("launch.spawned")
        return Submission(None)

    def _spawn(self, key: Key, config: LaunchConfig) -> "subprocess.Popen[bytes]":
        run_dir = self._run_dir(key)
        log = _open_log(run_dir)
        try:
            return subprocess.Popen(  # noqa: S603 - this very interpreter
                command("directory", str(run_dir), str(key.attempt)),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**config["env"], NONCE: config["nonce"]},
                start_new_session=True,
            )
        finally:
            os.close(log)

    def look(self, keys: Sequence[Key]) -> Mapping[Key, JobStatus]:
        """Return what is known of each attempt; of one that cannot be read, the error."""
        _reap()
        statuses = {}
        for key in keys:
            try:
                statuses[key] = self._look(key)
            except Exception as error:  # one attempt must not hide the others
                statuses[key] = JobStatus(JobState.UNKNOWN, error=error)
        return statuses

    def _look(self, key: Key) -> JobStatus:
        try:
            # Opened, or a client of NFS may go on not to see what is new in it.
            with self._open_directory(key) as folder:
                return self._read(folder, key)
        except FileNotFoundError:
            return JobStatus(JobState.ABSENT)
        except files.Unusable as error:
            return JobStatus(JobState.ENDED, reason_text=f"{error.strerror}.")

    def _read(self, folder: int, key: Key) -> JobStatus:
        if record := read_exit(read_record(folder, "exit.json")):
            self._heartbeats.pop(key, None)
            return JobStatus(JobState.ENDED, record=record)
        stop_sent = files.exists(folder, "stop.json")
        claimed = read_record(folder, "identity.json")
        if claimed is None:
            return JobStatus(JobState.ABSENT, stop_sent=stop_sent)
        identity, reason = read_identity(claimed), "Its agent was killed from outside."
        if identity is not None and not identity.is_here():
            mtime = claimed["mtime"]
            watch = self._heartbeats.setdefault(key, HeartbeatWatch(mtime, time.monotonic()))
            if watch.is_alive(mtime):
                ran = get_number(read_record(folder, "age.json") or {}, "ran_seconds")
                return JobStatus(JobState.RUNNING, stop_sent=stop_sent, ran_seconds=ran)
            reason = f"No sign of life from its machine or container for {SILENT_SECONDS:g} s."
        elif identity is not None and identity.is_alive():
            started = get_number(claimed, "started")
            ran = None if started is None else time.monotonic() - started
            return JobStatus(
                JobState.RUNNING, pid=identity.pid, stop_sent=stop_sent, ran_seconds=ran
            )
        if record := read_exit(read_record(folder, "exit.json")):  # written since we looked
            return JobStatus(JobState.ENDED, record=record)
        pid = identity.pid if identity and identity.is_here() else None
        return JobStatus(JobState.ENDED, pid=pid, stop_sent=stop_sent, reason_text=reason)

    def stop(self, keys: Sequence[Key]) -> None:
        """Send the stop signal; what still lives after the grace is killed within a second."""
        for key in keys:
            self._end(key, kill=False, detail=STOPPED)

    def kill(self, keys: Sequence[Key]) -> None:
        """End the process trees now; return at once, or when a lost tree is gone."""
        for key in keys:
            self._end(key, kill=True, detail=STOPPED)

    def end_leftovers(self, key: Key, nonce: str) -> None:
        """End every process that carries `nonce`; the attempt never begins."""
        # First: an agent that outlived its trainer would record its end over what we record.
        processes.kill_tree(nonce)
        self._end(key, kill=True, detail="Its files were removed.")

    def strays(self) -> Sequence[Key]:
        """Return nothing: the processes of this machine end with their attempts."""
        return ()

    def exit_fd(self, key: Key) -> int | None:
        """Return a pidfd of the agent; None where it is not alive or there are no pidfds."""
        try:
            with self._open_directory(key) as folder:
                identity = read_identity(read_record(folder, "identity.json") or {})
        except (FileNotFoundError, files.Unusable):
            return None
        return processes.watch(identity) if identity else None

    def _end(self, key: Key, kill: bool, detail: str) -> None:
        unasked = None
        try:
            with self._open_directory(key, make=True) as folder:
                if read_exit(read_record(folder, "exit.json")):
                    return
                try:
                    _request_stop(folder, kill)
                except OSError as error:  # a full disk must not keep a trainer running
                    unasked = error
                if _prevent_start(folder, detail):
                    return
                identity = read_identity(read_record(folder, "identity.json") or {})
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

    def _run_dir(self, key: Key) -> Path:
        return (self.data_dir / "runs" / key.run_id).absolute()

    def _directory(self, key: Key) -> Path:
        return self._run_dir(key) / f"attempt-{key.attempt}"

    def _open_directory(self, key: Key, make: bool = False) -> AbstractContextManager[int]:
        """Open an attempt's directory: the trainer can put anything where it belongs."""
        run_dir = self._run_dir(key)
        return files.directory(run_dir.parent, run_dir.name, f"attempt-{key.attempt}", make=make)


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
                        _prevent_start(folder, detail)
                    finally:
                        os.close(folder)


def _request_stop(folder: int, kill: bool) -> None:
    """Write stop.json; a kill is never taken back to a stop. What is no request is replaced."""
    asked = (read_record(folder, "stop.json") or {}).get("kill")
    if not isinstance(asked, bool) or kill > asked:
        request = {"kill": kill, "at": now()}
        files.write(folder, "stop.json", json.dumps(request).encode())


def _prevent_start(folder: int, detail: str) -> bool:
    """End an attempt that no agent has claimed: none can any more. False: one has."""
    record = read_record(folder, "identity.json")
    if record is None and attempt_files.claim(folder, {"format": 1, "pid": None}):
        record = {}
    if record is None or read_identity(record):
        return False
    if not read_exit(read_record(folder, "exit.json")):
        attempt_files.write_exit(folder, ExitRecord(ended_at=now(), detail=detail))
    return True


def _open_log(run_dir: Path) -> int:
    """Open train.log for appending; what is no plain file is set aside."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with files.directory(run_dir.parent, run_dir.name, make=True) as folder:
        try:
            log = files.open_file(folder, "train.log", flags)
        except files.Unusable:
            files.set_aside(folder, "train.log")
            log = files.open_file(folder, "train.log", flags)
    os.set_blocking(log, True)  # it becomes the trainer's stdout
    return log
