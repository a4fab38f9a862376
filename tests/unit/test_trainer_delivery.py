"""Only the service refuses a report, and then no more of it than it must; trouble is explained."""

import json
import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from llm_train import Reporter, reporter, sender

from tests.support.clock import is_soon
from tests.support.reports import ReportServer, attach, points_of, spooled
from tests.support.server import wait_until

REFUSED = {"code": "invalid_input", "detail": "it is not wanted"}


def effective(server: ReportServer) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for body in (*server.parts, *server.taken.values()):
        told |= body.get("effective_hyperparams", {})
    return told


def test_a_proxy_that_takes_only_small_bodies_gets_them_in_parts(
    server: ReportServer, tmp_path: Path
) -> None:
    server.judge = lambda body: (413, {}) if len(json.dumps(body)) > 2000 else None
    with attach(server, tmp_path, checkpoint_dir=tmp_path / "c") as training:
        wait_until(lambda: server.taken, "the first report")
        training.effective({f"option-{n}": "x" * 20 for n in range(100)})
        for step in range(300):
            training.log(step, {"loss": step / 7, f"layer-{step % 3}": 0.5})
        with training.checkpoint(300) as directory:
            (directory / "w").write_bytes(b"w")
        training.finish()
    points = server.points()
    assert len(points) == len(set(points)) == 600
    assert [value for key, _, value in sorted(points) if key == "loss"] == [
        step / 7 for step in range(300)
    ]
    assert len(effective(server)) == 100
    last = server.taken[max(server.taken)]
    assert last["finished"]
    told = [
        c["step"] for b in (*server.parts, *server.taken.values()) for c in b.get("checkpoints", [])
    ]
    assert told == [300]


