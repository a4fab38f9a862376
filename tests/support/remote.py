"""A second, tiny launcher whose agents share no files with the service, and a service to restart.

`RemoteLauncher` starts agents as processes on this machine, each in a directory of its own; they
know the service's URL and their claim code, and nothing else. Its engine outlives the service.
`RemoteService` is the app on a real socket, which a test stops and starts again on the same port.
"""

import asyncio
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn

from app.agent import bundle
from app.domain.resources import Capacity, Resources, Shortage
from app.launchers import BUILT_IN
from app.launchers.base import (
    HttpMailboxAddress,
    Job,
    JobState,
    JobStatus,
    Key,
    LauncherContext,
    Submission,
)
from app.main import create_app
from app.settings import Settings
from tests.support import trainers
from tests.support.server import alive, free_port, wait_until
from tests.support.service import TERMINAL, recipes

Agents = dict[Key, list["subprocess.Popen[bytes]"]]
_engines: defaultdict[Path, Agents] = defaultdict(dict)
"""The agents of each engine, by its directory: they outlive any launcher."""


class RemoteLauncher:
    """Starts each agent from a zip file, in a directory of its own, below `directory`."""

    owns_queue, shares_files = False, False
    look_seconds: float = 0.1
    max_pending: int | None = None
    copies = 1
    """How many agents each submission starts."""
    before_start: Callable[[], object] | None = None

    def __init__(self, context: LauncherContext, directory: str, name: str = "remote") -> None:
        self.name, self.directory = name, Path(directory)
        self.directory.mkdir(exist_ok=True)
        self._agents = _engines[self.directory]
        self.stopped: list[Key] = []
        self.forgotten: list[Key] = []
        self._zip = self.directory / "agent.zip"
        self._zip.write_bytes(bundle.make())

    def offer(self) -> Capacity:
        return Capacity(64.0, 64.0, ())

    def check(self, resources: Resources) -> Shortage | None:
        return None

    def submit(self, job: Job) -> Submission:
        assert isinstance(job.mailbox, HttpMailboxAddress)
        started = self._agents.setdefault(job.key, [])
        if self.before_start is not None:
            self.before_start()
        for _ in range(self.copies):
            own = self.directory / f"{job.key.name}.{len(started)}"
            # As a machine without the service: `-I -S` leaves out all that is installed.
            command = [
                sys.executable, "-I", "-S", str(self._zip), "http", job.mailbox.api_url,
                job.key.run_id, str(job.key.attempt), str(own),
            ]  # fmt: skip
            agent = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
            started.append(agent)
            assert agent.stdin is not None
            with agent.stdin as pipe:
                pipe.write(job.mailbox.claim_code.encode() + b"\n")
        return Submission(str(started[0].pid))

    def look(self, keys: Sequence[Key]) -> Mapping[Key, JobStatus]:
        return {key: JobStatus(self._state(key)) for key in keys}

    def _state(self, key: Key) -> JobState:
        agents = self._agents.get(key)
        if not agents:
            return JobState.ABSENT
        running = any(agent.poll() is None for agent in agents) and key not in self.forgotten
        return JobState.RUNNING if running else JobState.ENDED

    def stop(self, keys: Sequence[Key]) -> None:
        self.stopped += keys
        self._signal(keys, signal.SIGTERM)

    def kill(self, keys: Sequence[Key]) -> None:
        self._signal(keys, signal.SIGUSR1)

    def _signal(self, keys: Sequence[Key], number: int) -> None:
        for key in keys:
            for agent in self._agents.get(key, ()):
                agent.send_signal(number)

    def strays(self) -> Sequence[Key]:
        return [key for key in self._agents if self._state(key) is JobState.RUNNING]

    def agents(self, key: Key) -> list[psutil.Process]:
        """The agents of an attempt."""
        return [psutil.Process(agent.pid) for agent in self._agents[key]]

    def forget(self, key: Key) -> None:
        """Say of an attempt, as a scheduler may, that it has ended, whatever lives of it."""
        self.forgotten.append(key)

    def trainers(self) -> list[psutil.Process]:
        """The trainers that live now."""
        found = []
        for agents in self._agents.values():
            for agent in agents:
                with suppress(psutil.NoSuchProcess):
                    found += [each for each in psutil.Process(agent.pid).children() if alive(each)]
        return found

    def close(self) -> None:
        """Kill what is left."""
        for agents in self._agents.values():
            for agent in agents:
                with suppress(psutil.NoSuchProcess):
                    children = psutil.Process(agent.pid).children(recursive=True)
                    for child in children:
                        with suppress(psutil.NoSuchProcess):  # the next ones live on
                            child.kill()
                agent.kill()
                agent.wait()


