"""Only what is on disk, whole and unchanged, is offered; reading it holds up nothing else."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.db.database import InUse
from app.db.sqlite_file import own
from tests.support import commands
from tests.support.database import postgresql_heavy
from tests.support.disk import make_busy
from tests.support.server import wait_until
from tests.support.service import Service, home, running

pytestmark = postgresql_heavy  # files and processes know nothing of the database


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str
) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("checkpoints"), module_database_url) as service:
        yield service


@pytest.fixture
def trained(service: Service) -> str:
    """A run that has left checkpoints at 10, 20 and 30."""
    run = service.submit("finishes", steps=30, step_seconds=0.005)
    assert service.ended(run)["status"] == "succeeded"
    return run


def flip(file: Path, bit: int = 3) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1 << bit
    file.write_bytes(content)


def flip_created_at(directory: Path) -> None:
    file = directory / "manifest.json"
    manifest = json.loads(file.read_bytes())
    file.write_text(json.dumps(manifest | {"created_at": "2020-01-01T00:00:00Z"}))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "bit_flipped": lambda d: flip(d / "state.json"),
    "truncated": lambda d: (d / "state.json").write_bytes(b""),
    "a_file_vanished": lambda d: (d / "state.json").unlink(),
    "vanished": shutil.rmtree,
    "without_its_manifest": lambda d: (d / "manifest.json").unlink(),
    "with_another_manifest": flip_created_at,
    "with_a_stranger_in_it": lambda d: (d / "more").write_text("!"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_resume_falls_back_from_damage_to_the_newest_good_one_and_says_so(
    service: Service, trained: str, damage: str
) -> None:
    newest = service.checkpoints(trained)["step-000030"]
    DAMAGES[damage](service.directory(newest))

    child = service.resume(trained, override_hyperparams={"steps": 40})["run_id"]
    assert service.ended(child)["status"] == "succeeded"

    found = service.checkpoints(trained)
    assert {n: c["state"] for n, c in found.items()} == {
        "step-000010": "ready", "step-000020": "ready", "step-000030": "lost",
    }  # fmt: skip
    assert found["step-000030"]["reason"]
    (start,) = [e["data"] for e in service.events(child) if e["type"] == "run.starting"]
    assert start["ckpt_path"].endswith("/step-000020") and start["step"] == 20
    assert "step-000030 is lost. This starts from" in start["detail"]
    spec = json.loads((service.data_dir / "runs" / child / "spec.json").read_bytes())
    assert spec["resume"]["step"] == 20


def test_undamaged_nothing_of_that_happens(service: Service, trained: str) -> None:
    """The control of the tests above."""
    child = service.resume(trained, override_hyperparams={"steps": 40})["run_id"]
    assert service.ended(child)["status"] == "succeeded"
    (start,) = [e["data"] for e in service.events(child) if e["type"] == "run.starting"]
    assert start["ckpt_path"].endswith("/step-000030") and "detail" not in start


def test_with_nothing_good_left_a_resume_fails_fast_and_lists_what_there_is(
    service: Service, trained: str
) -> None:
    path = f"/ckpts/{service.experiment}/{trained}/never-was"
    child = service.resume(trained, ckpt_path=path)["run_id"]
    ended = service.ended(child)
    assert (ended["status"], ended["status_reason"]) == ("failed", "checkpoint_missing")
    assert all(f"step-0000{n}" in ended["status_detail"] for n in (10, 20, 30))
    assert service.launches(child) == []


def test_the_verify_operation_finds_every_damage_and_takes_a_repair_back(
    service: Service, trained: str
) -> None:
    path = f"/experiments/{service.experiment}/checkpoints/verify"
    damaged = service.checkpoints(trained)["step-000020"]
    file = service.directory(damaged) / "state.json"
    whole = file.read_bytes()
    flip(file)

    answer = service.post(path, {"run_id": trained}, 200)
    assert (answer["ready"], answer["lost"]) == (2, 1)
    assert {c["ckpt_path"]: c["state"] for c in answer["checkpoints"]}[
        damaged["ckpt_path"]
    ] == "lost"
    file.write_bytes(whole)
    answer = service.post(path, {"ckpt_path": damaged["ckpt_path"]}, 200)
    assert (answer["ready"], answer["lost"]) == (1, 0)
    assert service.post(path, {"ckpt_path": "/ckpts/nowhere"}, 404)["code"] == "not_found"


def test_one_that_cannot_be_read_now_is_no_damage_in_any_answer(
    service: Service, trained: str
) -> None:
    newest = service.checkpoints(trained)["step-000030"]
    place = service.directory(newest).parent
    path = f"/experiments/{service.experiment}/checkpoints/verify"
    query = (
        "mutation($input: VerifyCheckpointInput!)"
        " { verifyCheckpoint(input: $input) { checkpoint { state } } }"
    )
    asked = {"query": query, "variables": {"input": {"ckptPath": newest["ckpt_path"]}}}
    place.rename(place.with_name("aside"))
    place.symlink_to(place)  # a link is never followed, not even by root
    refused = service.http.post(f"{service.url}/v1{path}", json={"run_id": trained})
    answer = service.http.post(f"{service.url}/graphql", json=asked).json()
    child = service.resume(trained, override_hyperparams={"steps": 40})["run_id"]
    waits = wait_until(lambda: service.status(child)["status_detail"], "it says why")
    place.unlink()
    place.with_name("aside").rename(place)

    assert (refused.status_code, refused.json()["code"]) == (503, "checkpoint_unreadable")
    assert "is not a directory of the service" in refused.json()["detail"]
    assert int(refused.headers["Retry-After"]) > 0
    assert answer["errors"][0]["extensions"]["code"] == "CHECKPOINT_UNREADABLE"
    assert "could not be read" in waits
    assert service.ended(child)["status"] == "succeeded"
    (start,) = [e["data"] for e in service.events(child) if e["type"] == "run.starting"]
    assert start["ckpt_path"] == newest["ckpt_path"]
    assert {c["state"] for c in service.checkpoints(trained).values()} == {"ready"}
    assert service.post(path, {"run_id": trained}, 200)["ready"] == 3


def test_a_partial_checkpoint_of_a_killed_trainer_is_no_checkpoint(service: Service) -> None:
    run = service.submit("obedient", steps=1000, step_seconds=0.02)
    service.stepping(run, 11)
    place = service.data_dir / "ckpts" / service.experiment / run
    partial = place / ".tmp-step-000777-0badcafe"
    partial.mkdir()
    (partial / "state.json").write_text("half")
    unannounced = shutil.copytree(place / "step-000010", place / "mine")
    torn = shutil.copytree(place / "step-000010", place / "torn")
    flip(torn / "state.json")
    service.trainer(run).kill()

    assert service.ended(run)["status_reason"] == "signal"
    states = {name: c["state"] for name, c in service.checkpoints(run).items()}
    assert states["mine"] == "ready" and unannounced.exists()
    assert states["torn"] == "lost"
    assert not any("777" in name for name in states) and not partial.exists()


def test_while_a_checkpoint_is_read_everything_else_goes_on(
    tmp_path: Path, database_url: str
) -> None:
    """As if each were 100 GB: nothing that is read comes to an end before `go` exists."""
    go = tmp_path / "go"
    with home(tmp_path, database_url) as place:
        with place.serve() as service:
            parent = service.submit("finishes", steps=10, step_seconds=0.01)
            service.ended(parent)
        with place.serve(FAILPOINT=f"checkpoint.reading:wait:{go}", MAX_LOCAL_RUNS="3") as service:
            child = service.resume(parent, override_hyperparams={"steps": 20})["run_id"]
            big = service.submit("finishes", steps=10, step_seconds=0.01)  # saves at its end
            wait_until(
                lambda: service.checkpoints(big).get("step-000010"), "the big one is announced"
            )
            said = wait_until(lambda: service.status(child)["status_reason"], "it says why")
            assert said == "waiting_for_checkpoint"
            # Launches, reports and cancels of others take no notice.
            other = service.submit("crashes", steps=4, step_seconds=0.01)
            assert service.ended(other)["status"] == "failed"
            stuck = service.submit("hangs_before_first_report")
            service.trainer(stuck)
            service.cancel(stuck, 202)
            assert service.ended(stuck)["status"] == "cancelled"
            assert service.status(big)["status"] == "running"
            assert service.status(child)["status"] == "queued"
            # A server that reads can be stopped.
        with place.serve() as service:
            assert service.ended(big)["status"] == "succeeded"
            assert service.ended(child)["status"] == "succeeded"
            assert service.launches(child) == [1]


def test_retention_keeps_the_newest_of_a_run_while_it_trains(
    tmp_path: Path, database_url: str
) -> None:
    with running(tmp_path, database_url, finishes="keep_checkpoints = 2") as service:
        run = service.submit("finishes", steps=60, step_seconds=0.01)
        service.stepping(run, 25)
        service.ended(run)
        wait_until(
            lambda: (
                [n for n, c in sorted(service.checkpoints(run).items()) if c["state"] == "ready"]
                == ["step-000050", "step-000060"]
            ),
            lambda: f"two are left: {service.checkpoints(run)}",
        )
        place = service.directory(service.checkpoints(run)["step-000060"]).parent
        wait_until(lambda: len([*place.iterdir()]) == 2, "and their files")
        answer = service.get(f"/experiments/{service.experiment}/retention?keep=1")
        assert [c["step"] for c in answer["checkpoints"]] == [50]
        assert answer["size_bytes"] == answer["checkpoints"][0]["size_bytes"] > 0


def advised(service: Service, line: str) -> str:
    """The operation of the service that a line names; it must have it."""
    (method, path), *more = re.findall(r"(GET|POST) (/\S+)", line)
    assert not more
    described = service.http.get(f"{service.url}/openapi.json").json()["paths"]
    assert method.lower() in described[path]
    return str(path)


def test_verify_asks_the_server_that_has_the_database(tmp_path: Path) -> None:
    """Seen red: an address that outlives its server, and none."""
    token = "a-token-of-some-length"

    def verify(*arguments: str, token: str = token) -> tuple[int, list[str]]:
        done = commands.llm_train(
            "verify", *arguments, API_TOKEN=token,
            DATABASE_URL=f"sqlite:///{tmp_path}/app.db", DATA_DIR=f"{tmp_path}/data",
        )  # fmt: skip
        return done.status, (done.out + done.err).splitlines()

    def take() -> int:
        with suppress(InUse):
            return own(tmp_path / "app.db-owner")
        return 0

    with home(tmp_path) as place, place.serve() as service:
        run = service.submit("finishes", steps=30, step_seconds=0.01)
        service.ended(run)
        damaged = service.checkpoints(run)["step-000020"]
        code, lines = verify(service.experiment)
        assert code == 0 and [line.split()[0] for line in lines] == ["ready"] * 3
        flip(service.directory(damaged) / "state.json")
        code, (line,) = verify(service.experiment, "--path", damaged["ckpt_path"])
        assert code == 1 and re.fullmatch(rf"lost +{damaged['ckpt_path']} .*SHA-256.*", line)
        assert service.checkpoints(run)["step-000020"]["state"] == "lost"
        code, lines = verify(service.experiment, "--run", run)
        assert code == 1 and sorted(line.split()[0] for line in lines) == ["lost", "ready", "ready"]
        code, (line,) = verify("exp_" + "0" * 26)
        assert code == 1 and line.startswith("llm-train: There is no experiment")
        service.kill()
        # Whoever has the database now has not said where it serves.
        held = wait_until(take, "the last of its threads is gone")
        code, (line,) = verify(service.experiment)
        os.close(held)
        assert code == 1 and line.endswith("another server is using it")

    with place.serve(API_TOKEN=token):
        code, lines = verify(service.experiment)
        assert code == 1 and len(lines) == 3
        code, (line,) = verify(service.experiment, token="another-of-some-length")
        assert code == 1 and "Send the API token" in line


def test_operators_verify_and_prune_from_the_command_line(tmp_path: Path) -> None:
    def llm_train(*arguments: str) -> tuple[int, list[str]]:
        done = commands.llm_train(
            *arguments, DATABASE_URL=f"sqlite:///{tmp_path}/app.db", DATA_DIR=f"{tmp_path}/data",
            RECIPES=f"{tmp_path}/recipes.toml",
        )  # fmt: skip
        return done.status, (done.out + done.err).splitlines()

    with running(tmp_path) as service:
        run = service.submit("finishes", steps=30, step_seconds=0.01)
        service.ended(run)
        oldest, damaged, newest = sorted(
            service.checkpoints(run).values(), key=lambda each: each["step"]
        )
        code, (line,) = llm_train("prune", "--keep", "1")
        assert code == 1 and f"another server is using it, at {service.url};" in line
        assert advised(service, line) == "/v1/experiments/{experiment_id}/retention"

    code, lines = llm_train("verify", service.experiment)
    assert code == 0 and all(line.startswith("ready") for line in lines) and len(lines) == 3
    flip(service.directory(damaged) / "state.json")
    code, (line,) = llm_train("verify", service.experiment, "--path", damaged["ckpt_path"])
    assert code == 1 and line.startswith("lost") and "SHA-256" in line
    assert llm_train("verify", "exp_nothing")[0] == 1
    place = service.directory(newest).parent
    place.rename(place.with_name("aside"))
    place.symlink_to(place)
    code, lines = llm_train("verify", service.experiment)
    assert code == 1 and [line.split()[0] for line in lines] == ["unreadable"] * 3
    assert all("could not be read: " in line for line in lines)
    code, (line,) = llm_train("prune", "--keep", "0")
    assert code == 2 and "'0' is not a whole number from 1" in line
    place.unlink()
    place.with_name("aside").rename(place)
    code, lines = llm_train("verify", service.experiment)
    assert sorted(line.split()[0] for line in lines) == ["lost", "ready", "ready"]

    code, lines = llm_train("prune", "--keep", "1", "--dry-run")
    assert code == 0 and oldest["ckpt_path"] in lines[0]
    assert lines[-1].strip() == f"{oldest['size_bytes']} bytes in 1 checkpoints would be deleted"
    assert service.directory(oldest).exists()
    assert llm_train("prune", "--keep", "1")[0] == 0
    assert not service.directory(oldest).exists() and service.directory(newest).exists()


def test_prune_goes_on_past_what_cannot_be_deleted_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: without going on, the second one is still there."""
    with running(tmp_path) as service:
        run = service.submit("finishes", steps=30, step_seconds=0.01)
        service.ended(run)
        first, second, newest = sorted(
            service.checkpoints(run).values(), key=lambda each: each["step"]
        )
    make_busy(monkeypatch, service.directory(first))
    done = commands.llm_train(
        "prune", "--keep", "1", DATABASE_URL=f"sqlite:///{tmp_path}/app.db",
        DATA_DIR=f"{tmp_path}/data", RECIPES=f"{tmp_path}/recipes.toml",
    )  # fmt: skip
    assert done.status == 1 and f"{first['ckpt_path']} could not be deleted" in done.err
    assert second["ckpt_path"] in done.out and first["ckpt_path"] not in done.out
    assert not service.directory(second).exists() and service.directory(newest).exists()
