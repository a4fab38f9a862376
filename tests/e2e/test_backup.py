"""A backup that is made while the service works is restored elsewhere, and nothing is missing."""

import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import llm_train
from tests.support.database import Databases
from tests.support.server import wait_until
from tests.support.service import Service, home

FOREVER: dict[str, Any] = {"steps": 10**6, "step_seconds": 0.02, "checkpoint_every": 10}


def settings(place: Path, database_url: str | None = None) -> dict[str, str]:
    """Return the settings of the service that lives, or is to live, in a directory."""
    return {
        "DATABASE_URL": database_url or f"sqlite:///{place / 'app.db'}",
        "DATA_DIR": str(place / "data"),
    }


def told(service: Service, run: str) -> dict[str, Any]:
    """Return everything that the API tells of a run that has ended."""
    path = f"/experiments/{service.experiment}/runs/{run}"
    return {
        "status": service.status(run),
        "losses": service.losses(run),
        "log": service.http.get(f"{service.url}/v1{path}/logs").text,
        "checkpoints": service.checkpoints(run),
        "events": service.events(run),
    }


@pytest.mark.parametrize(
    ("from_database", "to_database"),
    [("sqlite", "postgresql"), pytest.param("postgresql", "sqlite", marks=pytest.mark.heavy)],
)
def test_what_is_restored_into_the_other_database_answers_as_before_and_goes_on(
    tmp_path: Path,
    sqlite_databases: Databases,
    postgresql_databases: Databases,
    from_database: str,
    to_database: str,
) -> None:
    makers = {"sqlite": sqlite_databases, "postgresql": postgresql_databases}
    from_url, to_url = makers[from_database].empty(), makers[to_database].empty()
    before, after, folder = tmp_path / "before", tmp_path / "after", tmp_path / "backup"
    before.mkdir()
    after.mkdir()
    with home(before, from_url) as place, place.serve() as service:
        done = service.submit("finishes", steps=30, key="once")
        stopped = service.submit("obedient", **FOREVER)
        service.stepping(stopped, 25)
        service.cancel(stopped)
        for run in (done, stopped):
            service.ended(run)
        under_way = service.submit("obedient", **FOREVER)
        service.stepping(under_way, 15)
        expected = {run: told(service, run) for run in (done, stopped)}
        with writing(service):
            made = llm_train("backup", str(folder), **settings(before, from_url))
        assert made.status == 0, made.err
        service.cancel(under_way)
        service.ended(under_way)
    restored = llm_train("restore", str(folder), **settings(after, to_url))
    assert (restored.status, restored.out) == (0, made.out), restored.err
    with home(after, to_url) as place:
        place.experiment = service.experiment
        with place.serve() as service:
            for run, all_of_it in expected.items():
                assert told(service, run) == all_of_it
            lost = service.status(under_way)
            assert (lost["status"], lost["status_reason"]) == ("failed", "lost")
            assert [e["seq"] for e in service.detail()["events"]] == list(
                range(1, len(service.detail()["events"]) + 1)
            )
            body = {"model": "tiny", "recipe": "finishes", "hyperparams": {"steps": 30}}
            again = service.post(
                f"/experiments/{service.experiment}/runs", body, 201, **{"Idempotency-Key": "once"}
            )
            assert again["run_id"] == done
            child = service.resume(under_way, override_hyperparams={"steps": 40})["run_id"]
            assert service.ended(child)["status"] == "succeeded", service.status(child)
            found = llm_train_verify(service)
            assert found and set(found) <= {"ready"}, found


def llm_train_verify(service: Service) -> list[str]:
    """Have every checkpoint read again; return their states."""
    path = f"/experiments/{service.experiment}/verifications"
    job = service.post(path, {}, 202)["verification_id"]
    wait_until(lambda: service.get(f"{path}/{job}")["finished_at"], "everything is verified")
    findings = service.get(f"{path}/{job}")["findings"]
    return [finding["outcome"] for finding in findings]


@contextmanager
def writing(service: Service) -> Iterator[None]:
    """Create experiments all the time, from another thread."""
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            service.post("/experiments", {"name": "busy", "task_type": "test"}, 201)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small backup, beside the directory `before` that it is of."""
    tmp_path = tmp_path_factory.mktemp("made")
    (tmp_path / "before").mkdir()
    with home(tmp_path / "before") as place, place.serve() as service:
        service.ended(service.submit("finishes", steps=3))
    folder = tmp_path / "backup"
    done = llm_train("backup", str(folder), **settings(tmp_path / "before"))
    assert done.status == 0, done.err
    return folder


def test_a_backup_that_was_changed_cut_short_or_not_finished_is_refused_and_nothing_is_restored(
    tmp_path: Path, made: Path
) -> None:
    target = tmp_path / "after"
    target.mkdir()
    manifest = json.loads((made / "manifest.json").read_bytes())
    checkpoint = next(name for name in manifest["data"] if name.startswith("ckpts/"))
    for file in (made / "data" / checkpoint, made / "database" / "run.jsonl.gz"):
        good = file.read_bytes()
        for bad in (good[:-1], good[:-1] + bytes([good[-1] ^ 1])):
            file.write_bytes(bad)
            done = llm_train("restore", str(made), **settings(target))
            assert done.status == 1 and "is not as it was written" in done.err
            shutil.rmtree(target / "data", ignore_errors=True)
        file.write_bytes(good)
    (made / "manifest.json").rename(made / "kept")
    done = llm_train("restore", str(made), **settings(target))
    assert done.status == 1 and "no complete backup" in done.err
    (made / "kept").rename(made / "manifest.json")
    assert not (target / "app.db").exists() or not tables(target / "app.db")
    assert llm_train("restore", str(made), **settings(target)).status == 0


def tables(database: Path) -> list[str]:
    """Return the names of a SQLite database's tables."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return [name for (name,) in rows if name != "alembic_version"]


def test_nothing_is_overwritten(tmp_path: Path, made: Path) -> None:
    before = made.with_name("before")
    again = llm_train("backup", str(made), **settings(before))
    assert again.status == 1 and "exists" in again.err
    over = llm_train("restore", str(made), **settings(before))
    assert over.status == 1 and "is not empty" in over.err
    url = f"sqlite:///{before / 'app.db'}"
    over = llm_train("restore", str(made), DATABASE_URL=url, DATA_DIR=str(tmp_path / "new"))
    assert over.status == 1 and "is not empty" in over.err
    assert not (tmp_path / "new").exists()