class RemoteService:
    """The service, and its launcher."""

    def __init__(self, home: Path, database_url: str, store: str = "", **overrides: str) -> None:
        """`overrides`: lines for recipes, by trainer. `store`: a table `[stores.main]`."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = home / "data"
        lines = {name: f'launcher = "remote"\n{overrides.get(name, "")}' for name in trainers.NAMES}
        file = recipes(home, **lines)
        elsewhere = home / "elsewhere"
        table = f'\n[launchers.remote]\nkind = "remote"\ndirectory = "{elsewhere}"\n'
        file.write_text(file.read_text() + table + store)
        self.settings = Settings(
            database_url=database_url, data_dir=self.data_dir, recipes=file,
            public_url=self.url, port=self.port, storage="main" if store else "directory:",
        )  # fmt: skip
        self.http = httpx.Client(base_url=self.url, timeout=60, verify=False)
        self.start()
        body = {"name": "remote", "task_type": "test"}
        self.experiment = self.http.post("/v1/experiments", json=body).json()["experiment_id"]

    def start(self) -> None:
        """Serve, as a new process would."""
        app = create_app(self.settings)
        app.state.storage.prepare()
        config = uvicorn.Config(
            app, port=self.port, ws="none", log_config=None, timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._server.serve(),)
        )
        self._thread.start()
        wait_until(lambda: self._server.started, "the service answers")
        launcher = app.state.supervisor.state.launchers["remote"]
        assert isinstance(launcher, RemoteLauncher)
        self.launcher = launcher

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(60)
        self._loop.close()

    def submit(self, recipe: str, **hyperparams: Any) -> Key:
        """A new run, and its first attempt."""
        body = {"model": "tiny", "recipe": recipe, "hyperparams": hyperparams}
        path = f"/v1/experiments/{self.experiment}/runs"
        return Key(self.http.post(path, json=body).json()["run_id"], 1)

    def resume(self, key: Key, **body: Any) -> Key:
        """A run that goes on from the newest checkpoint, and its first attempt."""
        path = f"/v1/experiments/{self.experiment}/runs/{key.run_id}/resume"
        return Key(self.http.post(path, json=body).json()["run_id"], 1)

    def end(self, key: Key) -> Any:
        """Wait until the run is over; the run as it is then."""
        return wait_until(
            lambda: (now := self.status(key))["status"] in TERMINAL and now,
            lambda: f"the end of {self.status(key)} {self.log(key)}",
        )  # fmt: skip

    def status(self, key: Key) -> Any:
        path = f"/v1/experiments/{self.experiment}/runs/{key.run_id}/status"
        return self.http.get(path).json()

    def stepping(self, key: Key, step: int = 1) -> None:
        wait_until(
            lambda: self.status(key)["step"] >= step,
            lambda: f"at step {step}: {self.status(key)} {self.log(key)}",
        )  # fmt: skip

    def checkpoints(self, run_id: str) -> dict[str, Any]:
        found = self.http.get(f"/v1/experiments/{self.experiment}/detail").json()["checkpoints"]
        return {c["ckpt_path"].rpartition("/")[2]: c for c in found if c["run_id"] == run_id}

    def log(self, key: Key) -> str:
        path = f"/v1/experiments/{self.experiment}/runs/{key.run_id}/logs"
        return self.http.get(path).text

    def cancel(self, key: Key) -> Any:
        path = f"/v1/experiments/{self.experiment}/runs/{key.run_id}/cancel"
        return self.http.post(path).json()

    def close(self) -> None:
        self.launcher.close()
        self.http.close()
        self.stop()


@contextmanager
def remote_service(
    home: Path, database_url: str, store: str = "", **overrides: str
) -> Iterator[RemoteService]:
    """A service with a launcher that shares no files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUILT_IN, "remote", f"{__name__}:RemoteLauncher")
        service = RemoteService(home, database_url, store, **overrides)
        try:
            yield service
        finally:
            service.close()
