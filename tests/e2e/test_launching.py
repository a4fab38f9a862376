"""A run is launched once, adopted after a restart and never stuck, whatever instant the server
or the agent dies at."""

from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from app.domain.lifecycle import RunStatus
from tests.support.database import postgresql_heavy
from tests.support.server import alive, wait_until
from tests.support.service import Home, Service, home, orphans

SOON = 10.0
STATUSES = set(RunStatus)


def assert_launched_once(service: Service, run: str) -> None:
    assert service.ended(run, SOON)["status"] == "succeeded"
    assert service.launches(run) == [1]
    moves = [e["type"] for e in service.events(run) if e["type"].removeprefix("run.") in STATUSES]
    assert moves == ["run.queued", "run.starting", "run.running", "run.succeeded"]


def submit_and_die(place: Home, failpoint: str) -> None:
    """A server that dies at a failpoint on the way of one run, submitted with the key `k`."""
    with place.serve(FAILPOINT=f"{failpoint}:kill") as service:
        with suppress(httpx.TransportError):  # it may die before it can answer
            service.submit("finishes", key="k", steps=6, step_seconds=0.02)
        wait_until(lambda: not alive(service.pid), "the server died")


INSTANTS = (
    "launch.before_claim",
    "launch.claimed",
    "launch.before_spawn",
    "launch.spawned",
    "end.before_spool",
    "checkpoint.reading",
    "end.before_record",
)
BESIDE_A_COMMIT = ("launch.claimed", "end.before_record")
ON_DATABASES = [("sqlite", instant) for instant in INSTANTS] + [
    pytest.param(
        "postgresql", instant, marks=() if instant in BESIDE_A_COMMIT else pytest.mark.heavy
    )
    for instant in INSTANTS
]


@pytest.mark.parametrize(("databases", "failpoint"), ON_DATABASES, indirect=["databases"])
def test_a_server_killed_at_any_instant_launches_once(
    tmp_path: Path, database_url: str, failpoint: str
) -> None:
    with home(tmp_path, database_url) as place:
        submit_and_die(place, failpoint)
        with place.serve() as service:
            run = service.submit("finishes", key="k", steps=6, step_seconds=0.02)
            assert_launched_once(service, run)
            assert len(service.detail()["runs"]) == 1


@postgresql_heavy  # an agent knows nothing of the database
@pytest.mark.parametrize(
    "instant",
    ["agent.started", "agent.identity_saved", "agent.spawned", "agent.trainer_ended"],
)
def test_a_server_killed_while_the_agent_is_at_any_instant_launches_once(
    tmp_path: Path, database_url: str, instant: str
) -> None:
    go = tmp_path / "go"
    with home(tmp_path, database_url) as place:
        with place.serve(FAILPOINT=f"{instant}:wait:{go}") as service:
            run = service.submit("finishes", steps=6, step_seconds=0.02)
            directory = tmp_path / "data" / "runs" / run
            reached = {
                "agent.started": lambda: bool(orphans(tmp_path)),
                "agent.identity_saved": (directory / "attempt-1" / "identity.json").exists,
                "agent.spawned": (directory / "launches.txt").exists,
                "agent.trainer_ended": lambda: (
                    (directory / "launches.txt").exists() and len(orphans(tmp_path)) == 1
                ),
            }[instant]
            wait_until(reached, instant)
            service.kill()
        with place.serve() as service:
            if instant == "agent.started":
                # Nobody can know of an agent that has not claimed: the run is launched again,
                # and the first agent finds its attempt taken.
                wait_until(lambda: service.launches(run), "launched by the second server", SOON)
            go.touch()
            assert_launched_once(service, run)


@postgresql_heavy
@pytest.mark.parametrize("instant", ["agent.started", "agent.identity_saved",
                                     "agent.spawned", "agent.trainer_ended"])  # fmt: skip
def test_an_agent_killed_at_any_instant_leaves_a_stated_end_and_no_process(
    tmp_path: Path, database_url: str, instant: str
) -> None:
    with home(tmp_path, database_url) as place, place.serve(FAILPOINT=f"{instant}:kill") as service:
        run = service.submit("finishes", steps=6, step_seconds=0.02)
        ended = service.ended(run, SOON)
        if ended["status"] == "succeeded":
            assert instant == "agent.trainer_ended", "it had said that it finished"
        else:
            why = "launcher_error" if instant == "agent.started" else "lost"
            assert (ended["status"], ended["status_reason"]) == ("failed", why)
        wait_until(lambda: not orphans(tmp_path), "no process is left")
        assert len(service.launches(run)) <= 1


@postgresql_heavy
def test_a_command_that_cannot_start_fails_with_the_reason(
    tmp_path: Path, database_url: str
) -> None:
    with home(tmp_path, database_url) as place:
        recipes = tmp_path / "recipes.toml"
        recipes.write_text(
            f'{recipes.read_text()}\n[recipes.nowhere]\ncommand = ["/no/such/program"]\n'
        )
        with place.serve() as service:
            ended = service.ended(service.submit("nowhere"), SOON)
    assert (ended["status"], ended["status_reason"]) == ("failed", "launcher_error")
    assert "/no/such/program" in ended["status_detail"]


@postgresql_heavy
def test_impossible_runs_do_not_block_those_behind_them(tmp_path: Path, database_url: str) -> None:
    with home(tmp_path, database_url) as place, place.serve(GPUS="") as service:
        path = f"/experiments/{service.experiment}/runs"
        greedy = {"model": "m", "recipe": "finishes", "resources": {"gpu_type": "A100", "count": 4}}
        for _ in range(205):  # more than a page of the queue
            waiting = service.post(path, greedy, 201)["run_id"]
        run = service.submit("finishes", steps=2)
        assert service.ended(run, SOON)["status"] == "succeeded"
        now = wait_until(
            lambda: (s := service.status(waiting))["status_reason"] and s, "it says why it waits"
        )
        assert now["status_reason"] == "waiting_for_resources"
        assert now["status_detail"] == "Needs 4 × A100; this machine has no GPU."
