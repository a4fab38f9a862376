"""The protocol between the agent and the service for one attempt, on any transport.

The agent calls the four verbs of a `Mailbox`. `directory.py` implements them on files that both
can read, `http.py` over HTTP. The service's side of these files is app/launchers/local; of
HTTP it is app/rest/attempts.py with the table `attempt`.

To add one: 1. implement the `Mailbox` protocol, with the standard library only; 2. choose it in
`main.py` by the agent's arguments; 3. give the service a way to ask for a stop and to read the
exit record.
"""

import time
from typing import Any, Literal, NamedTuple, Protocol, TypedDict

Directive = Literal["go", "stop", "kill", "over"]
"""The service's answer to a pulse.

* go: carry on.
* stop: send the stop signal, and kill what still lives after the grace.
* kill: end the whole process tree now.
* over: the attempt has ended for the service, or another agent has it; kill, and report nothing.
"""


class _Input(TypedDict, total=False):
    input: str
    """A file that the command reads on its stdin; nothing by default."""


class LaunchConfig(_Input):
    """The agent's instructions for starting the trainer. JSON, and may hold secrets."""

    argv: list[str]
    """The command. Its first word is looked up in the PATH of `env`."""
    env: dict[str, str]
    """The trainer's environment. An agent with an HTTP mailbox adds it to its own."""
    cwd: str | None
    """Where the command starts; None: where the agent did."""
    nonce: str
    """Random; the whole process tree carries it as LLM_TRAIN_NONCE."""
    stop_signal: int
    """0: none; the trainer is asked to stop by its stop.json alone."""
    grace_seconds: float
    max_log_bytes: int
    """What the run's output may take of the disk; the middle of longer output is dropped."""
    failpoints: dict[str, str]
    """Armed failpoints of the agent, for tests: name to action."""


class ExitRecord(NamedTuple):
    """The end of an attempt, as the agent saw it."""

    exit_code: int | None = None
    signal: int | None = None
    """The signal that ended the trainer."""
    stop_sent: bool = False
    """The trainer got the stop signal."""
    killed: bool = False
    """The agent ended the trainer with SIGKILL."""
    oom: bool = False
    """The trainer failed, and shortly before the kernel had ended a process for lack of memory, in
    this control group: of this process tree, or of one beside it."""
    engine_lost: bool = False
    """What had started the agent was killed: with its node or its cluster, most likely."""
    log_start: int = 0
    """Where the output of this attempt begins in the run's train.log."""
    started_at: str | None = None
    ended_at: str | None = None
    detail: str = ""
    """A sentence for people: why the trainer never ran, or what could not be ended."""

    @property
    def never_ran(self) -> bool:
        """Return True if no trainer ran: it could not be started, or a stop came first."""
        return self.exit_code is None and self.signal is None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as a JSON object of format 1."""
        return {"format": 1, **self._asdict()}


class Mailbox(Protocol):
    """The agent's side of one attempt. All methods may raise OSError and may be called again."""

    output: int
    """The descriptor that the trainer's output is appended to: the run's log, or a local spool."""

    def claim(self) -> LaunchConfig | None:
        """Take the attempt, and return how to start it. The first agent wins.

        Returns None if another agent has it, or if it is over: then the agent must end without a
        trainer. The agent that won gets the same answer again.
        """

    def pulse(self, ran_seconds: float) -> Directive:
        """Record that the agent lives, and return what the service wants of it.

        `ran_seconds`: the time since the claim, by a clock that nobody sets.
        """

    def begin_stop(self) -> None:
        """Note that the trainer was asked to stop, by whomever. Returns at once."""

    def log(self) -> None:
        """Take care of the output so far, several times a second: deliver what has not been
        delivered, or, where files are shared, keep the log within its limit."""

    def prepare_finish(self) -> None:
        """Make sure that `finish` can succeed, such as on a disk that the trainer fills."""

    def finish(self, record: ExitRecord) -> None:
        """Deliver the rest of the output and the exit record, which is durable on return."""


def now() -> str:
    """Return the time: UTC, ISO 8601 with offset."""
    seconds = time.time()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1e6):06d}+00:00"
