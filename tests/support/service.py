"""A client for tests that tell a story: a running server, recipes of misbehaving trainers.

    with running(tmp_path) as service:           # a server with every trainer of `trainers`
        run = service.submit("obedient", steps=50)
        service.cancel(run)
        service.ended(run)["status"]

`Service` speaks REST only. `Home` is what outlives a server: its directory and its port, so that a
server that was killed can be started again where the trainers look for it. Leaving `home` ends
what trainers of all its servers are left alive, and asserts that none was.
"""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support import trainers
from tests.support.server import (
    PATIENCE_SECONDS,
    REPOSITORY,
    alive,
    free_port,
    running_server,
    wait_until,
)

TERMINAL = ("succeeded", "failed", "cancelled")


def recipes(path: Path, **overrides: str) -> Path:
    """A recipes file with every trainer, quick about it; `overrides` add lines to some."""
    defaults = (
        "grace_seconds = 3.0\nheartbeat_seconds = 30\nretry_seconds = 0\n"
        'env_allow = ["PATH", "PYTHONPATH"]\n'
    )
    tables = []
    for name in trainers.NAMES:
        command = json.dumps(trainers.argv(name))
        own = overrides.get(name, "")
        keys = {line.split("=")[0].strip() for line in own.splitlines()}
        lines = [each for each in defaults.splitlines() if each.split("=")[0].strip() not in keys]
        tables.append(
            "\n".join(
                [
                    f"[recipes.{name}]",
                    f"command = {command}",
                    f"working_dir = {json.dumps(str(REPOSITORY))}",
                    *lines,
                    own,
                ]
            )
        )
    path.mkdir(exist_ok=True)
    file = path / "recipes.toml"
    file.write_text("\n\n".join(tables))
    return file


@dataclass
class Service:
    """A running service, over REST."""

    url: str
    pid: int
    home: Path
    log: Path
    experiment: str = ""
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60, verify=False))
    """Without `verify=False` each client would load all certificates, for 30 ms and no TLS."""
    poll_seconds: float = 0.02
    """Between two looks at a run that is waited for; longer where runs need the processor."""

    @property
    def data_dir(self) -> Path:
        return self.home / "data"

    def post(self, path: str, body: Any = None, expect: int | None = None, **headers: str) -> Any:
        """POST JSON under /v1; the answer's JSON."""
        answer = self.http.post(f"{self.url}/v1{path}", json=body, headers=headers)
        assert expect is None or answer.status_code == expect, answer.text
        assert answer.status_code < 500, answer.text
        return answer.json()

    def get(self, path: str) -> Any:
        """GET JSON under /v1."""
        answer = self.http.get(f"{self.url}/v1{path}")
        answer.raise_for_status()
        return answer.json()

    def open(self) -> str:
        """An experiment of our own."""
        body = {"name": "durable", "task_type": "test"}
        self.experiment = self.post("/experiments", body, 201)["experiment_id"]
        return self.experiment

    def submit(self, recipe: str | None, key: str | None = None, **hyperparams: Any) -> str:
        """A new run; its id."""
        body = {"model": "tiny", "recipe": recipe, "hyperparams": hyperparams}
        headers = {"Idempotency-Key": key} if key else {}
        path = f"/experiments/{self.experiment}/runs"
        return str(self.post(path, body, 201, **headers)["run_id"])

    def status(self, run: str) -> Any:
        return self.get(f"/experiments/{self.experiment}/runs/{run}/status")

    def cancel(self, run: str, expect: int | None = None) -> Any:
        return self.post(f"/experiments/{self.experiment}/runs/{run}/cancel", None, expect)

    def resume(self, run: str, expect: int | None = 201, **body: Any) -> Any:
        return self.post(f"/experiments/{self.experiment}/runs/{run}/resume", body, expect)

    def detail(self) -> Any:
        return self.get(f"/experiments/{self.experiment}/detail")

    def events(self, run: str | None = None) -> list[Any]:
        """The history, of one run if one is given."""
        return [e for e in self.detail()["events"] if run in (None, e["run_id"])]

    def checkpoints(self, run: str) -> dict[str, Any]:
        """The checkpoints of a run, by name."""
        found = [c for c in self.detail()["checkpoints"] if c["run_id"] == run]
        return {c["ckpt_path"].rsplit("/", 1)[1]: c for c in found}

    def losses(self, run: str) -> list[tuple[int, float]]:
        """Every stored point of the key `loss`, of all attempts."""
        path = f"/experiments/{self.experiment}/runs/{run}/metrics"
        series = self.get(f"{path}?keys=loss&raw=true&limit=100000")["series"]
        return [p for each in series for p in zip(each["steps"], each["values"], strict=True)]

    def overrides(self, run: str) -> dict[str, Any]:
        """Return what became of each overridden hyperparameter of a run, by name."""
        query = (
            "query ($id: ID!) { run(id: $id) { overrides { key requested effective applied } } }"
        )
        body = {"query": query, "variables": {"id": run}}
        answer = self.http.post(f"{self.url}/graphql", json=body).json()
        return {each["key"]: each for each in answer["data"]["run"]["overrides"]}

    def directory(self, checkpoint: Any) -> Path:
        """Where the files of a checkpoint lie."""
        path: str = checkpoint["ckpt_path"]
        return self.data_dir / path.lstrip("/")

    def until(self, run: str, *statuses: str, timeout: float = PATIENCE_SECONDS) -> Any:
        """Wait until a run has one of these statuses."""
        return wait_until(
            lambda: (now := self.status(run))["status"] in statuses and now,
            lambda: f"{' or '.join(statuses)}: {self.status(run)}\n{self.log.read_text()[-2000:]}",
            timeout,
            self.poll_seconds,
        )

    def ended(self, run: str, timeout: float = PATIENCE_SECONDS) -> Any:
        """Wait until a run is over."""
        return self.until(run, *TERMINAL, timeout=timeout)

    def stepping(self, run: str, step: int = 1, timeout: float = PATIENCE_SECONDS) -> Any:
        """Wait until a run has reported this step; one that ends before is an error at once."""

        def reached() -> Any:
            now = self.status(run)
            assert now["step"] >= step or now["status"] not in TERMINAL, now
            return now["step"] >= step and now

        return wait_until(
            reached,
            lambda: f"at step {step}: {self.status(run)}\n{self.log.read_text()[-2000:]}",
            timeout,
            self.poll_seconds,
        )

    def kill(self) -> None:
        """kill -9 of the server."""
        os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not alive(self.pid), "the server is dead")

    def run_dir(self, run: str) -> Path:
        """Where a run's trainer has its files."""
        return self.data_dir / "runs" / run

    def trainer(self, run: str, attempt: int = 1) -> psutil.Process:
        """The trainer's process, a child of its agent."""
        children = wait_until(self.agent(run, attempt).children, "the trainer's process")
        return children[0]

    def agent(self, run: str, attempt: int = 1) -> psutil.Process:
        """The agent's process."""
        file = self.data_dir / "runs" / run / f"attempt-{attempt}" / "identity.json"
        wait_until(file.exists, f"{file} exists")
        return psutil.Process(json.loads(file.read_bytes())["pid"])

    def launches(self, run: str) -> list[int]:
        """The attempts of which a trainer really began, as the trainers wrote it down."""
        ledger = self.data_dir / "runs" / run / "launches.txt"
        if not ledger.exists():
            return []
        return [int(line.split()[0]) for line in ledger.read_text().splitlines()]


