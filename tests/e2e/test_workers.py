"""`llm-train serve --workers N`: several processes on one socket and one PostgreSQL."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.database import PostgreSQL, postgresql_server
from tests.support.replicas import leader
from tests.support.server import REPOSITORY, Server, running_server, wait_until

LLM_TRAIN = Path(sys.executable).with_name("llm-train")
EVERY = 0.2
"""Seconds between two looks at all connections of processes, or over a new one of PostgreSQL."""
WITHOUT_TLS = False
"""For `verify`: each of hundreds of clients would load all certificates, for 30 ms and no TLS."""


@pytest.fixture(scope="module")
def database_server() -> Iterator[PostgreSQL]:
    with postgresql_server() as server:
        yield server


@contextmanager
def two_workers(tmp_path: Path, url: str) -> Iterator[Server]:
    command = [str(LLM_TRAIN), "serve", "--workers", "2"]
    with running_server(tmp_path, command=command, DATABASE_URL=url) as server:
        wait_until(lambda: len(workers(server.pid)) == 2, "both workers serve", every=EVERY)
        yield server


@pytest.fixture(scope="module")
def served(
    database_server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Two workers, of which a test may kill one: another is started."""
    with two_workers(tmp_path_factory.mktemp("workers"), database_server.url("postgres")) as server:
        yield server


def workers(pid: int) -> list[psutil.Process]:
    """The workers that serve: they have a client's connection or listen, and hold PostgreSQL's."""
    found = psutil.Process(pid).children()
    return [
        process
        for process in found
        if process.status() != psutil.STATUS_ZOMBIE
        and sum(c.status == psutil.CONN_LISTEN for c in process.net_connections("tcp"))
        and len(process.net_connections("unix")) > 3
    ]


def spread(server: Server, most: int = 400) -> list[str]:
    """Create experiments, each over a connection of its own, until each worker had some."""
    made = []
    before = {p.pid: sum(p.cpu_times()[:2]) for p in workers(server.pid)}
    for number in range(most):
        body = {"name": f"e{number}", "task_type": "sft"}
        answer = httpx.post(f"{server.url}/v1/experiments", json=body, verify=WITHOUT_TLS)
        assert answer.status_code == 201
        made.append(answer.json()["experiment_id"])
        if number % 20 == 19:
            now = {p.pid: sum(p.cpu_times()[:2]) for p in workers(server.pid)}
            if all(now.get(pid, 0) > was + 0.02 for pid, was in before.items()):
                return made
    raise AssertionError("one of the workers got nothing to do")


def test_two_workers_share_the_work_and_one_of_them_leads(served: Server) -> None:
    made = spread(served)
    with httpx.Client(base_url=served.url) as client:
        for experiment_id in made:  # by whichever worker has this connection
            assert client.get(f"/v1/experiments/{experiment_id}/detail").status_code == 200
    pids = {process.pid for process in workers(served.pid)}
    assert wait_until(lambda: leader(served.database_url), "a worker leads", every=EVERY) in pids
    assert served.pid not in pids


def test_a_worker_that_is_killed_is_started_again_and_the_other_goes_on(served: Server) -> None:
    url = served.database_url
    was = {process.pid for process in workers(served.pid)}
    killed = wait_until(lambda: leader(url), "a worker leads", every=EVERY)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: leader(url) not in (None, killed), "the other leads", every=EVERY)
    assert spread_one(served) == 201
    wait_until(lambda: len(workers(served.pid)) == 2, "two workers again", every=EVERY)
    now = {process.pid for process in workers(served.pid)}
    assert len(now & was) == 1
    assert f"worker {killed} ended with -9" in served.log.read_text()


def spread_one(server: Server) -> int:
    """A request that is tried again where its connection was the killed worker's."""
    transport = httpx.HTTPTransport(retries=3)
    with httpx.Client(transport=transport) as client:
        return client.post(
            f"{server.url}/v1/experiments", json={"name": "e", "task_type": "sft"}
        ).status_code


def test_the_workers_end_when_their_parent_is_killed(
    database_server: PostgreSQL, tmp_path: Path
) -> None:
    database_server.execute("CREATE DATABASE abandoned")
    with two_workers(tmp_path, database_server.url("abandoned")) as server:
        found = workers(server.pid)
        os.kill(server.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(found, timeout=60)
        assert not alive, "they would hold the port for ever"


def test_sqlite_has_one_process(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LLM_TRAIN_")}
    ended = subprocess.run(
        [LLM_TRAIN, "serve", "--workers", "2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env=environment | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "llm-train: several workers need PostgreSQL, and SQLite has one process: set "
        "LLM_TRAIN_DATABASE_URL, or leave --workers out"
    ]
    assert not list(tmp_path.iterdir()), "nothing is made"
