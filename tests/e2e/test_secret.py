"""The secret of the run tokens is the database's: servers that share no files sign alike."""

from pathlib import Path

import httpx

from app.domain.tokens import run_token
from tests.support.database import postgresql_only
from tests.support.server import running_server


def submit(url: str) -> tuple[str, str]:
    """An external run; its id and its token."""
    path = f"{url}/v1/experiments"
    experiment = httpx.post(path, json={"name": "a", "task_type": "b"}).json()["experiment_id"]
    run = httpx.post(f"{path}/{experiment}/runs", json={"model": "m"}).json()
    return run["run_id"], run["run_token"]


def report(url: str, run: str, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.post(
        f"{url}/v1/runs/{run}/reports", json={"session": "s"}, headers=headers
    ).status_code


@postgresql_only
def test_a_trainer_may_report_to_any_replica(tmp_path: Path, database_url: str) -> None:
    directories = [tmp_path / name for name in ("one", "two")]
    for directory in directories:
        directory.mkdir()
    with (
        running_server(directories[0], DATABASE_URL=database_url) as one,
        running_server(directories[1], DATABASE_URL=database_url) as two,
    ):
        run, token = submit(one.url)
        assert (report(two.url, run, token), report(one.url, run, token)) == (200, 200)
        assert report(two.url, run, f"{token}x") == 401


def test_tokens_of_an_earlier_version_stay_valid(tmp_path: Path, database_url: str) -> None:
    file = tmp_path / "data" / "secret"
    file.parent.mkdir()
    file.write_text("the-secret-of-an-earlier-version" * 2)
    with running_server(tmp_path, DATABASE_URL=database_url) as server:
        run, token = submit(server.url)
        assert token == run_token(file.read_text(), run)
    # It is taken over for good, and the file is not read again.
    file.unlink()
    with running_server(tmp_path, DATABASE_URL=database_url) as server:
        assert report(server.url, run, token) == 200
    assert not file.exists()


def test_a_secret_that_the_operator_sets_is_used_and_not_kept(
    tmp_path: Path, database_url: str
) -> None:
    with running_server(tmp_path, DATABASE_URL=database_url, SECRET="s" * 40) as server:
        run, token = submit(server.url)
        assert token == run_token("s" * 40, run)
    with running_server(tmp_path, DATABASE_URL=database_url) as server:
        assert report(server.url, run, token) == 401
