"""One attempt, watched from another machine or container that has the same files.

The other place is a real pid namespace, where the system lets us make one; else the identity is
made to name another place. Each was seen red: the pid looked for here, a pulse that is not
renewed, the two clocks compared, a request that no agent looks for, `kill_tree` from here.
"""

import errno
import json
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from app.agent.main import PULSE_SECONDS
from app.agent.process import host_namespace
from app.launchers.base import Key, LauncherError
from app.launchers.local import launcher as launcher_module
from app.launchers.local.launcher import LocalLauncher
from app.storage import files
from tests.support.clock import is_soon
from tests.support.launchers import (
    ESCAPES,
    LATE,
    READY,
    SERVER,
    SLEEP,
    Seen,
    look,
    survivors,
)
from tests.support.places import ELSEWHERE, move
from tests.support.plans import RUN
from tests.support.server import REPOSITORY, alive, command_line, wait_until
from tests.support.supervisor import local_launcher

SAVES = READY + textwrap.dedent("""
    def save(*_):
        (run / "saved").write_text("step 12")
        sys.exit(0)
    signal.signal(signal.SIGTERM, save)
    (run / "ready").touch()
    time.sleep(60)
""")
SILENT = PULSE_SECONDS + 3.0


KEY = Key(RUN, 1)


@dataclass
class Elsewhere:
    """Attempt 1, launched by a server of another place; `launcher` is of this one."""

    root: Path
    nonce: str
    launcher: LocalLauncher
    server: subprocess.Popen[bytes]

    @property
    def identity(self) -> Path:
        return self.root / "attempt-1" / "identity.json"

    def agent(self) -> psutil.Process:
        """The agent, as it is seen from here."""
        return next(
            each for each in survivors(self.nonce) if "agent.main" in " ".join(command_line(each))
        )

    def observe(self) -> Seen:
        return look(self.launcher, KEY)

    def over(self) -> Seen:
        wait_until(
            lambda: self.observe().state != "running", lambda: f"the end of {self.observe()}"
        )
        return self.observe()


