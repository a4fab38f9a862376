"""The smallest launcher that shares no files: `directory` is its machine, with folders of agents.

Made by the steps in `app/launchers/base.py` alone, and installed as they say by the tests that hold
it to the contract. Its engine is the files that it leaves there: it outlives every server.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from app.agent import bundle
from app.agent.process import KILL, STOP
from app.domain.resources import Capacity, Resources, Shortage
from app.launchers.base import (
    HttpMailboxAddress,
    Job,
    JobState,
    JobStatus,
    Key,
    LauncherContext,
    Submission,
)

_children: list["subprocess.Popen[bytes]"] = []
"""Agents that this process must reap."""


class Shed:
    """Starts each agent as a process of its own. Option: `directory`."""

    owns_queue, shares_files = False, False
    look_seconds: float = 0.1
    max_pending: int | None = None

    def __init__(self, context: LauncherContext, name: str, directory: str) -> None:
        self.name, self.directory = name, Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)

    def offer(self) -> Capacity:
        return Capacity(cpus=64.0, memory_gb=64.0)

    def check(self, resources: Resources) -> Shortage | None:
        return None

    def submit(self, job: Job) -> Submission:
        assert isinstance(job.mailbox, HttpMailboxAddress)
        own = Path(tempfile.mkdtemp(prefix=f"{job.key.name}.", dir=self.directory))
        (own / "agent.zip").write_bytes(bundle.make())
        command = [
            sys.executable, "-I", "-S", str(own / "agent.zip"), "http", job.mailbox.api_url,
            job.key.run_id, str(job.key.attempt), str(own / "files"),
        ]  # fmt: skip
        environment = {"PATH": os.environ["PATH"], "LLM_TRAIN_CLAIM_CODE": job.mailbox.claim_code}
        agent = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
        _children.append(agent)
        with suppress(psutil.NoSuchProcess):
            (own / "pid").write_text(f"{agent.pid} {psutil.Process(agent.pid).create_time()}")
        return Submission(str(agent.pid))

    def look(self, keys: Sequence[Key]) -> Mapping[Key, JobStatus]:
        return {key: JobStatus(self._state(key)) for key in keys}

    def _state(self, key: Key) -> JobState:
        if not list(self.directory.glob(f"{key.name}.*/pid")):
            return JobState.ABSENT
        return JobState.RUNNING if list(self._agents(key.name)) else JobState.ENDED

    def _agents(self, name: str = "*") -> Iterator[tuple[str, psutil.Process]]:
        _children[:] = [child for child in _children if child.poll() is None]
        for file in self.directory.glob(f"{name}.*/pid"):
            pid, created = file.read_text().split()
            with suppress(psutil.NoSuchProcess):
                agent = psutil.Process(int(pid))
                if agent.create_time() == float(created) and agent.status() != "zombie":
                    yield file.parent.name, agent

    def stop(self, keys: Sequence[Key]) -> None:
        self._signal(keys, STOP)

    def kill(self, keys: Sequence[Key]) -> None:
        self._signal(keys, KILL)

    def _signal(self, keys: Sequence[Key], number: int) -> None:
        for key in keys:
            for _, agent in self._agents(key.name):
                with suppress(psutil.NoSuchProcess):
                    agent.send_signal(number)

    def strays(self) -> Sequence[Key]:
        names = {name.rpartition(".")[0] for name, _ in self._agents()}
        return [Key(name.rpartition(".")[0], int(name.rpartition(".")[2])) for name in names]
