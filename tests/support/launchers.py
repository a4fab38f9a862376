"""Attempts at one run, as the contract suites of launchers make and watch them.

    attempts = Attempts(launcher, data_dir)
    plan = attempts.start("import time; time.sleep(60)")     # waits until it is ready
    attempts.stop(1)
    assert attempts.over().signal == 15

Trainers are small Python scripts that find the run's directory as RUN. `survivors` looks for their
processes by nonce through psutil, not through the code under test.
"""

import json
import os
import secrets
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from app.launchers.base import (
    JobState,
    Key,
    Launcher,
    WakesUp,
)
from tests.support.plans import RUN, Plan
from tests.support.server import wait_until

LATE = 4.0
"""Seconds that an idle machine may add to what takes one: see `clock.is_soon`."""

READY = "import os, pathlib, signal, sys, time; run = pathlib.Path(os.environ['RUN'])\n"
SLEEP = READY + "(run / 'ready').touch(); time.sleep(60)"
DEAF = (
    READY
    + "signal.signal(signal.SIGTERM, signal.SIG_IGN); (run / 'ready').touch()\n"
    + ("while True: time.sleep(60)")
)
COUNTED = READY + "open(run / 'starts', 'a').write('x'); (run / 'ready').touch(); time.sleep(60)"
CHILDREN = textwrap.dedent("""
    def child(name, leave):
        if os.fork() == 0:
            leave()
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            (here / f"child-{name}").write_text(str(os.getpid()))
            time.sleep(120)
            os._exit(0)
    def daemonize():
        os.setsid()
        if os.fork():
            os._exit(0)
    child("deaf", lambda: None)
    child("group", lambda: os.setpgid(0, 0))
    child("session", os.setsid)
    child("daemon", daemonize)
    while len([each for each in here.glob("child-*") if each.stat().st_size]) < 4:
        time.sleep(0.01)
""")
"""Starts four children that ignore signals, and writes their pids in `here`; three leave the
process group, one its parent too."""
ESCAPES = f"{READY}here = run\n{CHILDREN}(run / 'ready').touch()\n"
"""Starts them in the run's directory, and is ready."""

SERVER = """
import json, signal, sys
from pathlib import Path
from app.domain import failpoints
from app.launchers.base import LauncherContext
from app.launchers.local.launcher import LocalLauncher
from tests.support.plans import Plan
data_dir, nonce, script, path, *armed = sys.argv[1:]
for name_and_action in armed:
    failpoints.activate(*name_and_action.split("=", 1))
env = {"RUN": str(Path(data_dir, "runs", "run_1")), "PATH": path}
plan = Plan(1, (sys.executable, "-c", script), env, nonce)
LocalLauncher(LauncherContext(Path(data_dir), {}), gpus=()).submit(plan.job(Path(data_dir)))
failpoints.failpoint("server.launched")
print("launched", flush=True)
sys.stdin.read()
"""
"""Another server: it launches attempt 1 and lives until its stdin closes."""


@dataclass(frozen=True)
class Seen:
    """What a launcher knows of an attempt: absent, running, ended, or lost without a record."""

    state: str
    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    stop_sent: bool = False
    killed: bool = False
    oom: bool = False
    never_ran: bool = False
    detail: str = ""
    ran_seconds: float | None = field(default=None, compare=False)


def look(launcher: Launcher, key: Key) -> Seen:
    """One look at one attempt. Raises what kept it from being looked at."""
    status = launcher.look([key])[key]
    if status.error is not None:
        raise status.error
    record = status.record
    if record is None:
        state = "lost" if status.state is JobState.ENDED else str(status.state)
        return Seen(
            state, status.pid, stop_sent=status.stop_sent, detail=status.reason_text,
            ran_seconds=status.ran_seconds,
        )  # fmt: skip
    return Seen(
        str(status.state), exit_code=record.exit_code, signal=record.signal,
        stop_sent=record.stop_sent, killed=record.killed, oom=record.oom,
        never_ran=record.never_ran, detail=record.detail,
    )  # fmt: skip


@dataclass
class Attempts:
    """Attempts at the run `run_1` of one data directory."""

    launcher: Launcher
    data_dir: Path
    nonces: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """The run's directory."""
        return self.data_dir / "runs" / RUN

    def plan(
        self, script: str = "", *, argv: tuple[str, ...] | None = None, attempt: int = 1
    ) -> Plan:
        self.nonces.append(secrets.token_hex(8))
        env = {"PATH": os.environ["PATH"], "RUN": str(self.root)}
        return Plan(attempt, argv or (sys.executable, "-c", script), env, self.nonces[-1])

    def submit(self, plan: Plan, launcher: Launcher | None = None) -> None:
        (launcher or self.launcher).submit(plan.job(self.data_dir))

    def start(self, script: str = "", **kwargs: object) -> Plan:
        """Submit, and wait until the script says that it is ready."""
        plan = self.plan(script, **kwargs)  # type: ignore[arg-type]
        self.submit(plan)
        wait_until((self.root / "ready").exists, self.log)
        return plan

    def key(self, attempt: int = 1) -> Key:
        return Key(RUN, attempt)

    def look(self, attempt: int = 1) -> Seen:
        return look(self.launcher, self.key(attempt))

    def stop(self, attempt: int = 1) -> None:
        self.launcher.stop([self.key(attempt)])

    def kill(self, attempt: int = 1) -> None:
        self.launcher.kill([self.key(attempt)])

    def exit_fd(self, attempt: int = 1) -> int | None:
        assert isinstance(self.launcher, WakesUp)
        return self.launcher.exit_fd(self.key(attempt))

    def over(self, attempt: int = 1) -> Seen:
        """Wait for the end and return it."""
        wait_until(
            lambda: self.look(attempt).state in ("ended", "lost"),
            lambda: f"the end of {self.look(attempt)}; log: {self.log()}",
        )
        return self.look(attempt)

    def log(self) -> str:
        path = self.root / "train.log"
        return path.read_text() if path.exists() else ""

    def identity(self, attempt: int = 1) -> dict[str, object]:
        path = self.root / f"attempt-{attempt}" / "identity.json"
        wait_until(path.exists, "an identity")
        record: dict[str, object] = json.loads(path.read_text())
        return record


def survivors(nonce: str) -> list[psutil.Process]:
    """The living processes of one launch."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("LLM_TRAIN_NONCE") == nonce:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def end_all(nonces: list[str]) -> None:
    """Kill whatever carries one of these nonces, and wait until it is gone."""
    for nonce in nonces:
        for process in survivors(nonce):
            process.kill()
    wait_until(lambda: not any(map(survivors, nonces)), "the end of all trainers")