@dataclass
class Home:
    """What outlives a server."""

    path: Path
    port: int = field(default_factory=free_port)
    experiment: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    code: Path = REPOSITORY
    poll_seconds: float = 0.02
    """Of its services."""

    @contextmanager
    def serve(self, **settings: str) -> Iterator[Service]:
        """A server here; the same experiment again after the first."""
        environment: dict[str, Any] = self.settings | settings
        with running_server(
            self.path, port=self.port, code=self.code, keep_trainers=True, **environment
        ) as server:
            service = Service(
                server.url, server.pid, self.path, server.log, self.experiment,
                poll_seconds=self.poll_seconds,
            )  # fmt: skip
            with service.http:
                self.experiment = service.experiment or service.open()
                yield service


@contextmanager
def home(tmp_path: Path, database_url: str | None = None, **overrides: str) -> Iterator[Home]:
    """A place for one server after another, by default with a SQLite file.

    `overrides`: lines for recipes, by trainer.
    """
    found = Home(tmp_path, settings={"RECIPES": str(recipes(tmp_path, **overrides))})
    if database_url is not None:
        found.settings["DATABASE_URL"] = database_url
    try:
        yield found
    finally:
        left = orphans(tmp_path)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    assert not left, f"left alive: {left}"


@contextmanager
def running(tmp_path: Path, database_url: str | None = None, **overrides: str) -> Iterator[Service]:
    """One server with every trainer."""
    with home(tmp_path, database_url, **overrides) as place, place.serve() as service:
        yield service


def orphans(tmp_path: Path) -> list[psutil.Process]:
    """The processes of runs under this directory, agents and trainers."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("LLM_TRAIN_RUN_DIR", "").startswith(str(tmp_path))
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def was_killed(service: Service, run: str, attempt: int = 1) -> bool:
    """Return True if an attempt's agent has killed the trainer, as it does after the grace."""
    file = service.data_dir / "runs" / run / f"attempt-{attempt}" / "exit.json"
    killed: bool = json.loads(file.read_bytes())["killed"]
    return killed
