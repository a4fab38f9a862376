"""What only trainers of this machine promise: pids, pidfds, the files of an attempt, GPUs.

Each agent is a real process; `survivors` looks for what is left of it.
"""

import errno
import json
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from select import select
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from app.agent import directory as attempt_files
from app.agent.mailbox import ExitRecord
from app.agent.main import command
from app.agent.process import host_namespace, start_time
from app.domain import failpoints
from app.launchers.base import EndsLeftovers, LauncherError
from app.launchers.local import gpus, processes, records
from app.launchers.local import launcher as launcher_module
from app.launchers.local.gpus import parse_gpus
from app.services import train_log
from tests.support.clock import is_soon
from tests.support.launchers import (
    COUNTED,
    DEAF,
    ESCAPES,
    LATE,
    READY,
    SERVER,
    SLEEP,
    Attempts,
    survivors,
)
from tests.support.plans import GRACE
from tests.support.server import REPOSITORY, alive, remove_tree, wait_until
from tests.support.supervisor import local_launcher


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    monkeypatch.setattr(failpoints, "_armed", {})
    return failpoints.activate


@pytest.mark.parametrize(("code", "kills", "oom"), [(1, 1, True), (1, 0, False), (0, 1, False)])
def test_a_kill_for_memory_is_told_whatever_the_exit_code(
    attempts: Attempts, code: int, kills: int, oom: bool
) -> None:
    """A rank is killed, and its launcher exits with 1. The kernel's count is the test's."""
    run = attempts.root
    (run / "attempt-1").mkdir()
    (run / "count").write_text("7")
    # With all signals blocked, as `main` has it: a trainer that ended before the agent waits for
    # its SIGCHLD is not seen otherwise, and the agent waits for ever.
    agent = f"""if True:
        import signal
        from pathlib import Path
        from app.agent import main, process
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        from app.agent.directory import DirectoryMailbox
        process.count_oom_kills = lambda: int(Path({str(run / "count")!r}).read_text())
        script = "open({str(run / "count")!r}, 'w').write('{7 + kills}'); raise SystemExit({code})"
        main.run(DirectoryMailbox({str(run)!r}, 1, {{
            "nonce": "n", "env": {{}}, "cwd": None, "argv": [{sys.executable!r}, "-c", script],
            "stop_signal": 15, "grace_seconds": 1.0, "failpoints": {{}}, "max_log_bytes": 10**9,
        }}))
    """
    subprocess.run([sys.executable, "-c", agent], cwd=REPOSITORY, check=True)
    end = attempts.over()
    assert (end.exit_code, end.oom) == (code, oom)


@pytest.mark.parametrize("punch", [True, False])
def test_a_log_keeps_its_beginning_and_its_end_and_its_offsets(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch, punch: bool
) -> None:
    """The trainer prints 64 MiB where 1 MiB is allowed, faster than any look at its log.

    Without `punch`: on a file system that makes no holes but by truncating.
    """
    if not punch:
        never = "from agent.directory import LogLimit; LogLimit.punches = False"
        monkeypatch.setattr(
            launcher_module, "command", lambda *words: [
                word.replace("; main(", f"; {never}; main(") for word in command(*words)
            ],
        )  # fmt: skip
    script = READY + textwrap.dedent("""
        print("the first line")
        for number in range(1 << 20):
            print(f"{number:063}")
        print("before the last", flush=True)
        (run / "ready").touch()
        while not (run / "go").exists():
            time.sleep(0.01)
        print("the last line", flush=True)
    """)
    attempts.submit(replace(attempts.plan(script), max_log_bytes=1 << 20))
    wait_until((attempts.root / "ready").exists, "all is printed")
    log = attempts.root / "train.log"
    limit = (1 << 20) + 16_384  # what a hole's edges take besides
    wait_until(lambda: log.stat().st_blocks * 512 < limit, lambda: f"{log.stat()}")
    (attempts.root / "go").touch()
    assert attempts.over().exit_code == 0
    printed = len("the first line\n") + 64 * (1 << 20) + len("before the last\nthe last line\n")
    size = train_log.measure_size(attempts.root)
    assert size == printed if punch else printed * 0.8 < size <= printed

    content, offset = b"", 0
    while (part := train_log.read(attempts.root, offset, 65_536)).content:
        content, offset = content + part.content, part.next_offset
    assert offset == size
    assert len(content) < limit and b"\0" not in content
    lines = content.decode().splitlines()
    assert (lines[0], lines[-2:]) == ("the first line", ["before the last", "the last line"])
    [said] = [line for line in lines if "bytes of output were dropped here" in line]
    assert size - len(content) <= int(said[1:].split()[0]) < size


