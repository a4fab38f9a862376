"""A trainer can put anything into its directories; only its own run may come to harm.

Each deed is done by a real trainer at its third step, against a real server, beside a healthy run.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import wait_until
from tests.support.service import Service, running

CANCELLED_BY_SECONDS = 15.0  # the grace of 3 s, five turns of the wrapper, and a busy machine

RECORDS = [
    f"p = attempt / {name!r}; p.unlink(missing_ok=True); {put}"
    for name in ("identity.json", "stop.json", "exit.json", ".exit.json")
    for put in ("os.mkfifo(p)", "p.mkdir()", "p.symlink_to('/etc/passwd')", "p.write_text('[')")
]
IDENTITIES = [
    f"(attempt / 'identity.json').write_text({text!r})"
    for text in (
        "[]",
        '{"pid": 1}',
        '{"pid": "1", "place": 2, "nonce": null, "start_time": "x"}',
        '{"pid": 1180591620717411303424, "start_time": 1, "nonce": "x"}',
        '[' * 60_000,
    )
]
EXITS = [f"(attempt / 'exit.json').write_text({text!r})" for text in ('{"exit_code": "no"}', "{}")]
DIRECTORIES = [
    f"p = {place}; p.rename(p.with_name('moved-' + run.name)); {put}"
    for place in ("run", "attempt")
    for put in ("p.write_text('')", "os.mkfifo(p)", "p.symlink_to(p.with_name('moved-' + run.name))")
]
LOGS = [
    f"p = run / 'train.log'; p.unlink(); {put}"
    for put in ("os.mkfifo(p)", "p.mkdir()", "p.symlink_to('/etc/passwd')")
]


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


@pytest.mark.parametrize("deed", [*RECORDS, *IDENTITIES, *EXITS, *DIRECTORIES, *LOGS])
def test_a_vandal_is_cancelled_and_everybody_else_trains(service: Service, deed: str) -> None:
    tracebacks = service.log.read_text().count("Traceback")
    run = service.submit("vandal", deed=deed, steps=100_000)
    wrapping = service.wrapper(run)
    service.stepping(run, 3)
    wait_until(lambda: service.status(run)["step"] >= 5 or finished(service, run), "it has done it")
    service.cancel(run)
    ended = service.ended(run, CANCELLED_BY_SECONDS)
    assert ended["status"] in ("cancelled", "failed"), ended
    wait_until(lambda: not wrapping.is_running(), "its wrapper has ended")
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
    assert "root:" not in service.http.get(logs).text
    assert service.http.get(logs).status_code in (200, 404)


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
    spec = service.data_dir / "runs" / run / "spec.json"
    assert stat.S_ISREG(os.lstat(spec).st_mode) or spec.is_symlink()
