"""What an agent whose mailbox is a directory does with a trainer, started by the local launcher.

What every launcher promises is in test_any_launcher.py; what only this machine can promise of
pids, files and GPUs, in test_local_launcher.py.
"""

import signal
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from app.domain.recipes import LauncherTable, RecipeError
from app.launchers import make_launcher
from app.launchers.base import LauncherContext
from app.launchers.local.launcher import LocalLauncher
from tests.support.clock import is_soon
from tests.support.launchers import (
    DEAF,
    ESCAPES,
    LATE,
    READY,
    SLEEP,
    Attempts,
    Seen,
    look,
    survivors,
)
from tests.support.plans import GRACE
from tests.support.server import alive, wait_until
from tests.support.supervisor import local_launcher

# --- how it ends ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "exit_code", "number"),
    [
        ("print('done')", 0, None),
        ("raise SystemExit(3)", 3, None),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", None, signal.SIGKILL),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", None, signal.SIGSEGV),
    ],
)
def test_the_end_of_a_trainer_is_recorded(
    attempts: Attempts, script: str, exit_code: int | None, number: int | None
) -> None:
    attempts.submit(attempts.plan(script))
    end = attempts.over()
    assert (end.state, end.exit_code, end.signal) == ("ended", exit_code, number)
    assert not (end.stop_sent or end.killed or end.oom or end.never_ran or end.detail)


def test_a_command_that_cannot_run_says_why(attempts: Attempts) -> None:
    for attempt, (plan, words) in enumerate(
        [
            (attempts.plan(argv=("no-such-训练", "x")), "Cannot run 'no-such-训练': No such file"),
            (attempts.plan(argv=(str(attempts.root),)), "Permission denied"),
            (
                replace(attempts.plan(), cwd=attempts.root / "gone"),
                f"Cannot enter the working directory '{attempts.root / 'gone'}': No such file",
            ),
        ],
        start=1,
    ):
        attempts.submit(replace(plan, attempt=attempt))
        end = attempts.over(attempt)
        assert end.never_ran and words in end.detail
        assert not end.stop_sent


def test_the_working_directory_is_the_plans(attempts: Attempts) -> None:
    plan = attempts.plan("import os; print(os.getcwd())")
    attempts.submit(replace(plan, cwd=attempts.root))
    attempts.over()
    assert attempts.log().strip() == str(attempts.root)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_stop_is_obeyed_within_the_grace(attempts: Attempts, number: signal.Signals) -> None:
    script = READY + textwrap.dedent(f"""
        def save(*_):
            (run / "saved").write_text("step 12")
            sys.exit(0)
        signal.signal({int(number)}, save)
        (run / "ready").touch()
        time.sleep(60)
    """)
    plan = replace(attempts.plan(script), stop_signal=number, grace_seconds=30)
    attempts.submit(plan)
    wait_until((attempts.root / "ready").exists, attempts.log)
    assert not attempts.look(1).stop_sent
    attempts.stop(1)
    end = attempts.over()
    assert (end.exit_code, end.signal, end.stop_sent, end.killed) == (0, None, True, False)
    assert (attempts.root / "saved").read_text() == "step 12"


def test_without_a_stop_signal_the_stop_file_alone_asks_the_trainer(attempts: Attempts) -> None:
    """A launcher such as torchrun would pass a signal on, and kill its workers soon after."""
    script = READY + textwrap.dedent("""
        signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
        (run / "ready").touch()
        while not (run / "attempt-1" / "stop.json").exists():
            time.sleep(0.01)
        (run / "seen").touch()
        time.sleep(60 if (run / "deaf").exists() else 0)
    """)
    attempts.submit(replace(attempts.plan(script), stop_signal=0, grace_seconds=30))
    wait_until((attempts.root / "ready").exists, attempts.log)
    attempts.stop(1)
    end = attempts.over()
    assert (end.exit_code, end.stop_sent, end.killed) == (0, True, False)
    (attempts.root / "deaf").touch()
    (attempts.root / "seen").unlink()
    script = script.replace("attempt-1", "attempt-2")
    attempts.submit(replace(attempts.plan(script, attempt=2), stop_signal=0))
    attempts.identity(2)
    attempts.stop(2)
    end = attempts.over(2)
    assert end.never_ran or (end.signal, end.killed) == (9, True), "the grace holds all the same"


