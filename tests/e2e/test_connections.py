"""A PostgreSQL with few connections: each server says how many it needs, and keeps to that."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.support.database import PostgreSQL, dsn, postgresql_server
from tests.support.server import refused_start, running_server, wait_until

FEW = 11  # one of them for the test itself


@pytest.fixture(scope="module")
def small() -> Iterator[PostgreSQL]:
    with postgresql_server(max_connections=FEW) as server:
        yield server


def _refused(small: PostgreSQL, tmp_path: Path, **settings: str) -> str:
    return refused_start(tmp_path, DATABASE_URL=small.url("postgres"), **settings)


def test_a_server_that_needs_more_than_there_are_says_so_and_ends(
    small: PostgreSQL, tmp_path: Path
) -> None:
    (line,) = _refused(small, tmp_path).splitlines()  # by default it may open 16
    assert f"of its {FEW} connections 0 are in use, and this server opens up to 16" in line
    assert f"set LLM_TRAIN_DATABASE_CONNECTIONS to {FEW} or less" in line


def test_two_servers_share_them_under_load_and_a_third_is_told(
    small: PostgreSQL, tmp_path: Path
) -> None:
    own: dict[str, Any] = {"DATABASE_URL": small.url("postgres"), "DATABASE_CONNECTIONS": "5"}
    (tmp_path / "two").mkdir()
    with (
        running_server(tmp_path, **own) as one,
        running_server(tmp_path / "two", **own) as two,
        httpx.Client() as client,
        ThreadPoolExecutor(16) as clients,
    ):

        def create(number: int) -> int:
            url = (one, two)[number % 2].url + "/v1/experiments"
            made = client.post(url, json={"name": "a", "task_type": "b"}, timeout=30)
            found = client.get(f"{url}/{made.json()['experiment_id']}/detail", timeout=30)
            return max(made.status_code, found.status_code)

        assert set(clients.map(create, range(200))) == {201}
        with psycopg.connect(dsn(small.url("postgres"))) as connection:
            counted = connection.execute(
                "SELECT application_name, count(*) FROM pg_stat_activity"
                " WHERE application_name LIKE 'llm-train%' GROUP BY 1"
            ).fetchall()
        assert len(counted) == 2 and all(number <= 4 for _, number in counted)  # and a listener
        # Backends of connections that were just closed count until they have ended.
        told: list[str] = []

        def is_told() -> bool:
            told.append(_refused(small, tmp_path, DATABASE_CONNECTIONS="5"))
            return "10 are in use" in told[-1]

        wait_until(is_told, lambda: told[-1])
        assert "raise PostgreSQL's max_connections" in told[-1]