def test_a_launch_that_cannot_begin_is_an_error_and_leaves_the_attempt_absent(
    attempts: Attempts,
) -> None:
    plan = attempts.plan()
    with pytest.raises(LauncherError, match="null byte"):
        attempts.submit(replace(plan, env={"A": "\0"}))
    assert attempts.look(1).state == "absent"


@pytest.mark.skipif(sys.platform != "linux", reason="sets the limits of another process")
def test_a_disk_that_is_full_for_a_while_does_not_lose_the_exit_code(attempts: Attempts) -> None:
    script = "(run / 'ready').touch()\nwhile not (run / 'go').exists(): time.sleep(0.01)\n"
    attempts.start(READY + script + "raise SystemExit(7)")
    agent = psutil.Process(int(str(attempts.identity()["pid"])))
    usual = agent.rlimit(psutil.RLIMIT_FSIZE)
    agent.rlimit(psutil.RLIMIT_FSIZE, (0, usual[1]))  # EFBIG, as ENOSPC on a full disk
    (attempts.root / "go").touch()
    wait_until(lambda: not agent.children(), "the end of the trainer")
    assert alive(agent)
    assert attempts.look(1).state == "running"
    agent.rlimit(psutil.RLIMIT_FSIZE, usual)
    assert attempts.over().exit_code == 7