def test_the_trainer_alone_hears_the_stop_and_hears_it_once(attempts: Attempts) -> None:
    """A data loader's workers must not die under a trainer that is about to save, and a second
    stop must not interrupt the saving that the first began. Controls: with `killpg` for `kill`
    in the agent there are two pids, with `not stop_sent` taken out two lines."""
    script = READY + textwrap.dedent("""
        def note(*_):
            with (run / "heard").open("a") as file:
                file.write(f"{os.getpid()}\\n")
        signal.signal(signal.SIGTERM, note)
        worker = os.fork()
        if worker:
            (run / "ready").write_text(str(os.getpid()))
        end = time.monotonic() + 1
        while time.monotonic() < end:
            time.sleep(0.01)
        if worker:
            os.wait()
    """)
    plan = replace(attempts.plan(script), grace_seconds=30)
    attempts.submit(plan)
    ready = attempts.root / "ready"
    trainer = wait_until(lambda: ready.exists() and ready.read_text(), attempts.log)
    heard = attempts.root / "heard"
    attempts.stop(1)
    wait_until(lambda: heard.exists() and heard.read_text(), "the trainer hears it")
    attempts.stop(1)
    assert attempts.over().exit_code == 0
    assert heard.read_text().split() == [trainer]


def test_a_stop_that_is_ignored_ends_in_a_kill_after_the_grace_and_soon(
    attempts: Attempts,
) -> None:
    plan = attempts.start(DEAF)
    asked = time.monotonic()
    attempts.stop(1)
    assert time.monotonic() - asked < GRACE
    assert attempts.look(1) == Seen("running", pid=attempts.look(1).pid, stop_sent=True)
    wait_until(lambda: not survivors(plan.nonce), "the end of the tree")
    late = time.monotonic() - asked - GRACE
    assert late >= 0 and is_soon(late, LATE)
    end = attempts.over()
    assert (end.exit_code, end.signal, end.stop_sent, end.killed) == (None, 9, True, True)
    assert not end.oom


def test_kill_ends_a_trainer_at_once_even_while_it_is_stopping(attempts: Attempts) -> None:
    script = READY + textwrap.dedent("""
        signal.signal(signal.SIGTERM, lambda *_: (run / "heard").touch())
        (run / "ready").touch()
        while True: time.sleep(60)
    """)
    attempts.submit(replace(attempts.plan(script), grace_seconds=60))
    wait_until((attempts.root / "ready").exists, attempts.log)
    attempts.stop(1)
    wait_until((attempts.root / "heard").exists, "the stop")
    asked = time.monotonic()
    attempts.kill(1)
    end = attempts.over()
    assert is_soon(time.monotonic() - asked, 20)
    assert (end.signal, end.stop_sent, end.killed) == (9, True, True)
    attempts.kill(1)
    attempts.stop(1)
    assert attempts.look(1) == end


@pytest.mark.parametrize("how", ["exit", "stop", "kill"])
def test_no_descendant_outlives_the_attempt(attempts: Attempts, how: str) -> None:
    """Whatever they ignore and wherever they hide. Control: without PR_SET_CHILD_SUBREAPER the
    daemon survives all three; with only killpg all but `deaf` do. See also the test below."""
    last = "" if how == "exit" else "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    plan = attempts.start(ESCAPES + last)
    pids = [int(path.read_text()) for path in attempts.root.glob("child-*")]
    assert len(pids) == 4
    if how != "exit":
        assert all(map(alive, pids))
        asked = time.monotonic()
        getattr(attempts, how)(1)
    end = attempts.over()
    assert not any(map(alive, pids)) and end.detail == ""
    if how != "exit":
        assert is_soon(time.monotonic() - asked - GRACE, LATE)
    assert end.killed is (how != "exit")
    wait_until(lambda: not survivors(plan.nonce), "the end of the agent")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_an_attempt_stopped_before_its_launch_never_runs(attempts: Attempts, how: str) -> None:
    getattr(attempts, how)(1)
    end = attempts.look(1)
    assert end.never_ran and end.detail == "Stopped before the trainer began."
    attempts.submit(attempts.plan(READY + "(run / 'ran').touch()"))
    assert attempts.look(1) == end
    assert not (attempts.root / "ran").exists()


def test_how_long_a_trainer_has_run_is_known_to_every_server_that_comes_later(
    attempts: Attempts,
) -> None:
    before = time.monotonic()
    attempts.start(SLEEP)
    ready = time.monotonic()
    for launcher in (attempts.launcher, local_launcher(attempts.data_dir, gpus=["A100"])):
        at_least = time.monotonic() - ready
        ran = look(launcher, attempts.key()).ran_seconds
        assert ran is not None and at_least < ran < time.monotonic() - before


def test_a_launcher_is_made_from_its_table_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    """By entry point, as a package of somebody else registers it. Its options are its own."""
    context = LauncherContext(tmp_path, {})
    made = make_launcher(LauncherTable("local", "local", {"gpus": ["T4"]}), context)
    assert isinstance(made, LocalLauncher) and made.offer().gpus == (("0", "T4"),)
    for kind, options, words in (
        ("clay", {}, r"launchers.mine\] kind: 'clay' is unknown; there are: .*local"),
        ("local", {"colour": 1}, r"launchers.mine\] unknown option 'colour'; known are gpus, max_"),
        ("local", {"context": 1}, r"launchers.mine\] unknown option 'context'"),
    ):
        with pytest.raises(RecipeError, match=words):
            make_launcher(LauncherTable("mine", kind, options), context)