@contextmanager
def elsewhere(root: Path, script: str) -> Iterator[Elsewhere]:
    data_dir, root = root, root / "runs" / RUN
    root.mkdir(parents=True)
    nonce = secrets.token_hex(8)
    command = [sys.executable, "-c", SERVER, str(data_dir), nonce, script, os.environ["PATH"]]
    with subprocess.Popen(
        [*ELSEWHERE, *command],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as server:  # fmt: skip
        made = Elsewhere(root, nonce, local_launcher(data_dir), server)
        try:
            wait_until(lambda: (root / "ready").exists(), "the trainer")
            move(made.identity)
            assert json.loads(made.identity.read_text())["place"] != host_namespace()
            yield made
        finally:
            server.kill()
            for process in survivors(nonce):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            wait_until(lambda: not survivors(nonce), "the end of all")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a pulse takes, shorter than the ten seconds of a real server."""
    monkeypatch.setattr(launcher_module, "SILENT_SECONDS", SILENT)


def test_a_trainer_elsewhere_is_alive_as_long_as_its_agent_is(tmp_path: Path) -> None:
    with elsewhere(tmp_path / "run", SLEEP) as there:
        until = time.monotonic() + SILENT + 2 * PULSE_SECONDS
        while time.monotonic() < until:
            assert there.observe() == Seen("running")
            time.sleep(0.1)
        assert there.launcher.exit_fd(KEY) is None


def test_how_long_a_trainer_elsewhere_has_run_comes_with_its_pulse(tmp_path: Path) -> None:
    """Its machine's monotonic clock cannot be read from here."""
    with elsewhere(tmp_path / "run", SLEEP) as there:
        ran = wait_until(lambda: there.observe().ran_seconds or 0.0, "a first pulse")
        assert PULSE_SECONDS - 0.1 <= ran < 20
        wait_until(lambda: (there.observe().ran_seconds or 0) > ran + 1, "another pulse")


def test_a_clock_that_is_wrong_there_changes_nothing(tmp_path: Path) -> None:
    with elsewhere(tmp_path / "run", SLEEP) as there:
        os.utime(there.identity, (0, 0))  # as of a machine that thinks it is 1970
        assert there.observe().state == "running"
        assert there.observe().state == "running"


def test_time_in_which_nobody_looked_is_no_silence(tmp_path: Path) -> None:
    """As when the observer's machine slept, or the file server was away for both."""
    with elsewhere(tmp_path / "run", SLEEP) as there:
        agent = there.agent()
        agent.suspend()
        assert there.observe().state == "running"
        time.sleep(SILENT + 0.5)
        assert there.observe().state == "running"
        agent.resume()
        beat = there.identity.stat().st_mtime_ns
        wait_until(lambda: there.identity.stat().st_mtime_ns != beat, "a pulse")
        assert there.observe().state == "running"


def test_a_stop_from_elsewhere_is_obeyed_within_the_grace(tmp_path: Path) -> None:
    with elsewhere(tmp_path / "run", SAVES) as there:
        asked = time.monotonic()
        there.launcher.stop([KEY])
        assert time.monotonic() - asked < PULSE_SECONDS
        end = there.over()
        assert (end.exit_code, end.stop_sent, end.killed) == (0, True, False)
        assert is_soon(time.monotonic() - asked - PULSE_SECONDS, LATE)
        assert (there.root / "saved").read_text() == "step 12"


def test_a_kill_from_elsewhere_ends_the_whole_tree(tmp_path: Path) -> None:
    with elsewhere(tmp_path / "run", ESCAPES + "time.sleep(60)") as there:
        trainers = [each for each in survivors(there.nonce) if each != there.agent()]
        assert len(trainers) >= 5
        there.launcher.stop([KEY])
        there.launcher.kill([KEY])
        end = there.over()
        assert end.state == "ended" and end.killed
        assert not any(alive(each) for each in trainers)


def test_what_is_gone_there_is_vanished_and_nobody_here_is_touched(tmp_path: Path) -> None:
    with elsewhere(tmp_path / "run", SLEEP) as there:
        pid = json.loads(there.identity.read_text())["pid"]
        assert there.observe().state == "running"
        there.agent().kill()
        there.server.kill()
        wait_until(lambda: not survivors(there.nonce), "the end of that machine")
        began = time.monotonic()
        end = there.over()
        assert (end.state, end.pid) == ("lost", None)
        assert "No sign of life" in end.detail
        took = time.monotonic() - began
        assert took > SILENT - PULSE_SECONDS and is_soon(took - SILENT, LATE)
        # A process here with the very same nonce, such as of a copy of that machine.
        env = {"PATH": os.environ["PATH"], "LLM_TRAIN_NONCE": there.nonce}
        with subprocess.Popen(["sleep", "60"], env=env) as stranger:
            wait_until(lambda: survivors(there.nonce), "the stranger")
            record = json.loads(there.identity.read_text())
            for wrong in (pid, stranger.pid):
                there.identity.write_text(json.dumps(record | {"pid": wrong}))
                there.launcher.kill([KEY])
            with pytest.raises(subprocess.TimeoutExpired):
                stranger.wait(0.3)
            stranger.kill()


def test_a_machine_that_was_cut_off_ends_its_trainer_when_it_is_back(tmp_path: Path) -> None:
    with elsewhere(tmp_path / "run", SLEEP) as there:
        agent = there.agent()
        agent.suspend()
        assert there.over().state == "lost"
        there.launcher.kill([KEY])
        assert there.observe().state == "lost"
        agent.resume()
        wait_until(lambda: there.observe().state == "ended", "it hears of the kill")
        end = there.observe()
        assert (end.signal, end.killed) == (signal.SIGKILL, True)


def test_a_request_that_cannot_be_recorded_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with elsewhere(tmp_path / "run", SLEEP) as there:
        monkeypatch.setattr(files, "write", full)
        with pytest.raises(LauncherError):
            there.launcher.stop([KEY])


def test_what_stands_where_a_request_belongs_does_not_keep_a_trainer_from_it(
    tmp_path: Path,
) -> None:
    with elsewhere(tmp_path / "run", SLEEP) as there:
        (there.root / "attempt-1" / "stop.json").mkdir()
        there.launcher.stop([KEY])
        assert there.over().signal == signal.SIGTERM


def test_an_idle_agent_costs_next_to_nothing(tmp_path: Path) -> None:
    with elsewhere(tmp_path / "run", SLEEP) as there:
        agent = there.agent()
        before, began = sum(agent.cpu_times()[:2]), time.monotonic()
        beat = there.identity.stat().st_mtime_ns
        for _ in range(3):
            wait_until(lambda: there.identity.stat().st_mtime_ns != beat, "a pulse")  # noqa: B023
            beat = there.identity.stat().st_mtime_ns
        used = sum(agent.cpu_times()[:2]) - before
        assert used <= 0.01 * (time.monotonic() - began)
        print(f"\nan idle agent used {used * 1e3:.0f} ms of {time.monotonic() - began:.1f} s")