def test_of_a_refused_report_only_what_is_refused_is_dropped(
    server: ReportServer, capfd: pytest.CaptureFixture[str]
) -> None:
    def judge(body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        bad = "odd" in body.get("metrics", {}) or "bad" in body.get("effective_hyperparams", {})
        return (422, REFUSED) if bad else None

    server.judge = judge
    with attach(server) as training:
        wait_until(lambda: server.taken, "the first report")
        training.effective(lr=0.1, bad="?", seed=1)
        for step in range(20):
            training.log(step, {"odd": 1.0, **{f"key-{n}": 1.0 for n in range(10)}}, total_steps=20)
        training.effective(betas=[0.9])
    assert {key for key, _, _ in server.points()} == {f"key-{n}" for n in range(10)}
    assert len(server.points()) == 200
    assert effective(server) == {"lr": 0.1, "seed": 1, "betas": [0.9]}
    assert any(body.get("total_steps") == 20 for body in server.taken.values())
    told = capfd.readouterr().err
    assert told.count("refused metric 'odd' (422: it is not wanted)") == 1
    assert told.count("refused hyperparameter 'bad'") == 1


def test_metrics_beyond_a_runs_limit_are_sent_once_and_not_with_each_report(
    server: ReportServer,
) -> None:
    limit = {"code": "run_limit", "detail": "A run may have at most 10,000 metric keys."}
    server.judge = lambda body: (422, limit) if "more" in body.get("metrics", {}) else None
    with attach(server) as training:
        for step in range(5):
            training.log(step, loss=1.0, more=1.0)
            wait_until(lambda step=step: len(server.points()) == step + 1, "the loss")  # type: ignore[misc]
    refused = [status for _, status, _ in server.requests].count(422)
    assert refused == 2, "the first report, and its half"


def test_a_report_tells_the_highest_step_that_its_points_reach(
    server: ReportServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a branch would seem to begin at a step whose points come later."""
    monkeypatch.setattr("llm_train.buffer.BATCH_POINTS", 10)
    server.mode = "503"
    with attach(server) as training:
        wait_until(lambda: server.requests, "a first report that fails, so that the others wait")
        for step in range(1, 26):
            training.log(step, loss=1.0)
        training.log(24, loss=2.0)
        training.log(4096 * 25, tokens=1.0, total_steps=100)
        server.mode = "ok"
    told = [body.get("step") for body in server.taken.values() if "metrics" in body]
    assert told == [None, None, 25]


def test_a_run_that_is_over_is_told_in_one_line_that_says_how_to_go_on(
    server: ReportServer, capfd: pytest.CaptureFixture[str]
) -> None:
    with attach(server, attempt=None) as training:
        wait_until(lambda: server.taken, "the first report")
        over = {"code": "run_finished", "detail": "The run is failed; nothing more is recorded."}
        server.judge = lambda body: (409, over)
        training.log(1, loss=1.0)
        wait_until(lambda: not training._sender.open, "the refusal")  # type: ignore[union-attr]
        training.log(2, loss=1.0)
    (line,) = capfd.readouterr().err.splitlines()
    assert "the run is over" in line
    assert "resume the run from a checkpoint" in line
    assert "LLM_TRAIN_RUN_ID" in line


def test_what_waits_in_the_spool_is_whole_when_a_proxy_refused_all_of_it(
    server: ReportServer, tmp_path: Path
) -> None:
    server.judge = lambda body: (407, {})
    with attach(server, tmp_path) as training:
        for step in range(50):
            training.log(step, loss=1.0)
        training.close(0.3)
    assert [step for _, step, _ in points_of(spooled(tmp_path))] == list(range(50))


# Several processes with one run's variables.

ACTIVE = {"code": "session_active", "detail": "Another trainer reports on this run."}


@pytest.fixture
def one_session(server: ReportServer) -> ReportServer:
    """The service's rule: one session reports, until it closes or another one takes over."""
    state: dict[str, Any] = {"session": None}

    def judge(body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        current = state["session"]
        if current not in (None, body["session"]) and not body.get("take_over"):
            return 429, ACTIVE
        state["session"] = None if body.get("closing") else body["session"]
        return None

    server.judge = judge
    return server


@pytest.fixture
def by_itself(
    one_session: ReportServer, environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment of a trainer that attaches by itself."""
    monkeypatch.delenv("LLM_TRAIN_ATTEMPT")
    monkeypatch.delenv("LLM_TRAIN_RUN_DIR")


def evaluate() -> None:
    """A worker that a data loader spawns, or an evaluation script."""
    with Reporter.from_env() as second:
        for step in range(3):
            second.log(step, accuracy=1.0)
            time.sleep(0.1)


@pytest.mark.usefixtures("by_itself")
def test_a_second_process_with_the_same_variables_is_silent_and_says_so_once(
    one_session: ReportServer, capfd: pytest.CaptureFixture[str]
) -> None:
    with Reporter.from_env() as training:
        training.log(1, loss=1.0)
        wait_until(one_session.points, "the original")
        worker = multiprocessing.get_context("spawn").Process(target=evaluate)
        worker.start()
        worker.join(120)
        assert worker.exitcode == 0
        training.log(2, loss=1.0)
    assert one_session.points() == [("loss", 1, 1.0), ("loss", 2, 1.0)]
    told = capfd.readouterr().err
    assert told.count("another process reports on this run") == 1
    assert "take_over=True" in told
    assert told.count("\n") == 1


@pytest.mark.usefixtures("by_itself")
def test_a_process_that_asks_to_takes_over(one_session: ReportServer) -> None:
    first = attach(one_session, attempt=None)
    wait_until(lambda: one_session.taken, "the first")
    one_session.taken.clear()
    with Reporter.from_env(take_over=True) as second:
        second.log(2, loss=1.0)
    assert one_session.points() == [("loss", 2, 1.0)]
    first.close(0)


@pytest.mark.usefixtures("by_itself")
def test_a_trainer_that_is_started_again_reports_once_the_dead_one_is_known_to_be(
    one_session: ReportServer, capfd: pytest.CaptureFixture[str]
) -> None:
    rule, one_session.judge = one_session.judge, lambda body: (429, ACTIVE)
    with Reporter.from_env() as training:
        training.log(1, loss=1.0)
        wait_until(lambda: len(one_session.requests) > 2, "some tries")
        one_session.judge = rule
        wait_until(one_session.points, "its points")
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("by_itself")
def test_a_second_process_does_not_wait_for_the_originals_end(
    one_session: ReportServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its points would become a new attempt when the original has closed."""
    monkeypatch.setattr(sender, "OTHER_SESSION_SECONDS", 0.2)
    first = attach(one_session, attempt=None)
    wait_until(lambda: one_session.taken, "the first")
    with Reporter.from_env() as second:
        second.log(9, accuracy=1.0)
        told = second._sender
        wait_until(lambda: not (told and told.open), "the second gives up")
        first.close()
    assert one_session.points() == []


def test_a_closed_session_says_so_and_the_next_cell_of_a_notebook_goes_on(
    one_session: ReportServer,
) -> None:
    for step in (1, 2):
        with attach(one_session, attempt=None) as training:
            training.log(step, loss=1.0)
    assert [step for _, step, _ in one_session.points()] == [1, 2]


# Closing, and what a reporter holds on to.


def test_closing_is_bounded_when_the_file_system_hangs(
    server: ReportServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an NFS mount whose server is away does: no call that touches it returns."""
    back = threading.Event()
    training = attach(server, tmp_path)
    wait_until(lambda: server.taken, "the first report")
    pwrite = os.pwrite

    def hangs(*given: Any) -> int:
        back.wait(60)
        return pwrite(*given)

    monkeypatch.setattr(os, "pwrite", hangs)
    for step in range(3):
        training.log(step, loss=1.0)
    begun = time.monotonic()
    training.close(timeout=0.5)
    assert is_soon(time.monotonic() - begun, 20)
    back.set()


def test_a_hanging_disk_delays_a_training_once_and_not_each_step(
    server: ReportServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_train.buffer.BUFFERED_POINTS", 5000)
    back = threading.Event()
    training = attach(server, tmp_path)
    wait_until(lambda: server.taken, "the first report")
    monkeypatch.setattr(os, "pwrite", lambda *given: back.wait(60) and 0)
    begun = time.monotonic()
    for step in range(8000):
        training.log(step, loss=1.0)
    assert is_soon(time.monotonic() - begun, 20)
    back.set()
    training.close(0)


def test_a_reporter_that_is_closed_is_not_kept(server: ReportServer, tmp_path: Path) -> None:
    import gc

    before = len(reporter._reporters)
    for _ in range(5):
        with attach(server, tmp_path) as training:
            training.log(1, loss=1.0)
        Reporter()
    del training
    gc.collect()
    assert len(reporter._reporters) <= before


@pytest.mark.usefixtures("by_itself")
def test_a_later_call_may_name_the_directory_until_the_first_save(
    one_session: ReportServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Reporter.from_env() as training:
        assert Reporter.from_env(checkpoint_dir=tmp_path / "mine") is training
        with training.checkpoint(1) as directory:
            (directory / "w").write_bytes(b"w")
        Reporter.from_env(checkpoint_dir=tmp_path / "mine")
        assert capfd.readouterr().err == ""
        Reporter.from_env(checkpoint_dir=tmp_path / "other")
        assert "not in" in capfd.readouterr().err
    assert (tmp_path / "mine/step-000001/w").exists()


def test_a_launched_trainer_whose_directory_is_gone_does_not_save_elsewhere_without_a_word(
    server: ReportServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with Reporter(run_id="run_1", run_dir=tmp_path / "gone", attempt=1) as training:
        with pytest.raises(FileNotFoundError, match="not mounted on this machine"):
            _ = training.hyperparams
        for step in (1, 2):
            with training.checkpoint(step) as directory:
                (directory / "w").write_bytes(b"w")
    saved = tmp_path / "checkpoints/run_1"
    assert {path.name for path in saved.iterdir()} == {"step-000001", "step-000002"}
    told = capfd.readouterr().err
    assert told.count(f"checkpoints are saved in {saved}, where the service does not") == 1
