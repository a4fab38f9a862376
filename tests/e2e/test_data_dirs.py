"""A server with another data directory than the runs under way launches nothing a second time.

Control: with an adoption that always succeeds, and no look at the start, a second trainer of the
same attempt runs in the other directory.
"""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.database import postgresql_heavy, postgresql_only
from tests.support.replicas import leader, replica
from tests.support.server import alive, refused_start, running_server, wait_until
from tests.support.service import home


@postgresql_heavy
@pytest.mark.parametrize("secret", [None, "s" * 40])
def test_a_server_started_with_the_wrong_data_directory_says_so_and_ends(
    tmp_path: Path, database_url: str, secret: str | None
) -> None:
    wrong = tmp_path / "elsewhere" / "data"
    own = {} if secret is None else {"SECRET": secret}
    with home(tmp_path, database_url) as place:
        with place.serve(**own) as service:
            run = service.submit("obedient", steps=10**6, step_seconds=0.02)
            service.stepping(run)
            trainer = service.trainer(run)
            service.kill()
        here = {"DATABASE_URL": f"sqlite:///{tmp_path / 'app.db'}", **place.settings, **own}
        (line,) = refused_start(tmp_path, **here | {"DATA_DIR": str(wrong)}).splitlines()
        assert str(wrong) in line
        assert "set LLM_TRAIN_DATA_DIR to that" in line and f"{tmp_path}/data:" in line
        assert not wrong.exists() and alive(trainer)
        # The right one goes on; its trainer's token is still good.
        with place.serve(**own) as service:
            service.stepping(run, service.status(run)["step"] + 5)
            service.cancel(run)
            assert service.ended(run)["status"] == "cancelled"
            assert service.launches(run) == [1]


@postgresql_heavy
def test_a_data_directory_may_change_when_nothing_is_under_way(
    tmp_path: Path, database_url: str
) -> None:
    with home(tmp_path, database_url) as place:
        with place.serve() as service:
            assert service.ended(service.submit("finishes", steps=3))["status"] == "succeeded"
        with place.serve(DATA_DIR=str(tmp_path / "new")) as service:
            assert service.ended(service.submit("finishes", steps=3))["status"] == "succeeded"
            assert "the data directory is" in service.log.read_text()


@postgresql_only
def test_a_replica_with_another_data_directory_does_not_take_over(
    tmp_path: Path, database_url: str
) -> None:
    with (
        home(tmp_path / "one") as place,
        home(tmp_path / "two") as other,
        replica(place, database_url) as first,
    ):
        wait_until(lambda: leader(database_url) == first.pid, "the first leads")
        settings: dict[str, Any] = {
            "DATABASE_URL": database_url,
            "RECIPES": place.settings["RECIPES"],
        }
        with running_server(other.path, keep_trainers=True, **settings) as second:
            run = first.submit("obedient", steps=10**6, step_seconds=0.02)
            first.stepping(run)
            first.kill()
            ready = f"{second.url}/readyz"
            wait_until(lambda: httpx.get(ready, verify=False).status_code == 503, "it says so")
            assert "LLM_TRAIN_DATA_DIR" in httpx.get(ready, verify=False).json()["detail"]
            waiting = queue_one(second.url, place.experiment)
            with replica(place, database_url) as again:
                wait_until(lambda: leader(database_url) == again.pid, "the right one leads")
                again.stepping(run, again.status(run)["step"] + 5)
                assert again.ended(waiting)["status"] == "succeeded"
                assert again.launches(run) == again.launches(waiting) == [1]
                assert httpx.get(ready, verify=False).status_code == 503
                again.cancel(run)
                assert again.ended(run)["status"] == "cancelled"
            assert not (second.data_dir / "runs").exists()
            assert second.log.read_text().count("this server does not lead") == 1


def queue_one(url: str, experiment: str) -> str:
    body = {"model": "tiny", "recipe": "finishes", "hyperparams": {"steps": 3}}
    answer = httpx.post(f"{url}/v1/experiments/{experiment}/runs", json=body)
    assert answer.status_code == 201
    return str(answer.json()["run_id"])
