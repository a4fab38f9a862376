"""A second, tiny launcher whose agents share no files with the service, and a service to restart.

`RemoteLauncher` starts agents as processes on this machine, each in a directory of its own; they
know the service's URL and their claim code, and nothing else.
`RemoteService` is the app on a real socket, which a test stops and starts again on the same port;
its supervisor verifies checkpoints, and the test plays the rest of it.
"""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest
import uvicorn

from app.agent import bundle
from app.db.sql import Tx
from app.db.tables import Run
from app.domain.evidence import Evidence
from app.domain.recipes import Recipe
from app.domain.resources import Capacity, Resources, Shortage
from app.domain.tokens import claim_code
from app.launchers.base import HttpMailboxAddress, Job, JobState, JobStatus, Key, Submission
from app.main import create_app
from app.services import attempts, checkpoints, endings, launches, runs
from app.settings import Settings
from app.storage import data_dir
from app.supervisor.verifying import verify, verify_requested
from tests.support.server import alive, free_port, wait_until

T = TypeVar("T")


class RemoteLauncher:
    """Starts each agent from a zip file, in a directory of its own, below `directory`."""

    name, owns_queue, shares_files = "remote", False, False

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self._agents: dict[Key, list[subprocess.Popen[bytes]]] = {}
        self._zip = directory / "agent.zip"
        self._zip.write_bytes(bundle.make())

    def offer(self) -> Capacity:
        return Capacity(1.0, 1.0, ())

    def check(self, resources: Resources) -> Shortage | None:
        return None

    def submit(self, job: Job) -> Submission:
        assert isinstance(job.mailbox, HttpMailboxAddress)
        started = self._agents.setdefault(job.key, [])
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
        return Submission(str(agent.pid))

    def look(self, keys: Sequence[Key]) -> Mapping[Key, JobStatus]:
        return {key: JobStatus(self._state(key)) for key in keys}

    def _state(self, key: Key) -> JobState:
        agents = self._agents.get(key)
        if not agents:
            return JobState.ABSENT
        running = any(agent.poll() is None for agent in agents)
        return JobState.RUNNING if running else JobState.ENDED

    def stop(self, keys: Sequence[Key]) -> None:
        self._signal(keys, signal.SIGTERM)

    def kill(self, keys: Sequence[Key]) -> None:
        self._signal(keys, signal.SIGUSR1)

    def _signal(self, keys: Sequence[Key], number: int) -> None:
        for key in keys:
            for agent in self._agents.get(key, ()):
                agent.send_signal(number)

    def strays(self) -> Sequence[Key]:
        return [key for key in self._agents if self._state(key) is JobState.RUNNING]

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
                    for child in psutil.Process(agent.pid).children(recursive=True):
                        child.kill()
                agent.kill()
                agent.wait()


class RemoteService:
    """The service, its launcher, and the supervisor's part played step by step."""

    def __init__(self, home: Path, recipes: Path, database_url: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = home / "data"
        self.settings = Settings(
            database_url=database_url, data_dir=self.data_dir, recipes=recipes,
            public_url=self.url, port=self.port,
        )  # fmt: skip
        self.launcher = RemoteLauncher(home / "elsewhere")
        self.http = httpx.Client(base_url=self.url, timeout=20)
        self.start()
        body = {"name": "remote", "task_type": "test"}
        self.experiment = self.http.post("/v1/experiments", json=body).json()["experiment_id"]

    def start(self) -> None:
        """Serve, as a new process would."""
        self.app = create_app(self.settings)
        config = uvicorn.Config(
            self.app, port=self.port, ws="none", log_config=None, timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._server.serve(),)
        )
        self._thread.start()
        wait_until(lambda: self._server.started, "the service answers")

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self._loop.close()

    def write(self, use_case: Any, *args: Any, **more: Any) -> Any:
        work = self.app.state.db.write(use_case, *args, **more)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def submit(self, recipe: str, **hyperparams: Any) -> str:
        """A new run, which waits; its id."""
        body = {"model": "tiny", "recipe": recipe, "hyperparams": hyperparams}
        path = f"/v1/experiments/{self.experiment}/runs"
        run: str = self.http.post(path, json=body).json()["run_id"]
        return run

    def launch(self, run_id: str, agents: int = 1) -> Key:
        """The supervisor claims the run's next attempt, and submits its job, maybe twice."""
        place = data_dir.get_name(self.data_dir)

        def submission(tx: Tx) -> Run:
            run = runs.get(tx, run_id)
            source = next(iter(launches.list_sources(tx, run)), None)
            claimed = launches.claim(tx, run, [], source, None, place)
            assert claimed is not None
            spec = launches.make_spec(claimed, source, self.app.state.storage) | {
                "files": "http", "attempt": claimed.attempt, "heartbeat_seconds": 30,
                "stop_checkpoint": f"cancel-{claimed.attempt}",
            }  # fmt: skip
            code = claim_code(self.app.state.secret, run_id, claimed.attempt)
            attempts.create(tx, claimed, code, spec, source and source.stored.ckpt_path)
            return claimed

        run = self.write(submission)
        key = Key(run_id, run.attempt)
        code = claim_code(self.app.state.secret, run_id, run.attempt)
        job = Job(key, Resources(), None, HttpMailboxAddress(self.url, code), None)
        for _ in range(agents):
            self.launcher.submit(job)
        return key

    def end(self, key: Key) -> Any:
        """The supervisor finds the exit record, and records the end; the run as it is then."""

        def exited() -> Any:
            return attempts.get_exit(self.write(attempts.get, *key))

        record = wait_until(exited, lambda: f"the agent reports the end: {self.status(key)}", 30)
        self.settled(key.run_id)

        def finish(tx: Tx) -> bool:
            evidence = Evidence(
                cancel_asked=False, exit_code=record.exit_code, signal=record.signal,
                stop_sent=record.stop_sent, killed=record.killed,
                launch_error=record.detail if record.never_ran else None,
            )  # fmt: skip
            absent = frozenset(each.id for each in checkpoints.lock_pending(tx, key.run_id))
            return endings.finish_attempt(tx, *key, evidence, Recipe("", ()), absent)

        self.write(finish)
        return self.status(key)

    def settled(self, run_id: str) -> None:
        """Wait until the service has verified what was uploaded."""

        def nothing_waits() -> bool:
            known = self.checkpoints(run_id).values()
            there = [each for each in known if (self.data_dir / each["ckpt_path"][1:]).exists()]
            return all(each["state"] != "pending" for each in there)

        wait_until(nothing_waits, lambda: f"verified: {self.checkpoints(run_id)}")

    def status(self, run: "Key | str") -> Any:
        run_id = run.run_id if isinstance(run, Key) else run
        return self.http.get(f"/v1/experiments/{self.experiment}/runs/{run_id}/status").json()

    def stepping(self, key: Key, step: int = 1) -> None:
        wait_until(
            lambda: self.status(key)["step"] >= step,
            lambda: f"at step {step}: {self.status(key)} {self.log(key)}", 30,
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
def remote_service(home: Path, recipes: Path, database_url: str) -> Iterator[RemoteService]:
    """A service with a launcher that shares no files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.supervisor.STEPS", (verify, verify_requested))
        service = RemoteService(home, recipes, database_url)
        try:
            yield service
        finally:
            service.close()
