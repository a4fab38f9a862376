"""A trainer can put anything into its directories; only its own run may come to harm.

Each deed is done by a real trainer at its third step, against a real server, beside a healthy run.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import wait_until
from tests.support.service import Service, running

CANCELLED_BY_SECONDS = 15.0  # the grace of 3 s, five turns of the agent, and a busy machine

NOT_A_FILE = ("os.mkfifo(p)", "p.mkdir()", "p.symlink_to('/etc/passwd')")
RECORDS = [
    f"p = attempt / {name!r}; p.unlink(missing_ok=True); {put}"
    for name, put in [
        ("identity.json", "os.mkfifo(p)"),
        ("identity.json", "p.write_text('[' * 60_000)"),
        ("identity.json", """p.write_text('{"pid": 1}')"""),
        ("identity.json", """p.write_text('{"pid": "1", "place": 2, "nonce": null}')"""),
        ("stop.json", "os.mkfifo(p)"),
        ("stop.json", "p.mkdir()"),
        ("exit.json", "p.mkdir()"),
        ("exit.json", """p.write_text('{"exit_code": "no"}')"""),
        (".exit.json", "p.mkdir()"),
        (".exit.json", "os.mkfifo(p)"),
    ]
]
DIRECTORIES = [
    f"p = {place}; moved = p.with_name('moved-' + run.name); p.rename(moved); {put}"
    for place, put in [
        ("run", "p.write_text('')"),
        ("run", "p.symlink_to(moved)"),
        ("attempt", "os.mkfifo(p)"),
    ]
]
LOGS = [f"p = run / 'train.log'; p.unlink(); {put}" for put in NOT_A_FILE]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    vandal = "max_attempts = 2\nenv_allow = ['PATH']"
    with running(tmp_path_factory.mktemp("vandals"), vandal=vandal) as service:
        yield service  # leaving it asserts that SIGTERM ends the server, and no trainer is left


def is_well(service: Service) -> None:
    """The server is ready, starts a healthy run and sees its end."""
    assert service.http.get(f"{service.url}/readyz").status_code == 200
    run = service.submit("finishes", steps=2, step_seconds=0.01)
    assert service.ended(run)["status"] == "succeeded"


@pytest.mark.parametrize("deed", [*RECORDS, *DIRECTORIES, LOGS[0]])
def test_a_vandal_is_cancelled_and_everybody_else_trains(service: Service, deed: str) -> None:
    tracebacks = service.log.read_text().count("Traceback")
    run = service.submit("vandal", deed=deed, steps=100_000)
    agent = service.agent(run)
    service.stepping(run, 3)
    wait_until(lambda: service.status(run)["step"] >= 5 or finished(service, run), "it has done it")
    service.cancel(run)
    ended = service.ended(run, CANCELLED_BY_SECONDS)
    assert ended["status"] in ("cancelled", "failed"), ended
    wait_until(lambda: not agent.is_running(), "its agent has ended")
    is_well(service)
    assert service.log.read_text().count("Traceback") == tracebacks


def finished(service: Service, run: str) -> bool:
    return service.status(run)["status"] in ("cancelled", "failed", "succeeded")


@pytest.mark.parametrize("log", LOGS)
def test_a_log_that_is_no_file_holds_up_no_end_and_no_retry(service: Service, log: str) -> None:
    """The second attempt writes into a new log, and what stood in its place is untouched."""
    run = service.submit("vandal", deed=f"{log}; sys.exit(3)")
    ended = service.ended(run)
    assert (ended["status"], ended["status_reason"]) == ("failed", "exit_code")
    is_well(service)
    logs = f"{service.url}/v1/experiments/{service.experiment}/runs/{run}/logs"
    for query in ("", "?offset=-10", "?follow=true"):
        answer = service.http.get(logs + query)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert "train.log is not a plain file" in answer.json()["detail"]


def test_what_a_vandal_links_to_is_not_overwritten(service: Service, tmp_path: Path) -> None:
    """Neither by the spec and the records of the next attempt, nor by its log."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    names = (".spec.json.tmp", ".api_url.tmp", "spec.json", "train.log", "attempt-2")
    deed = f"""
for name in {names}:
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to({str(victim)!r})
(attempt / ".exit.json").unlink(missing_ok=True)
(attempt / ".exit.json").symlink_to({str(victim)!r})
sys.exit(3)
"""
    run = service.submit("vandal", deed=deed)
    service.ended(run)
    assert len(service.launches(run)) == 2
    assert victim.read_text() == "precious"
