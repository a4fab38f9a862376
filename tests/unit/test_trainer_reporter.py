"""The reporter: training never waits for it, and every point arrives exactly once.

Real sockets, files, signals and processes. Planted once and seen red: a failed batch thrown away,
a batch renumbered when sent again, popped before its acknowledgement, sent without being spooled,
no first empty batch, a global random generator, no at-fork hook, locks taken in log() during a
post, all reports ended by one bad batch. `test_the_audit_*` is the permanent control of the audit.
"""

import fractions
import io
import json
import math
import os
import random
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llm_train import Reporter, buffer, checkpoint, connection, ranks, specs
from llm_train.spool import Spool

from tests.support.clock import is_soon
from tests.support.reports import MODES, ReportServer, attach, points_of, spooled, start
from tests.support.server import wait_until

# A trainer that attaches by itself.


def test_who_attaches_learns_what_the_run_shall_do(
    server: ReportServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(specs, "RETRY_SECONDS", 0.01)
    (tmp_path / "id").write_text("ours")
    (tmp_path / "earlier").mkdir()
    server.spec = {
        "hyperparams": {"learning_rate": 0.05},
        "resume": {"ckpt_path": "/ckpts/e/r/a", "path": str(tmp_path / "earlier"), "step": 7},
        "checkpoint_dir": str(tmp_path / "c"),
        "data_dir": {"path": str(tmp_path), "name": "ours"},
    }
    server.mode = "503"
    with attach(server, attempt=None) as training:
        back = threading.Timer(0.1, setattr, (server, "mode", "ok"))
        back.start()
        assert training.hyperparams == {"learning_rate": 0.05}
        assert training.resume_path == tmp_path / "earlier"
        assert training.checkpoint_dir == tmp_path / "c"
        back.join()


def test_who_attaches_from_another_machine_does_not_begin_from_nothing(
    server: ReportServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "id").write_text("another")  # such a path exists here, too
    (tmp_path / "earlier").mkdir()
    server.spec = {
        "resume": {"ckpt_path": "/ckpts/e/r/a", "path": str(tmp_path / "earlier"), "step": 7},
        "checkpoint_dir": str(tmp_path / "c"),
        "data_dir": {"path": str(tmp_path), "name": "theirs"},
    }
    with attach(server, attempt=None) as training:
        with pytest.raises(FileNotFoundError, match="/ckpts/e/r/a, step 7, which is not on this"):
            _ = training.resume_path
        with training.checkpoint(8) as directory:
            (directory / "state").touch()
    assert (tmp_path / "checkpoints/run_1/step-000008/state").exists()


@pytest.mark.parametrize("own", [None, "saved"])
def test_who_attaches_again_on_its_machine_goes_on_from_its_own_copy(
    server: ReportServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    """Once it died there, beside its files."""
    monkeypatch.chdir(tmp_path)
    server.spec = elsewhere = {
        "checkpoint_dir": "/away/ckpts/e/run_1", "data_dir": {"path": "/away", "name": "theirs"},
    }  # fmt: skip
    with (
        attach(server, attempt=None, checkpoint_dir=own) as first,
        first.checkpoint(7, "kept") as directory,
    ):
        (directory / "state").write_text("seven")
    saved = tmp_path / (own or "checkpoints/run_1") / "kept"
    resume = {
        "ckpt_path": "/ckpts/e/run_1/kept", "path": "/away/ckpts/e/run_1/kept", "step": 7,
        "sha256": checkpoint.load(saved).sha256,
    }  # fmt: skip

    def resumed(**more: object) -> Path | None:
        server.spec = elsewhere | {"resume": resume | more}
        with attach(server, attempt=None, checkpoint_dir=own) as second:
            return second.resume_path

    assert resumed() == saved
    for digest in ("0" * 64, None):  # another checkpoint of that name; or nobody knows which
        with pytest.raises(FileNotFoundError, match="is no copy in checkpoints/run_1/kept"):
            resumed(sha256=digest)
    (saved / "state").write_text("eight")
    with pytest.raises(FileNotFoundError, match="is no copy in"):
        resumed()


def test_who_cannot_learn_what_to_do_does_not_train_something_else(
    server: ReportServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with attach(server, attempt=None) as training:
        with pytest.raises(PermissionError, match="no such run"):
            _ = training.hyperparams
        monkeypatch.setattr(specs, "SPEC_TIMEOUT_SECONDS", 0)
        monkeypatch.setattr(specs, "RETRY_SECONDS", 0.01)
        server.mode = "503"
        with pytest.raises(ConnectionError):
            _ = training.hyperparams
        with training.checkpoint(1) as directory:  # what was trained is saved all the same
            (directory / "state").touch()
        assert training.checkpoint_dir == Path("checkpoints/run_1")
        server.mode = "ok"


@pytest.mark.parametrize("answers", [True, False])
def test_a_first_checkpoint_is_saved_where_the_service_verifies_it_if_it_answers(
    server: ReportServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "id").write_text("ours")
    server.spec = {
        "hyperparams": {"lr": 0.5},
        "checkpoint_dir": str(tmp_path / "c"),
        "data_dir": {"path": str(tmp_path), "name": "ours"},
    }
    if not answers:
        server.stop()
    with attach(server, attempt=None) as training:
        with training.checkpoint(1) as directory:
            (directory / "state").touch()
        if not answers:
            server.start()
        assert training.hyperparams == {"lr": 0.5}
        with training.checkpoint(2) as directory:  # one run's checkpoints are in one place
            (directory / "state").touch()
    chosen = tmp_path / ("c" if answers else "checkpoints/run_1")
    assert {path.name for path in chosen.iterdir()} == {"step-000001", "step-000002"}
    told = [c for body in server.taken.values() for c in body.get("checkpoints", [])]
    assert [c.get("in_data_dir", False) for c in told] == [answers, answers]


def test_where_the_service_s_files_are_read_only_work_is_saved_all_the_same(
    server: ReportServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "id").write_text("ours")
    (tmp_path / "ckpts").touch()  # root may write into any directory, and into no file
    server.spec = {
        "checkpoint_dir": str(tmp_path / "ckpts/c"),
        "data_dir": {"path": str(tmp_path), "name": "ours"},
    }
    with attach(server, attempt=None) as training, training.checkpoint(1) as directory:
        (directory / "state").touch()
    assert (tmp_path / "checkpoints/run_1/step-000001/state").exists()
    assert "checkpoints cannot be verified" in capfd.readouterr().err
    told = [c for body in server.taken.values() for c in body.get("checkpoints", [])]
    assert [c.get("in_data_dir") for c in told] == [None]


@pytest.mark.parametrize("spec", [None, "{}"])
def test_a_launched_trainer_that_is_told_no_directory_saves_in_one_of_its_run_and_says_so(
    server: ReportServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    spec: str | None,
) -> None:
    """Once all runs of a working directory saved in its `checkpoints`, without a word."""
    monkeypatch.chdir(tmp_path)
    if spec is not None:
        (tmp_path / "spec.json").write_text(spec)
    with attach(server, tmp_path) as training, training.checkpoint(1) as directory:
        (directory / "state").touch()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["run_1"]
    assert "where the service does not find them" in capfd.readouterr().err


@pytest.mark.parametrize("trouble", ["away", "hang", "503"])
def test_a_save_never_waits_for_the_service(
    server: ReportServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connection, "TIMEOUT_SECONDS", 30.0)
    monkeypatch.setattr(specs, "FIRST_RESPONSE_SECONDS", 0.1)
    server.mode = trouble
    if trouble == "away":
        server.stop()
    took = {}
    with attach(server, attempt=None) as attached, Reporter(checkpoint_dir="alone") as alone:
        for name, training in (("alone", alone), ("attached", attached)):
            begun = time.monotonic()
            with training.checkpoint(1) as directory:
                (directory / "state").touch()
            took[name] = time.monotonic() - begun
        server.mode = "ok"
        attached.close(timeout=0)
    assert (tmp_path / "checkpoints/run_1/step-000001/state").exists()
    assert is_soon(took["attached"] - took["alone"], 0.5), "half a second for a busy disk"


def test_it_is_said_when_the_last_reports_are_lost(
    server: ReportServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server.stop()
    training = attach(server, attempt=None)
    training.log(1, loss=0.5)
    training.close(0.2)
    assert "the last reports are lost" in capfd.readouterr().err


# What is said, and how.


def test_three_lines_report_a_training(server: ReportServer, tmp_path: Path) -> None:
    before = time.time()
    with attach(server, tmp_path) as reporter:
        reporter.effective(learning_rate=0.1)
        for step in range(1, 4):
            reporter.log(
                step, total_steps=3, loss=[2.5, math.nan, -math.inf][step - 1], accuracy=step / 4
            )
        reporter.finish()
    told: dict[str, Any] = {}
    for body in server.taken.values():
        assert body["attempt"] == 1
        told.update(body)
    assert told["step"] == told["total_steps"] == 3
    assert told["effective_hyperparams"] == {"learning_rate": 0.1}
    assert told["finished"] is True
    assert server.points() == [
        *[("loss", 1, 2.5), ("loss", 2, "NaN"), ("loss", 3, "-Infinity")],
        *[("accuracy", 1, 0.25), ("accuracy", 2, 0.5), ("accuracy", 3, 0.75)],
    ]
    times = [t for column in told["metrics"].values() for t in column["wall_times"]]
    assert all(before <= t <= time.time() for t in times)
    assert spooled(tmp_path) == [{"attempt": 1, "batch": max(server.taken)}]


def test_an_idle_trainer_is_heard_as_often_as_its_recipe_asks(
    server: ReportServer, tmp_path: Path
) -> None:
    (tmp_path / "spec.json").write_text(json.dumps({"heartbeat_seconds": 0.3}))
    with attach(server, tmp_path):
        wait_until(lambda: len(server.taken) >= 4, "heartbeats of a silent trainer")
    assert all(body.keys() == {"attempt", "batch"} for body in server.taken.values())


def test_finished_is_the_last_word(
    server: ReportServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffer, "BATCH_POINTS", 10)
    monkeypatch.setattr(buffer, "BATCH_CHECKPOINTS", 1)
    training = attach(server, tmp_path, checkpoint_dir=tmp_path / "c")
    for step in range(95):
        training.log(step, loss=1.0)
        if step in (3, 4, 5):
            with training.checkpoint(step) as directory:
                (directory / "weights").write_bytes(b"w")
    training.finish()
    training.close()
    assert len(server.points()) == 95
    announced = [c["step"] for body in server.taken.values() for c in body.get("checkpoints", [])]
    assert announced == [3, 4, 5]
    assert max(len(body.get("checkpoints", [])) for body in server.taken.values()) == 1
    assert [n for n, body in server.taken.items() if body.get("finished")] == [max(server.taken)]


class Scalar:
    def item(self) -> float:
        return 1.5


@pytest.mark.parametrize(
    "value",
    [1.5, np.float32(1.5), np.array(1.5), np.array([1.5]), fractions.Fraction(3, 2), Scalar()],
)
def test_whatever_holds_one_number_is_a_metric(server: ReportServer, value: Any) -> None:
    with attach(server) as training:
        training.log(1, loss=value)
        training.log(np.int64(2), total_steps=np.int32(9), loss=True)
    assert server.points() == [("loss", 1, 1.5), ("loss", 2, 1.0)]


def test_without_a_service_it_is_silent_and_still_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith("LLM_TRAIN_"):
            monkeypatch.delenv(name)
    threads, handler = set(threading.enumerate()), signal.getsignal(signal.SIGTERM)
    training = Reporter.from_env(checkpoint_dir=tmp_path)
    assert (training.spec, training.hyperparams, training.resume_path) == ({}, {}, None)
    training.log(1, loss=2.0)
    training.effective(a=1)
    with training.checkpoint(7) as directory:
        (directory / "weights").write_bytes(b"w")
    training.finish()
    assert checkpoint.verify(tmp_path / "step-000007").step == 7
    assert set(threading.enumerate()) <= threads, "it has started none"
    assert signal.getsignal(signal.SIGTERM) is handler
    assert training.should_stop is False


def test_a_checkpoint_that_an_agent_uploads_is_not_announced_before_it_has_arrived(
    server: ReportServer, tmp_path: Path
) -> None:
    spec = {"checkpoint_dir": str(tmp_path / "saved"), "files": "http"}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    (tmp_path / "attempt-1").mkdir()
    with Reporter(
        api_url=server.url, run_id="run_1", token="secret", attempt=1, run_dir=tmp_path
    ) as training:
        with training.checkpoint(3) as directory:
            (directory / "model.bin").write_bytes(b"x")
        training.log(4, loss=1.0)
    assert (tmp_path / "saved/step-000003/manifest.json").exists()
    reports = list(server.taken.values())
    assert reports and not [report for report in reports if "checkpoints" in report]


def test_a_checkpoint_is_committed_and_announced(server: ReportServer, tmp_path: Path) -> None:
    with attach(server, checkpoint_dir=tmp_path) as training:
        for _ in range(2):
            with training.checkpoint(12) as directory:
                (directory / "weights").write_bytes(b"12345")
        with pytest.raises(RuntimeError), training.checkpoint(13) as directory:
            raise RuntimeError("the disk of the trainer's mind is full")
    announced = [c for body in server.taken.values() for c in body.get("checkpoints", [])]
    manifests = {p.name: checkpoint.verify(p) for p in tmp_path.iterdir()}
    assert [c["name"] for c in announced] == sorted(manifests) == ["step-000012", "step-000012.2"]
    assert [c["sha256"] for c in announced] == [manifests[c["name"]].sha256 for c in announced]
    assert [(c["step"], c["size_bytes"]) for c in announced] == [(12, 5), (12, 5)]


def test_the_spec_is_what_the_run_asks_for(tmp_path: Path) -> None:
    spec = {
        "hyperparams": {"steps": 5},
        "checkpoint_dir": str(tmp_path / "ckpts"),
        "stop_checkpoint": "cancel-3",
        "resume": {"ckpt_path": "/ckpts/e/r/x", "path": str(tmp_path / "x"), "step": 4},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    training = Reporter(run_dir=tmp_path, attempt=3)
    assert training.hyperparams == {"steps": 5}
    assert training.resume_path == tmp_path / "x"
    assert training.checkpoint_dir == tmp_path / "ckpts"
    (tmp_path / "spec.json").write_text('{"hyperparams": {"st')
    with pytest.raises(ValueError, match=r"spec\.json is not JSON"):
        Reporter(run_dir=tmp_path)


# Nothing lost, nothing doubled.


@pytest.mark.parametrize("with_spool", [True, False])
def test_nothing_is_lost_or_doubled_whatever_the_server_does(
    server: ReportServer, tmp_path: Path, with_spool: bool
) -> None:
    dice, state = random.Random(20), random.getstate()
    training = attach(server, tmp_path if with_spool else None)
    step = 0
    for trouble in dice.sample([*MODES, "away"] * 2, 2 * len(MODES) + 2):
        if trouble == "away":
            server.stop()
        server.mode = trouble
        for _ in range(dice.randrange(50, 150)):
            step += 1
            training.log(step, loss=step / 7, accuracy=step / 9)
        seen = len(server.requests)
        if trouble == "away":
            time.sleep(0.1)
            server.start()
        elif trouble not in ("hang", "drop before reading"):
            wait_until(lambda seen=seen: len(server.requests) > seen, "a request")  # type: ignore[misc]
        else:
            time.sleep(0.1)
        server.mode = "ok"
    training.finish()
    training.close()
    points = server.points()
    assert len(points) == 2 * step
    assert [p for p in points if p[0] == "loss"] == [
        ("loss", s + 1, (s + 1) / 7) for s in range(step)
    ]
    assert len(server.requests) > len(server.taken), "no batch was ever sent twice: no test"
    assert random.getstate() == state, "the training's random numbers are its own"


def test_the_audit_sees_a_lost_and_a_changed_batch() -> None:
    server = ReportServer()
    server.stop()
    for body in ({"batch": 1, "step": 1}, {"batch": 1, "step": 2}, {"batch": 3}):
        server._take(body)
    assert server.errors == [
        "batch 1 came again with another content",
        "batch 3 came after 1",
    ]


TRAINER = """
    import sys, time
    from llm_train import Reporter
    reporter = Reporter.from_env()
    for step in range(1, 501):
        reporter.log(step, total_steps=500, loss=step / 7)
    print("logged", flush=True)
    time.sleep(60)
"""


def test_sigkill_while_the_server_is_away_leaves_every_point_in_the_spool(
    server: ReportServer, tmp_path: Path
) -> None:
    server.stop()
    spool = tmp_path / "attempt-1/reports.jsonl"
    with start(TRAINER, server, tmp_path) as process:
        wait_until(lambda: spool.exists() and len(points_of(spooled(tmp_path))) == 500, "the spool")
        process.kill()
    expected = [("loss", step, step / 7) for step in range(1, 501)]
    assert points_of(spooled(tmp_path)) == expected

    # A trainer restarted within the attempt owes them, and goes on counting.
    with spool.open("ab") as stream:
        stream.write(b'{"attempt":1,"batch":99,"metr' + b"x" * 999)  # SIGKILL within a write
    with attach(server, tmp_path) as training:
        training.log(501, loss=0.5)
        wait_until(lambda: len(points_of(spooled(tmp_path))) == 501, "the spool, whole again")
        server.start()
        wait_until(lambda: len(server.points()) == 501, "delivery after the restart")
    assert server.points() == [*expected, ("loss", 501, 0.5)]


def test_a_second_life_goes_on_counting_where_all_was_delivered(
    server: ReportServer, tmp_path: Path
) -> None:
    for life in range(3):
        with attach(server, tmp_path) as training:
            training.log(life, loss=1.0)
    assert [step for _, step, _ in server.points()] == [0, 1, 2]


def test_a_second_life_without_a_spool_asks_the_server_for_its_number(
    server: ReportServer,
) -> None:
    for life in range(3):
        with attach(server) as training:
            training.log(life, loss=1.0)
    assert [step for _, step, _ in server.points()] == [0, 1, 2]


def test_a_trainer_that_attaches_by_itself_is_known_by_its_session(server: ReportServer) -> None:
    for life in range(2):
        with attach(server, attempt=None) as training:
            training.log(life, loss=1.0)
    sessions = [body["session"] for body in server.taken.values()]
    assert len(set(sessions)) == 2
    assert not any("attempt" in body for body in server.taken.values())


def test_memory_is_bounded_without_a_spool(
    server: ReportServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(buffer, "BUFFERED_POINTS", 5000)
    server.stop()
    training = attach(server)
    for step in range(12_000):
        training.log(step, loss=1.0)
    assert training._sender and len(training._sender._buffer) == 5000
    server.start()
    training.finish()
    training.close()
    assert [step for _, step, _ in server.points()] == list(range(7000, 12_000))
    assert capfd.readouterr().err.count("only the newest 5000 points wait") == 1


def test_points_that_come_faster_than_the_disk_takes_them_are_waited_for(
    server: ReportServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffer, "BUFFERED_POINTS", 5000)
    server.stop()
    many: dict[str, Any] = {f"layer{n}": 0.5 for n in range(30)}
    with attach(server, tmp_path) as training:
        for step in range(2000):
            training.log(step, **many)
        training.close(timeout=0)
    assert len(set(points_of(spooled(tmp_path)))) == 30 * 2000


def test_a_full_disk_moves_the_spool_into_memory_and_back(tmp_path: Path) -> None:
    lines = [
        json.dumps({"attempt": 1, "batch": n, "x": "y" * 80}).encode() + b"\n" for n in range(30)
    ]
    spool = Spool(tmp_path / "reports.jsonl", {"attempt": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for line in lines:
            spool.append(line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert spool.in_memory
    on_disk = (tmp_path / "reports.jsonl").read_bytes()
    assert on_disk == b"".join(lines)[: len(on_disk)]
    assert on_disk.endswith(b"\n"), "no torn line"
    for n, line in enumerate(lines):
        assert spool.head(0) == line
        spool.pop(n)
    assert spool.head(0) is None
    assert not spool.in_memory
    spool.append(lines[7])
    assert (tmp_path / "reports.jsonl").read_bytes() == b'{"attempt": 1, "batch": 29}\n' + lines[7]
    spool.close()


def test_closing_waits_for_a_batch_between_the_buffer_and_the_spool(
    server: ReportServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in neither, so that there seems to be nothing to deliver."""
    take, taken = buffer.Buffer.take, threading.Event()

    def slow_take(self: buffer.Buffer) -> dict[str, Any]:
        body = take(self)
        if body:
            taken.set()
            time.sleep(0.3)
        return body

    monkeypatch.setattr(buffer.Buffer, "take", slow_take)
    with attach(server) as training:
        training.log(1, loss=1.0)
        assert taken.wait(60)
    assert server.points() == [("loss", 1, 1.0)]


# Training never waits.


def test_log_is_cheap_and_never_waits_for_a_hanging_server(
    server: ReportServer, tmp_path: Path
) -> None:
    server.mode = "hang"
    training = attach(server, tmp_path)
    wait_until(lambda: server._connections, "the first report to hang")
    slowest, each = 0.0, []
    for _ in range(20):
        begun = time.perf_counter()
        for step in range(500):
            before = time.perf_counter()
            training.log(step, total_steps=500, loss=1.5)
            slowest = max(slowest, time.perf_counter() - before)
        each.append((time.perf_counter() - begun) / 500)
    assert is_soon(slowest, 2), "one call waited"
    assert is_soon(min(each), 20e-6)
    server.mode = "ok"
    training.close()
    assert len(server.points()) == 10_000


def test_finish_is_bounded_when_the_server_hangs(server: ReportServer, tmp_path: Path) -> None:
    server.mode = "hang"
    training = attach(server, tmp_path)
    training.log(1, loss=1.0)
    begun = time.monotonic()
    training.close(timeout=0.5)
    assert is_soon(time.monotonic() - begun, 20)
    assert points_of(spooled(tmp_path)) == [("loss", 1, 1.0)]


def test_when_nobody_answers_it_follows_the_address_in_its_directory(
    server: ReportServer, tmp_path: Path
) -> None:
    successor = ReportServer()
    address = tmp_path / "api_url"
    with attach(server, tmp_path) as reporter:
        reporter.log(1, loss=1.0)
        wait_until(server.points, "the first point")
        server.stop()
        address.write_text(successor.url)
        reporter.log(3, loss=3.0)
        wait_until(lambda: ("loss", 3, 3.0) in successor.points(), "the successor has it")
    successor.stop()


@pytest.mark.parametrize(
    "unusable",
    ["", "no url", "http://[", "http://a:b", "http://a..b", "http://a b", "http://a/ä", "x:///"],
)
def test_an_address_that_is_none_changes_nothing(server: ReportServer, unusable: str) -> None:
    link = connection.ApiConnection(server.url + "/", "/v1/runs/run_1/reports", "secret")
    with pytest.raises(ValueError):
        link.set_url(unusable)
    assert link.post(b'{"attempt": 1, "batch": 1}').delivered
    link.close()


@pytest.mark.parametrize(
    "wrong",
    [{"api_url": "http://a..b"}, {"token": "rt_ä"}, {"token": "a b"}, {"run_id": "run_1\n"}],
)
def test_what_can_make_no_request_is_refused_at_once(wrong: dict[str, str]) -> None:
    given = {"api_url": "http://127.0.0.1:9", "run_id": "run_1", "token": "secret", **wrong}
    with pytest.raises(ValueError, match="must be"):
        Reporter(**given)  # type: ignore[arg-type]


def test_a_token_from_a_file_may_end_its_line(server: ReportServer) -> None:
    link = connection.ApiConnection(server.url, "/v1/runs/run_1/reports", "secret\n")
    assert link.post(b'{"attempt": 1, "batch": 1}').delivered
    link.close()


def test_an_answer_that_cannot_be_read_is_none(server: ReportServer) -> None:
    server.mode = "not JSON"
    link = connection.ApiConnection(server.url, "/v1/runs/run_1/reports", "secret")
    reply = link.post(b'{"attempt": 1, "batch": 1}')
    assert (reply.status, reply.body, reply.is_retryable) == (0, {}, True)
    link.close()


@pytest.mark.parametrize(
    ("kind", "work"), [(connection.ApiConnection, "post"), (buffer.Buffer, "take")]
)
def test_an_error_of_our_own_delays_reports_and_does_not_end_them(
    server: ReportServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    kind: type,
    work: str,
) -> None:
    works = getattr(kind, work)
    failed: list[int] = []

    def fails_twice(self: Any, *given: Any) -> Any:
        if threading.current_thread() is threading.main_thread() or len(failed) == 2:
            return works(self, *given)
        failed.append(1)
        raise LookupError("nobody thought of this")

    monkeypatch.setattr(kind, work, fails_twice)
    with attach(server) as training:
        wait_until(lambda: len(failed) == 2, "the errors")
        training.log(1, loss=1.0)
        wait_until(server.points, "the report all the same")
    assert capfd.readouterr().err.count("nobody thought of this") == 1


def test_reports_outlive_the_reader_of_the_log(
    server: ReportServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb", buffering=0) as raw:  # noqa: PTH123 - a file descriptor
        log = io.TextIOWrapper(raw, write_through=True)
        monkeypatch.setattr(sys, "stderr", log)
        with pytest.raises(BrokenPipeError):
            log.write("?")
        server.mode = "422"
        with attach(server) as training:
            wait_until(lambda: server.requests, "a refusal, of which is told")
            server.mode = "ok"
            training.log(1, loss=1.0)
            wait_until(server.points, "the next report")
        monkeypatch.undo()
        log.detach()
    server.errors.clear()


def test_retry_after_is_honoured(server: ReportServer) -> None:
    server.mode, server.retry_after = "503", "1"
    with attach(server):
        wait_until(lambda: server.requests, "the first try")
        server.mode = "ok"
        wait_until(lambda: server.taken, "the second try")
    first, second = (at for at, _, _ in server.requests[:2])
    assert second - first >= 1.0


@pytest.mark.parametrize("status", ["409", "404", "401"])
def test_a_refusal_ends_the_reports_and_not_the_training(
    server: ReportServer, tmp_path: Path, capfd: pytest.CaptureFixture[str], status: str
) -> None:
    with attach(server, tmp_path) as training:
        wait_until(lambda: server.taken, "the first report")
        server.mode = status
        training.log(1, loss=1.0)
        told = training._sender
        wait_until(lambda: told and not told._delivering, "the refusal")
        server.mode = "ok"
        for step in range(2, 50):
            training.log(step, loss=1.0)
            time.sleep(0.002)
        begun = time.monotonic()
    assert is_soon(time.monotonic() - begun, 4), "nobody waits for what will not be sent"
    assert [s for _, s, _ in server.requests].count(int(status)) == 1
    assert server.requests[-1][1] == int(status)
    assert capfd.readouterr().err.count("refused") == 1
    kept = {step for _, step, _ in points_of(spooled(tmp_path))}
    assert kept == ({1} if status == "409" else set(range(1, 50)))


@pytest.mark.parametrize(
    "status", ["302", "400", "401", "403", "404", "405", "407", "409", "413", "415", "422"]
)
def test_a_page_of_a_proxy_whose_service_is_away_refuses_nothing(
    server: ReportServer, tmp_path: Path, status: str
) -> None:
    with attach(server, tmp_path) as training:
        wait_until(lambda: server.taken, "the first report")
        server.mode = f"{status} not JSON"
        training.log(1, loss=1.0)
        wait_until(lambda: int(status) in [s for _, s, _ in server.requests], "the page")
        server.mode = "ok"
        wait_until(server.points, "the same report")
    assert server.points() == [("loss", 1, 1.0)]


@pytest.mark.parametrize("status", ["400", "413", "415", "422"])
@pytest.mark.parametrize("with_spool", [True, False])
def test_a_refused_batch_is_dropped_and_the_next_is_sent(
    server: ReportServer,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    status: str,
    with_spool: bool,
) -> None:
    """A trainer that fell silent for one bad batch would be ended although it is well."""
    with attach(server, tmp_path if with_spool else None) as training:
        wait_until(lambda: server.taken, "the first report")
        server.mode = status
        for step in (1, 2):
            training.log(step, loss=1.0)
            wait_until(
                lambda step=step: [s for _, s, _ in server.requests].count(int(status)) == 2 * step,  # type: ignore[misc]
                "a refusal, also without its points",
            )
        server.mode = "ok"
        training.log(3, loss=1.0)
    assert server.points() == [("loss", 3, 1.0)]
    assert server.errors == ["batch 4 came after 1"], "what is dropped keeps its number"
    server.errors.clear()
    assert capfd.readouterr().err.count("refused") == 1


def test_a_second_reporter_of_the_attempt_is_silent(
    server: ReportServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with attach(server, tmp_path) as training, attach(server, tmp_path) as second:
        training.log(1, loss=1.0)
        second.log(2, loss=2.0)
    assert server.points() == [("loss", 1, 1.0)]
    assert "another process reports this attempt" in capfd.readouterr().err


# Stop requests.


@pytest.mark.usefixtures("environment")
def test_a_trainer_of_a_run_without_the_runs_token_says_that_nothing_is_reported(
    server: ReportServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LLM_TRAIN_RUN_TOKEN")
    with Reporter.from_env() as training:
        training.log(1, loss=1.0)
    assert "LLM_TRAIN_RUN_TOKEN not: nothing is reported" in capfd.readouterr().err
    assert not server.taken


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop_and_the_next_checkpoint_is_the_promised_one(
    server: ReportServer, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "spec.json").write_text(json.dumps({"checkpoint_dir": str(tmp_path / "c")}))
    with Reporter.from_env() as training:
        assert Reporter.from_env() is training
        assert not training.should_stop
        os.kill(os.getpid(), number)
        assert training.should_stop
        for step in (3, 4):
            with training.checkpoint(step) as directory:
                (directory / "weights").write_bytes(b"w")
        os.kill(os.getpid(), signal.SIGTERM)  # forwarded twice, by torchrun say: no harm
    assert signal.getsignal(number) != training.stop_request._on_signal
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["cancel-1", "step-000004"]
    announced = [c["name"] for body in server.taken.values() for c in body.get("checkpoints", [])]
    assert announced == ["cancel-1", "step-000004"]


@pytest.mark.usefixtures("environment")
def test_a_save_that_failed_leaves_the_promised_name_to_the_next(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps({"checkpoint_dir": str(tmp_path / "c")}))
    with Reporter.from_env() as training:
        assert not training.should_stop
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(OSError, match="disk full"), training.checkpoint(3):
            raise OSError("disk full")
        with training.checkpoint(3) as directory:
            (directory / "weights").write_bytes(b"w")
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["cancel-1"]


@pytest.mark.usefixtures("environment")
def test_a_second_ctrl_c_interrupts(server: ReportServer) -> None:
    with Reporter.from_env() as training:
        assert not training.should_stop
        os.kill(os.getpid(), signal.SIGINT)
        assert training.should_stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("launcher", ["RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"])
def test_other_ranks_are_silent_and_hear_the_stop(
    server: ReportServer, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv(launcher, "1")
    with Reporter.from_env() as training:
        training.log(1, loss=1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert training.should_stop
        with pytest.raises(RuntimeError, match="rank 0"), training.checkpoint(1):
            pass
    assert server.requests == []


def test_a_rank_that_attaches_by_itself_learns_the_spec_and_is_silent(
    server: ReportServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    server.spec = {"hyperparams": {"lr": 0.5}}
    with attach(server, attempt=None) as training:
        assert training.hyperparams == {"lr": 0.5}
        training.log(1, loss=1.0)
    assert server.requests == []


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),  # torchrun, first of the second node
        ({"RANK": "1", "SLURM_PROCID": "0"}, False),  # torchrun in a batch script
        ({"RANK": "0", "SLURM_PROCID": "3"}, True),  # one training for each task, as it says
        ({"OMPI_COMM_WORLD_RANK": "1", "PMIX_RANK": "1"}, False),
        ({"PMI_RANK": "0", "SLURM_PROCID": "1"}, True),  # mpirun whose daemons srun started
        ({"PMI_RANK": "1", "SLURM_PROCID": "0"}, False),  # mpirun in a batch script
        ({"MV2_COMM_WORLD_RANK": "2"}, False),
        ({"PMIX_RANK": "3", "SLURM_PROCID": "3"}, False),  # srun --mpi=pmix
        ({"SLURM_PROCID": "3", "LOCAL_RANK": "0"}, False),  # srun; LOCAL_RANK by the user's script
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, True),  # srun; sbatch; srun --pty bash
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),  # Lightning in a single task
        ({"RANK": "", "SLURM_PROCID": "", "LOCAL_RANK": ""}, True),
    ],
)
def test_one_process_of_a_training_is_rank_0(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], first: bool
) -> None:
    monkeypatch.setattr(os, "environ", environment)
    assert ranks.is_rank_0() is first


def test_the_answer_can_ask_to_stop_and_names_the_checkpoint(
    server: ReportServer, tmp_path: Path
) -> None:
    with attach(server, checkpoint_dir=tmp_path) as training:
        server.should_stop = "cancel-1-of-the-server"
        training.log(1, loss=1.0)
        wait_until(lambda: training.should_stop, "the stop request")
        with training.checkpoint(1) as directory:
            (directory / "weights").write_bytes(b"w")
    assert (tmp_path / "cancel-1-of-the-server/manifest.json").exists()


def test_a_stop_file_is_enough_when_the_signal_was_lost(
    server: ReportServer, tmp_path: Path
) -> None:
    server.stop()
    with attach(server, tmp_path) as training:
        (tmp_path / "attempt-1/stop.json").write_text("{}")
        wait_until(lambda: training.should_stop, "the stop request")
        training.close(timeout=0)


FORK = """
    import os, signal, sys, time, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 on: fork beside threads
    from llm_train import Reporter
    reporter = Reporter.from_env()
    reporter.log(1, loss=1.0)
    worker = os.fork()
    if worker == 0:
        reporter.log(2, loss=2.0)
        Reporter.from_env().log(3, loss=3.0)
        reporter.effective(a=1)
        reporter.finish()
        Reporter.from_env().log(5, loss=5.0)
        sys.exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]), flush=True)
    reading, writing = os.pipe()
    sleeper = os.fork()
    if sleeper == 0:
        os.write(writing, b"!")
        time.sleep(20)
        os._exit(0)
    os.read(reading, 1)
    os.kill(sleeper, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(sleeper, 0)[1]), flush=True)
    reporter.log(4, loss=4.0)
    reporter.close(timeout=0.5)
"""


@pytest.mark.parametrize("away", [False, True])
def test_a_forked_worker_reports_nothing_and_dies_of_sigterm(
    server: ReportServer, tmp_path: Path, away: bool
) -> None:
    if away:
        server.stop()
    with start(FORK, server, tmp_path) as process:
        try:
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out.split()) == (0, ["7", str(-signal.SIGTERM)])
    told = spooled(tmp_path) if away else list(server.taken.values())
    assert points_of(told) == [("loss", 1, 1.0), ("loss", 4, 4.0)]
    assert not any("finished" in body or "effective_hyperparams" in body for body in told)
