"""What every launcher promises: one trainer per attempt, watched and ended by its run directory.

Build a `LaunchPlan` purely, `launch` it, then `observe` what became of it. All calls are
synchronous and know nothing but the plan, the files under the run directory and the kernel,
so any later server process can go on where an earlier one stopped, also on another machine
that has the same files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from app.domain.resources import Capacity
from app.errors import Unavailable


class LauncherError(Unavailable):
    """The launcher could not begin; no trainer of this attempt exists because of the call."""

    code, title = "launcher_error", "Launcher error"


@dataclass(frozen=True)
class LaunchPlan:
    """One attempt at one run. `env` is the trainer's whole environment; `argv[0]` the program."""

    run_id: str
    attempt: int
    run_dir: Path
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path | None
    """None: the server's own working directory."""
    nonce: str
    """Random, of letters, digits, '-' and '_'; the whole process tree carries LLM_TRAIN_NONCE."""
    stop_signal: int
    """0: none; then the trainer is asked to stop by its stop.json alone."""
    grace_seconds: float
    max_log_bytes: int = 256 << 20
    """What the run's output takes of the disk, about; the middle of what is more is dropped."""


@dataclass(frozen=True)
class Observation:
    """What is known of an attempt.

    * absent: it has not begun. `launch` is safe; `stop` and `kill` make sure it never begins.
    * alive: its wrapper lives, and so the trainer or what is left of its tree.
    * exited: all is over and on record. Neither exit code nor signal: `never_ran`.
    * vanished: the wrapper was killed from outside or lost with its machine, the exit code with
      it; call `kill` to end what may be left of the tree. A wrapper on a machine that was only
      cut off, and comes back, ends its tree then.

    `pid` is the wrapper's, where it lives here. `ran_seconds`, of one that is alive: how long it
    has, by a clock that nobody sets (elsewhere, as of its last pulse); None: it is not on record.

    `stop_sent` of an exited attempt: the trainer got the stop signal; else: a stop was asked for.
    `killed`: the trainer was ended by this service with SIGKILL. `oom`: it failed, and shortly
    before the kernel had ended a process for lack of memory, in this control group (of this
    tree, or of one beside it). `log_start`: where its own output begins in train.log.
    """

    state: Literal["absent", "alive", "exited", "vanished"]
    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    stop_sent: bool = False
    killed: bool = False
    oom: bool = False
    detail: str = ""
    log_start: int = 0
    ran_seconds: float | None = field(default=None, compare=False)

    @property
    def never_ran(self) -> bool:
        """Over without a trainer: the command could not be started, or a stop came first."""
        return self.state == "exited" and self.exit_code is None and self.signal is None


class Launcher(Protocol):
    """Where trainers run."""

    name: str
    host: str
    """The machine whose GPUs `capacity` lists; the same for every server on it."""

    def capacity(self) -> Capacity:
        """What the idle machine could give."""

    def launch(self, plan: LaunchPlan) -> None:
        """Begin the attempt, at most once however often it is called. Raises LauncherError."""

    def observe(self, run_dir: Path, attempt: int) -> Observation:
        """What became of the attempt, also after a restart of the server."""

    def stop(self, run_dir: Path, attempt: int) -> None:
        """Send the stop signal; what still lives after the grace is killed, within a second.

        Returns at once. Again: changes nothing. Before the trainer began: it never will.
        """

    def kill(self, run_dir: Path, attempt: int, nonce: str | None = None) -> None:
        """End the whole process tree now. Returns at once, or when a vanished tree is gone.

        `nonce`: of an attempt that is absent although it may have begun: its files were
        removed. What is left of it here is ended, too.
        """

    def exit_fd(self, run_dir: Path, attempt: int) -> int | None:
        """A descriptor that turns readable when the attempt is over; the caller closes it.

        None where nothing is alive or the system has no such thing.
        """