def test_an_end_is_told_although_the_trainer_filled_the_disk(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: to fill a disk takes one of its own. Control: nothing reserved."""
    config: Any = {"max_log_bytes": 1}
    (attempts.root / "attempt-1").mkdir()
    mailbox = attempt_files.DirectoryMailbox(str(attempts.root), 1, config)
    mailbox.prepare_finish()

    def full(path: str, flags: int, mode: int = 0o777, *, dir_fd: int) -> int:
        if flags & os.O_CREAT and not (attempts.root / "attempt-1" / path).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(attempt_files, "os", SimpleNamespace(**vars(os) | {"open": full}))
    mailbox.finish(ExitRecord(exit_code=1))
    record = json.loads((attempts.root / "attempt-1" / "exit.json").read_bytes())
    assert record["exit_code"] == 1
    with pytest.raises(OSError, match="No space"):
        mailbox.finish(ExitRecord(exit_code=2))
    os.close(mailbox.folder)


@pytest.mark.skipif(sys.platform != "linux", reason="sets the limits of another process")
def test_a_machine_without_descriptors_is_said_and_no_trainer_runs(
    attempts: Attempts, arm: Callable[[str, str], None]
) -> None:
    """Control: without the `except` in the agent the attempt is lost."""
    release = attempts.root / "release"
    arm("agent.identity_saved", f"wait:{release}")
    attempts.submit(attempts.plan(READY + "(run / 'ran').touch()"))
    agent = psutil.Process(int(str(attempts.identity()["pid"])))
    one_more = agent.num_fds() + 1  # enough to write exit.json, not for a pipe
    agent.rlimit(psutil.RLIMIT_NOFILE, (one_more, one_more))
    release.touch()
    end = attempts.over()
    assert end.never_ran and "Too many open files" in end.detail
    assert not (attempts.root / "ran").exists()


def test_a_paused_trainer_and_its_paused_agent_hear_the_stop(attempts: Attempts) -> None:
    attempts.start(SLEEP)
    supervising = psutil.Process(attempts.look(1).pid)
    [trainer] = supervising.children()
    trainer.suspend()
    supervising.suspend()
    attempts.stop(1)
    end = attempts.over()
    assert (end.signal, end.killed) == (signal.SIGTERM, False)


def test_control_without_an_agent_the_same_children_do_survive(tmp_path: Path) -> None:
    """So the test above looks for something that is really hard to end."""
    env = {"PATH": os.environ["PATH"], "RUN": str(tmp_path), "LLM_TRAIN_NONCE": tmp_path.name}
    with subprocess.Popen([sys.executable, "-c", ESCAPES], env=env, process_group=0) as bare:
        bare.wait()
    left = [int(path.read_text()) for path in tmp_path.glob("child-*")]
    try:
        os.killpg(bare.pid, signal.SIGKILL)
        wait_until(lambda: sum(map(alive, left)) < 4, "the end of `deaf`")
        assert sum(map(alive, left)) == 3
    finally:
        for pid in filter(alive, left):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("instant", ["agent.started", "agent.identity_saved"])
def test_a_stop_during_the_launch_is_never_lost(
    attempts: Attempts, arm: Callable[[str, str], None], instant: str
) -> None:
    """Control: without the look at stop.json after the claim, `identity_saved` still ends (the
    signal waits), but without the fence in `stop`, `started` runs the trainer for 60 s."""
    release = attempts.root / "release"
    arm(instant, f"wait:{release}")
    plan = attempts.plan(READY + "(run / 'ran').touch(); time.sleep(60)")
    attempts.submit(plan)
    wait_until(lambda: survivors(plan.nonce), "the agent")
    if instant == "agent.identity_saved":
        attempts.identity()
    attempts.stop(1)
    release.touch()
    end = attempts.over()
    assert end.never_ran
    wait_until(lambda: not survivors(plan.nonce), "the end of the agent")
    assert not (attempts.root / "ran").exists()


def test_the_end_can_be_waited_for(attempts: Attempts) -> None:
    assert attempts.exit_fd(1) is None
    attempts.start(SLEEP)
    descriptor = attempts.exit_fd(1)
    if descriptor is None:
        pytest.skip("no pidfd on this system")
    try:
        assert select([descriptor], [], [], 0)[0] == []
        attempts.kill(1)
        assert select([descriptor], [], [], 10)[0] == [descriptor]
        assert attempts.look(1).state == "ended"
    finally:
        os.close(descriptor)
    assert attempts.exit_fd(1) is None


# --- at most one trainer per attempt -------------------------------------------------------


def test_ten_launches_of_one_attempt_make_one_trainer(
    attempts: Attempts, arm: Callable[[str, str], None]
) -> None:
    """The ten agents wait for each other just before the claim. Control: with a look whether
    identity.json exists, then a rename, instead of the link there are several trainers."""
    release = attempts.root / "release"
    arm("agent.started", f"wait:{release}")
    plans = [attempts.plan(COUNTED) for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda plan: attempts.submit(plan, local_launcher(attempts.data_dir)), plans))
    wait_until(lambda: all(survivors(nonce) for nonce in attempts.nonces), "ten agents")
    release.touch()
    wait_until((attempts.root / "ready").exists, attempts.log)
    winner = attempts.identity()["nonce"]
    wait_until(
        lambda: not [n for n in attempts.nonces if n != winner and survivors(n)], "losers leave"
    )
    assert (attempts.root / "starts").read_text() == "x"
    assert len(survivors(str(winner))) == 2  # the agent and its trainer
    attempts.kill(1)
    attempts.over()
    # Control: another attempt does count.
    (attempts.root / "ready").unlink()
    attempts.start(COUNTED, attempt=2)
    assert (attempts.root / "starts").read_text() == "xx"
    attempts.kill(2)
    attempts.over(2)


def test_a_claim_has_one_winner(tmp_path: Path) -> None:
    """The window between two processes is narrow; threads meet in the fsync. Control: the look
    and rename of the test above have several winners in nearly every round."""
    barrier = threading.Barrier(8)

    def claim(claimant: int, folder: int) -> bool:
        barrier.wait()
        return attempt_files.claim(folder, {"pid": claimant})

    with ThreadPoolExecutor(8) as pool:
        for number in range(10):
            directory = tmp_path / str(number)
            directory.mkdir()
            folder = attempt_files.open_directory(str(directory))
            won = list(pool.map(claim, range(8), [folder] * 8))
            os.close(folder)
            assert won.count(True) == 1
            [file] = directory.iterdir()
            assert json.loads(file.read_text()) == {"pid": won.index(True)}


def server(attempts: Attempts, script: str, *armed: str) -> subprocess.Popen[bytes]:
    """Another server process that launches attempt 1 and lives until its stdin closes."""
    attempts.nonces.append(secrets.token_hex(8))
    arguments = (str(attempts.data_dir), attempts.nonces[-1], script, os.environ["PATH"], *armed)
    return subprocess.Popen(
        [sys.executable, "-c", SERVER, *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_a_launch_that_failed_half_way_can_be_repeated(
    attempts: Attempts, arm: Callable[[str, str], None]
) -> None:
    arm("launch.before_spawn", "raise")
    with pytest.raises(failpoints.FailpointReached, match=r"launch\.before_spawn"):
        attempts.submit(attempts.plan(COUNTED))
    del failpoints._armed["launch.before_spawn"]
    assert attempts.look(1).state == "absent"
    attempts.start(COUNTED)
    with pytest.raises(ValueError, match="no action"):
        arm("launch.before_spawn", "explode")


def test_a_server_killed_before_it_spawned_leaves_the_attempt_to_its_successor(
    attempts: Attempts,
) -> None:
    with server(attempts, COUNTED, "launch.before_spawn=kill") as first:
        assert first.wait() == -signal.SIGKILL
    assert attempts.look(1).state == "absent"
    attempts.start(COUNTED)
    assert (attempts.root / "starts").read_text() == "x"


def test_a_server_killed_between_spawn_and_claim_makes_no_second_trainer(
    attempts: Attempts,
) -> None:
    """The successor sees no identity and launches again; the first agent wakes up later."""
    release = attempts.root / "release"
    armed = ("launch.spawned=kill", f"agent.started=wait:{release}")
    with server(attempts, COUNTED, *armed) as first:
        assert first.wait() == -signal.SIGKILL
    wait_until(lambda: survivors(attempts.nonces[0]), "the first agent")
    assert attempts.look(1).state == "absent"
    attempts.start(COUNTED)
    release.touch()
    wait_until(lambda: not survivors(attempts.nonces[0]), "the first agent leaves")
    assert (attempts.root / "starts").read_text() == "x"
    assert len(survivors(attempts.nonces[1])) == 2


def test_a_restarted_server_watches_stops_and_reads_the_exit_of_a_trainer(
    attempts: Attempts,
) -> None:
    script = READY + textwrap.dedent("""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
        (run / "ready").touch()
        time.sleep(60)
    """)
    with server(attempts, script, "server.launched=kill") as first:
        assert first.wait() == -signal.SIGKILL
    wait_until((attempts.root / "ready").exists, attempts.log)
    seen = attempts.look(1)
    assert (seen.state, seen.pid) == ("running", attempts.identity()["pid"])
    attempts.stop(1)
    end = attempts.over()
    assert (end.exit_code, end.stop_sent, end.killed) == (5, True, False)


def test_the_grace_is_enforced_although_the_server_dies_meanwhile(attempts: Attempts) -> None:
    with server(attempts, DEAF) as first:
        wait_until((attempts.root / "ready").exists, attempts.log)
        attempts.stop(1)
        asked = time.monotonic()
        first.kill()
        first.wait()
        wait_until(lambda: not survivors(attempts.nonces[0]), "the end of the tree")
        late = time.monotonic() - asked - GRACE
        assert late >= -0.1 and is_soon(late, LATE)
    end = attempts.over()
    assert (end.signal, end.stop_sent, end.killed) == (9, True, True)


def test_an_agent_whose_server_died_before_the_order_does_nothing() -> None:
    done = subprocess.run(
        command("directory", "/nowhere", "1"), stdin=subprocess.DEVNULL, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# --- strangers -----------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["nonce", "start_time", "place"])
def test_a_stranger_with_the_recorded_pid_is_never_signalled(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Each of the three alone tells a reused pid. Control: with any one of the comparisons taken
    out of `Identity.is_alive`, its case is seen alive and the stranger dies."""
    nonce = secrets.token_hex(8)
    env = {"PATH": os.environ["PATH"], "LLM_TRAIN_NONCE": nonce}
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(sleep, env=env) as stranger:
        wait_until(lambda: survivors(nonce), "the stranger")
        record: dict[str, object] = {
            "format": 1,
            "pid": stranger.pid,
            "start_time": start_time(stranger.pid),
            "place": host_namespace(),
            "nonce": nonce,
        }
        directory = attempts.root / "attempt-1"
        directory.mkdir()
        path = directory / "identity.json"
        try:
            path.write_text(json.dumps(record))
            assert attempts.look().state == "running"  # control: all three right
            path.write_text(json.dumps(record | {wrong: {"start_time": 1}.get(wrong, "other")}))
            monkeypatch.setattr(launcher_module, "SILENT_SECONDS", 0.3)
            assert attempts.over().state == "lost"
            assert attempts.exit_fd(1) is None
            if wrong != "start_time":  # else it carries the attempt's nonce: one of its own
                attempts.stop()
                attempts.kill()
                with pytest.raises(subprocess.TimeoutExpired):
                    stranger.wait(0.2)
        finally:
            stranger.kill()


def test_a_trainer_that_the_first_version_launched_outlives_the_upgrade(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its agent told the boot of the machine, and no place. Controls: without the look at the
    boot the launcher raises; taken for one of here after another boot, it is alive."""
    attempts.start(SLEEP)
    record, path = attempts.identity(), attempts.root / "attempt-1" / "identity.json"
    boot = str(record.pop("place")).partition("/")[0]
    path.write_text(json.dumps(record | {"boot_id": "an earlier one"}))
    monkeypatch.setattr(launcher_module, "SILENT_SECONDS", 0.0)
    assert attempts.look(1).state == "lost"
    path.write_text(json.dumps(record | {"boot_id": boot}))
    assert attempts.look(1).state == "running"
    attempts.stop(1)
    assert attempts.over().stop_sent


def test_a_pid_that_nobody_has_is_vanished(attempts: Attempts) -> None:
    plan = attempts.start(SLEEP)
    record = attempts.identity()
    attempts.kill(1)
    attempts.over()
    wait_until(lambda: not survivors(plan.nonce), "the end of the agent")
    (attempts.root / "attempt-1" / "exit.json").unlink()
    seen = attempts.look(1)
    assert (seen.state, seen.pid, seen.stop_sent) == ("lost", record["pid"], True)


def test_who_lacks_descriptors_does_not_take_a_living_trainer_for_gone(attempts: Attempts) -> None:
    attempts.start(SLEEP)
    identity = records.read_identity(attempts.identity())
    assert identity is not None and identity.is_alive()
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, usual[1]))
    try:
        for look in (identity.is_alive, lambda: processes.send(identity, 0)):
            with pytest.raises(OSError, match="Too many open files"):
                look()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)


def test_an_exit_written_during_the_look_is_not_taken_for_vanished(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: without the second look at exit.json this says lost."""
    attempts.submit(attempts.plan("raise SystemExit(4)"))
    attempts.over()
    record = attempts.root / "attempt-1" / "exit.json"
    record.rename(attempts.root / "later")

    def ends_now(identity: object) -> bool:
        (attempts.root / "later").rename(record)
        return False

    monkeypatch.setattr("app.launchers.local.processes.Identity.is_alive", ends_now)
    assert attempts.look(1).exit_code == 4


@pytest.mark.parametrize("without", ["permission", "the call"])
def test_all_works_where_there_are_no_pidfds(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    """As on macOS, or in a container that forbids them."""

    def forbidden(pid: int, flags: int = 0) -> int:
        raise PermissionError(1, "Operation not permitted")

    if without == "permission":
        monkeypatch.setattr(os, "pidfd_open", forbidden, raising=False)
    else:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    for how, attempt, expected in (("stop", 1, signal.SIGTERM), ("kill", 2, signal.SIGKILL)):
        attempts.start(SLEEP, attempt=attempt)
        assert attempts.exit_fd(attempt) is None
        getattr(attempts, how)(attempt)
        assert attempts.over(attempt).signal == expected
        (attempts.root / "ready").unlink()
    plan = attempts.start(ESCAPES + "time.sleep(60)", attempt=3)
    os.kill(int(str(attempts.identity(3)["pid"])), signal.SIGKILL)
    assert attempts.over(3).state == "lost"
    attempts.kill(3)
    assert not survivors(plan.nonce)


# --- the agent dies ----------------------------------------------------------------------


def test_a_tree_whose_records_were_removed_is_ended_by_its_nonce(attempts: Attempts) -> None:
    plan = attempts.start(ESCAPES)
    remove_tree(attempts.root)
    assert attempts.look(1).state == "absent"
    assert isinstance(attempts.launcher, EndsLeftovers)
    attempts.launcher.end_leftovers(attempts.key(), plan.nonce)
    assert not survivors(plan.nonce)
    found = attempts.look(1)
    assert found.never_ran and found.detail == "Its files were removed."


def test_a_trainer_dies_with_its_agent_and_kill_ends_the_rest(attempts: Attempts) -> None:
    """Control: without PR_SET_PDEATHSIG the trainer lives on."""
    plan = attempts.start(ESCAPES + "time.sleep(60)")
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={"PATH": os.environ["PATH"], "LLM_TRAIN_NONCE": plan.nonce + "0"},
    ) as stranger:
        pid = attempts.identity()["pid"]
        assert isinstance(pid, int)
        [trainer] = [c.pid for c in psutil.Process(pid).children() if os.getpgid(c.pid) == c.pid]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(trainer), "the end of the trainer")
        children = [int(path.read_text()) for path in attempts.root.glob("child-*")]
        assert any(map(alive, children))  # or `kill` would have nothing to do
        assert attempts.over().state == "lost"
        attempts.kill(1)
        assert not any(map(alive, children))
        assert attempts.look(1).state == "lost"
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize(
    ("instant", "state", "ran"),
    [
        ("agent.started", "ended", False),
        ("agent.identity_saved", "lost", False),
        ("agent.spawned", "lost", None),
        ("agent.trainer_ended", "lost", True),
    ],
)
def test_an_agent_killed_at_any_instant_has_a_stated_outcome(
    attempts: Attempts,
    arm: Callable[[str, str], None],
    instant: str,
    state: str,
    ran: bool | None,
) -> None:
    arm(instant, "kill")
    plan = attempts.plan(READY + "(run / 'ran').touch()")
    attempts.submit(plan)
    end = attempts.over()
    assert end.state == state and end.detail
    assert end.never_ran is (state == "ended")
    attempts.kill(1)
    assert not survivors(plan.nonce)
    if ran is not None:
        assert (attempts.root / "ran").exists() is ran
    attempts.submit(plan)  # never a second try under the same number
    assert attempts.over().state == state


# --- what a trainer finds ------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_trainer_finds_its_environment_and_nothing_else(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with the agent's os.environ passed on, LC_CTYPE appears beside ours."""
    monkeypatch.setenv("LLM_TRAIN_API_TOKEN", "secret")
    plan = attempts.plan(argv=("cat", "/proc/self/environ"))
    attempts.submit(replace(plan, env={**plan.env, "名": "a=b\nc"}))
    attempts.over()
    found = dict(item.split("=", 1) for item in attempts.log().split("\0") if item)
    assert found == {**plan.env, "名": "a=b\nc", "LLM_TRAIN_NONCE": plan.nonce}
    assert "secret" not in attempts.log()


@pytest.mark.skipif(shutil.which("localedef") is None, reason="makes a locale")
def test_a_trainer_may_have_another_locale_than_the_server(attempts: Attempts) -> None:
    """Control: with names sent as text, an agent under GB2312 does not find its directory."""
    locale = attempts.root / "locale" / "zh_CN.GB2312"
    locale.parent.mkdir()
    made = subprocess.run(["localedef", "-i", "zh_CN", "-f", "GB2312", str(locale)])
    if made.returncode:
        pytest.skip("no locale data on this system")
    attempts.data_dir = attempts.data_dir / "训练"
    attempts.root.mkdir(parents=True)
    attempts.launcher = local_launcher(attempts.data_dir)
    for attempt, argv in enumerate([("echo", "模型"), ("./没有",)], start=1):
        plan = attempts.plan(argv=argv, attempt=attempt)
        foreign = {"LOCPATH": str(locale.parent), "LC_ALL": "zh_CN.GB2312"}
        attempts.submit(replace(plan, env={**plan.env, **foreign}, cwd=attempts.root))
        attempts.over(attempt)
    assert attempts.look(1).exit_code == 0
    assert attempts.log() == "模型\n"
    detail = attempts.look(2).detail
    assert detail == "Cannot run './没有': No such file or directory."


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_trainer_inherits_no_descriptor_and_no_signal_mask(attempts: Attempts) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    try:
        attempts.submit(attempts.plan(argv=("ls", "-l", "/proc/self/fd")))
        attempts.over()
    finally:
        os.close(reading)
        os.close(writing)
    names = {int(line.split()[-3]): line.split()[-1] for line in attempts.log().splitlines()[1:]}
    log = str(attempts.root / "train.log")
    assert names.pop(3).startswith("/proc/")  # the directory that `ls` reads
    assert names == {0: "/dev/null", 1: log, 2: log}

    attempts.submit(attempts.plan(argv=("grep", "^Sig", "/proc/self/status"), attempt=2))
    attempts.over(2)
    masks = dict(line.split(":\t") for line in attempts.log().splitlines() if line[:3] == "Sig")
    assert masks["SigBlk"] == masks["SigIgn"] == "0" * 16


def test_no_zombie_is_left(attempts: Attempts) -> None:
    for attempt in range(1, 4):
        attempts.submit(attempts.plan(ESCAPES, attempt=attempt))
        attempts.over(attempt)
        for path in attempts.root.glob("child-*"):
            path.unlink()

    def zombies() -> list[psutil.Process]:
        attempts.look(1)
        children = psutil.Process().children(recursive=True)
        return [child for child in children if child.status() == psutil.STATUS_ZOMBIE]

    wait_until(lambda: not zombies(), lambda: str(zombies()))


# --- the machine ---------------------------------------------------------------------------


def test_capacity_is_the_machines(tmp_path: Path) -> None:
    capacity = local_launcher(tmp_path, gpus=["A100"]).offer()
    assert 1 <= capacity.cpus <= (os.cpu_count() or 1)
    assert capacity.memory_gb == pytest.approx(psutil.virtual_memory().total / 1e9, rel=0.01)
    assert capacity.gpus == (("0", "A100"),)


LISTING = "0, GPU-aa01, NVIDIA A100\n1, GPU-aa02, NVIDIA A100\n2, GPU-bb03, NVIDIA H100, 80 GB\n"


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        (None, ["0", "1", "2"]),
        ("2,0", ["2", "0"]),
        ("GPU-bb, 1", ["2", "1"]),
        ("0,7,1", ["0"]),  # as CUDA: nothing after the first that is unknown
        ("GPU-aa", []),  # as CUDA: ambiguous
        ("-1", []),
        ("", []),
    ],
)
def test_only_the_servers_visible_gpus_are_offered(visible: str | None, ids: list[str]) -> None:
    found = parse_gpus(LISTING, visible)
    assert [gpu.id for gpu in found] == ids
    types = {"0": "NVIDIA A100", "1": "NVIDIA A100", "2": "NVIDIA H100, 80 GB"}
    assert all(gpu.type == types[gpu.id] for gpu in found)


