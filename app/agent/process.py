"""The trainer's processes: start one, wait for its end, and leave none of its descendants.

On Linux the agent is the subreaper of all descendants, and the kernel kills the trainer when the
agent dies. Elsewhere only the trainer's process group can be ended.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache

from .mailbox import LaunchConfig

STOP, KILL = signal.SIGTERM, signal.SIGUSR1
"""The signals by which the service, on the same machine, asks the agent for a stop or a kill."""

NONCE = "LLM_TRAIN_NONCE"
_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SWEEP_SECONDS = 0.02
_GIVE_UP_SECONDS = 5.0


class CannotStart(Exception):
    """There is no trainer; the message is a sentence for people."""


def start(config: LaunchConfig, output: int) -> "subprocess.Popen[bytes]":
    """Start the trainer in a process group of its own. Raises CannotStart."""
    import ctypes  # the service, which starts agents, does not need it

    prctl = ctypes.CDLL(None).prctl if _LINUX else lambda option, value: 0
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    agent = os.getpid()

    def prepare() -> None:  # in the child
        os.setpgid(0, 0)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != agent:
            os._exit(1)  # the agent died before the line above
        for number in signal.valid_signals():
            if signal.getsignal(number) == signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    try:
        stdin = os.open(config.get("input", os.devnull), os.O_RDONLY)
        try:
            return subprocess.Popen(
                config["argv"],
                env={**config["env"], NONCE: config["nonce"]},
                cwd=config["cwd"],
                stdin=stdin,
                stdout=output,
                stderr=output,
                preexec_fn=prepare,
            )
        finally:
            os.close(stdin)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise CannotStart(_explain(error, config)) from error


def _explain(error: Exception, config: LaunchConfig) -> str:
    """Return why the trainer could not be started, as a sentence for people."""
    reason, filename = getattr(error, "strerror", None), getattr(error, "filename", None)
    if filename is None:  # no process, descriptor or memory was left
        return f"The trainer could not be started: {error}."
    if filename == config["cwd"]:
        return f"Cannot enter the working directory {filename!r}: {reason}."
    return f"Cannot run {config['argv'][0]!r}: {reason}."


def wait(
    trainer: "subprocess.Popen[bytes]",
    stop_signal: int,
    grace_seconds: float,
    begin_stop: "Callable[[], None]",
) -> tuple[int, bool, bool]:
    """Wait for the trainer's end, and end it when told to; call `begin_stop` when that begins.

    Returns its exit code (negative: the signal that ended it), whether the stop signal was sent,
    and whether the trainer was killed.
    """
    stop_sent = killed = False
    while True:
        event = signal.sigwait({signal.SIGCHLD, signal.SIGALRM, STOP, KILL})
        if event == signal.SIGCHLD:
            _reap(trainer)
            if trainer.returncode is not None:
                return trainer.returncode, stop_sent, killed
        elif event == STOP:
            if not stop_sent and not killed:
                stop_sent = True
                begin_stop()
                signal.setitimer(signal.ITIMER_REAL, max(grace_seconds, 1e-6))
                # Not the group: a data loader's workers would die of it, and the trainer of
                # them, before it can save. As under Kubernetes, the command's process decides.
                # It is not yet reaped, so the pid is still its own. Signal 0 is none.
                os.kill(trainer.pid, stop_signal)
                _signal_group(trainer.pid, signal.SIGCONT)  # a paused trainer gets it, too
        else:  # told to kill, out of grace, or time to sweep again
            killed = True
            _signal_group(trainer.pid, signal.SIGKILL)
            _kill_children()
            signal.setitimer(signal.ITIMER_REAL, _SWEEP_SECONDS)


def end_descendants(trainer: "subprocess.Popen[bytes]") -> str:
    """Kill what the trainer left behind, wherever it hid. Return what could not be ended."""
    if not _LINUX:  # no subreaper: what left the process group is out of reach
        _signal_group(trainer.pid, signal.SIGKILL)
    deadline = time.monotonic() + _GIVE_UP_SECONDS
    while _reap(trainer):
        if time.monotonic() > deadline:
            return f"Processes {_list_children()} of the trainer could not be ended."
        _kill_children()
        signal.setitimer(signal.ITIMER_REAL, _SWEEP_SECONDS)
        signal.sigwait({signal.SIGCHLD, signal.SIGALRM})
    return ""


def _reap(trainer: "subprocess.Popen[bytes]") -> bool:
    """Collect every ended child. Return True if a child lives."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        if pid == trainer.pid:
            trainer.returncode = os.waitstatus_to_exitcode(status)


def _kill_children() -> None:
    """Send SIGKILL to the direct children. Their own children become ours as they die (subreaper):
    a child that we have not reaped cannot lose its pid to a stranger, a grandchild can."""
    for pid in _list_children():
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue


def _list_children() -> list[int]:
    if not _LINUX:
        return []
    parent = str(os.getpid()).encode()
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if (status := _read_stat(pid)) and status[1] == parent]


def _signal_group(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except OSError:
        return  # already empty


def start_time(pid: int) -> "int | None":
    """Return the clock ticks from boot to the start of a process; None if it cannot be known."""
    status = _read_stat(pid)
    return int(status[19]) if status else None


def _read_stat(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat after the name: state, parent, … Empty: no process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return []  # other errors, such as EMFILE, do not prove that the process is gone
    return text[text.rindex(b")") + 2 :].split()


@cache
def host_namespace() -> str:
    """Return the name of this boot of this machine and of its space of pids.

    Only in the same one does a pid mean the same process; a container has its own.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except FileNotFoundError:
        return os.uname().nodename


def count_oom_kills() -> int:
    """Return how many processes the kernel has killed for memory: in our control group, or at
    all where it has no count of its own."""
    paths = []
    try:
        with open("/proc/self/cgroup") as file:
            for line in file:
                _, controllers, group = line.rstrip("\n").split(":", 2)
                if controllers == "memory":
                    paths.append(f"/sys/fs/cgroup/memory{group}/memory.oom_control")
                elif not controllers:
                    paths.append(f"/sys/fs/cgroup{group}/memory.events")
    except OSError:
        return 0
    # In a container without a namespace for them, groups have paths that are not there.
    here = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"]
    for path in [*paths, *here, "/proc/vmstat"]:
        try:
            with open(path) as file:
                for line in file:
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        except OSError:
            continue
    return 0