def test_gpus_are_what_the_driver_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that fails takes no GPU away; it is asked once a minute at most."""
    driver = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    driver.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\nprintf '{LISTING}'\n")
    driver.chmod(0o755)
    now = 1000.0
    monkeypatch.setattr(gpus, "time", SimpleNamespace(monotonic=lambda: now))
    launcher = local_launcher(gpus=None, visible="1")
    for _ in range(3):
        assert launcher.offer().gpus == (("1", "NVIDIA A100"),)
    assert (tmp_path / "asked").read_text() == "asked\n"
    driver.write_text(f"#!/bin/sh\necho failed >> {tmp_path}/asked\nexit 9\n")
    now += 61
    for _ in range(3):
        assert launcher.offer().gpus == (("1", "NVIDIA A100"),)
    asked = tmp_path / "asked"
    wait_until(lambda: asked.read_text() == "asked\nfailed\n", "it is asked again")
    wait_until(lambda: not _asking(), "it has answered")
    assert launcher.offer().gpus == (("1", "NVIDIA A100"),)
    driver.write_text("#!/bin/sh\nprintf ''\n")
    now += 61
    wait_until(lambda: launcher.offer().gpus == (), "the GPUs are gone")


def test_a_driver_that_hangs_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look waits a little; a later one not at all, and no second driver is started."""
    driver, go, pids = tmp_path / "nvidia-smi", tmp_path / "go", tmp_path / "pids"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    wait = f"echo $$ >> {pids}\nuntil [ -e {go} ]; do sleep 0.05; done\n"
    driver.write_text(f"#!/bin/sh\n{wait}printf '{LISTING}'\n")
    driver.chmod(0o755)
    now = 1000.0
    monkeypatch.setattr(gpus, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(gpus, "FIRST_SECONDS", 1.0)
    launcher = local_launcher(gpus=None)
    begun = time.monotonic()
    for _ in range(5):
        assert launcher.offer().gpus == ()
        now += 61
    assert is_soon(time.monotonic() - begun, LATE)
    asked = wait_until(lambda: pids.exists() and pids.read_text(), "it is asked") or ""
    assert asked.count("\n") == 1
    go.touch()
    wait_until(lambda: len(launcher.offer().gpus) == 3, "the answer came")
    wait_until(lambda: not _asking(), "nothing is left")


def _asking() -> bool:
    return any(thread.name == "nvidia-smi" for thread in threading.enumerate())
