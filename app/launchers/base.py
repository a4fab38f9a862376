"""The contract of a launcher: it gets an agent started, and says what it knows of the attempt.

    offer, check → submit(job) → look(keys), twice a second → stop or kill

The agent (app/agent) starts, stops and judges the trainer; a launcher only has it started, and
reports what its engine (this machine, Slurm, Ray) knows. All calls are synchronous, may be slow,
and run in a thread.

How to add a launcher
---------------------
1. Write a class with the attributes and methods of `Launcher`. It is made with `context`, a
   `LauncherContext`, with its `name`, and with the options of its table as keyword arguments; it
   raises ValueError with one sentence for an option that is wrong. Import only `app.domain`,
   `app.errors`, `app.agent` and `app.launchers.base`. `tests/support/shed.py` is the smallest one.
2. In `submit` have the agent started. Without shared files: bring `app.agent.bundle.make()` to the
   machine as agent.zip, and run there, with the claim code in LLM_TRAIN_CLAIM_CODE,

       python3 -I -S agent.zip http API_URL RUN_ID ATTEMPT DIRECTORY

   for any Python from 3.10 on. DIRECTORY is the attempt's own. The agent's signals are
   `app.agent.process.STOP` and `KILL`; what it does in between is not the launcher's.
3. Name the class in your package as an entry point; its name is the kind of the table:

       [project.entry-points."llm_train.launchers"]
       shed = "shed:Shed"

4. Install the package beside the service, and name it in the file of LLM_TRAIN_RECIPES, with
   LLM_TRAIN_PUBLIC_URL where agents share no files. `launcher = "site"` in a recipe chooses it:

       [launchers.site]
       kind = "shed"
       directory = "/var/lib/shed"

5. Try it: `llm-train launchers check site` takes a tiny run through it. Then, in a checkout of this
   repository, which alone has the tests, hold it to the contract:
   `tests/support/launcher_contract.py` says how, in one class. One of this repository also joins
   BUILT_IN in `app/launchers/__init__.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from app.agent.mailbox import ExitRecord, LaunchConfig
from app.domain.evidence import Cause
from app.domain.priority import Priority
from app.domain.resources import Allocation, Capacity, Resources, Shortage
from app.errors import Unavailable


class LauncherError(Unavailable):
    """The launcher could not begin; no trainer of this attempt exists because of the call."""

    code, title = "launcher_error", "Launcher error"


class Unreachable(Exception):
    """The engine could not be asked: there is no news, and no run changes its state."""


class Key(NamedTuple):
    """One attempt of one run. Every engine's job carries it as its name: ids of engines repeat."""

    run_id: str
    attempt: int

    @property
    def name(self) -> str:
        """Return the name of the engine's job: `<run>.<attempt>`."""
        return f"{self.run_id}.{self.attempt}"


@dataclass(frozen=True)
class DirectoryMailboxAddress:
    """The attempt's directory lies in `run_dir`, which the agent's machine can read and write."""

    run_dir: Path


@dataclass(frozen=True)
class HttpMailboxAddress:
    """The agent asks the service at `api_url`; its claim shows the single-use `claim_code`."""

    api_url: str
    claim_code: str = field(repr=False)


@dataclass(frozen=True)
class Job:
    """One attempt, to be started."""

    key: Key
    resources: Resources
    allocation: Allocation | None
    """What the service itself has set aside for it; None: the engine decides."""
    mailbox: DirectoryMailboxAddress | HttpMailboxAddress
    config: LaunchConfig | None
    """How to start the trainer; None: the agent gets it with its claim."""
    priority: Priority = Priority.NORMAL
    """Its place in the engine's own queue, where that has such a thing."""
    avoid: tuple[str, ...] = ()
    """Nodes on which it must not run, of those that the launcher has said it can avoid."""

    @property
    def time_limit_minutes(self) -> float | None:
        """Return the run's time limit; None if it has none."""
        return self.resources.time_limit_minutes


class Submission(NamedTuple):
    """The engine's answer to a submission. `doubt`: nobody knows whether the job exists."""

    engine_id: str | None
    doubt: bool = False


class JobState(StrEnum):
    """The state of an attempt, as far as it is known.

    * absent: the engine has no such job. Submitting it is safe.
    * queued: it waits in the engine's queue.
    * running: its agent is alive, or the engine says so.
    * ended: it is over. Without an exit record and a cause it is lost: the agent was killed from
      outside, or is gone with its machine.
    * unknown: it may be any of these.
    """

    ABSENT = "absent"
    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class JobStatus:
    """The launcher's report on one attempt."""

    state: JobState
    engine_id: str | None = None
    word: str = ""
    """The engine's own name of the state, such as PENDING."""
    reason_text: str = ""
    """The engine's own reason, for people."""
    position: int | None = None
    """Its place among the jobs that wait in the engine's queue, from 1; None: it is not known."""
    nodes: tuple[str, ...] = ()
    record: ExitRecord | None = None
    """The agent's exit record, where the launcher shares the service's files."""
    exit_code: int | None = None
    signal: int | None = None
    """The end as the engine tells it; the agent's record comes first."""
    cause: Cause | None = None
    stop_sent: bool = False
    """A stop or kill was asked for."""
    is_suspended: bool = False
    """The engine keeps its processes from running: their silence means nothing."""
    pid: int | None = None
    """The agent's process, where it lives on this machine."""
    error: Exception | None = None
    """The reason why the state is unknown, if only this attempt could not be checked."""
    ran_seconds: float | None = field(default=None, compare=False)
    """The attempt's run time by a clock that is never set; None: it was not recorded."""


@dataclass(frozen=True)
class LauncherContext:
    """The facts about the service that every launcher may use."""

    data_dir: Path
    """Run RUN's directory is data_dir/runs/RUN, where files are shared."""
    environment: Mapping[str, str]


class Launcher(Protocol):
    """A launcher of trainers. The module's docstring says how to add one."""

    name: str
    owns_queue: bool
    """True: submitted jobs wait in the engine's queue. False: the service submits what fits."""
    shares_files: bool
    """True: agents and trainers see the service's data directory under the same paths."""
    look_seconds: float
    """How long an answer of `look` is good; 0: it is asked at every tick."""
    max_pending: int | None
    """How many jobs may wait in the engine's own queue at a time; None: any number."""

    def offer(self) -> Capacity | None:
        """Return what the idle engine could give; None: only the engine knows."""

    def check(self, resources: Resources) -> Shortage | None:
        """Return why a run with these resources can never start here; None if it may."""

    def submit(self, job: Job) -> Submission:
        """Have the agent of an attempt started. Its trainer starts at most once, however often
        this is called. Raises LauncherError if it cannot begin, Unreachable."""

    def look(self, keys: Sequence[Key]) -> Mapping[Key, JobStatus]:
        """Return what is known of each attempt, with one question to the engine.

        A key that is missing in the answer is unknown. Raises Unreachable.
        """

    def stop(self, keys: Sequence[Key]) -> None:
        """Have the agents send the stop signal and kill after the grace. Returns at once.

        Again: changes nothing. An attempt that has not begun never will.
        """

    def kill(self, keys: Sequence[Key]) -> None:
        """End the process trees now. Returns at once, or when what was lost is ended."""

    def strays(self) -> Sequence[Key]:
        """Return the attempts that the engine still has, also those that nobody wants any more."""


@runtime_checkable
class WakesUp(Protocol):
    """A launcher that can wake the service when an attempt ends. It is optional."""

    def exit_fd(self, key: Key) -> int | None:
        """Return a descriptor that turns readable when the attempt is over; the caller closes it.

        None where nothing is alive or the system has no such thing.
        """


@runtime_checkable
class ShowsCapacity(Protocol):
    """A launcher whose engine decides what fits, and says what it has in all. It is optional."""

    def total(self) -> Capacity:
        """Return what the engine has, for people. Raises Unreachable."""


@runtime_checkable
class AvoidsNodes(Protocol):
    """A launcher that can keep a job off nodes of its engine. It is optional."""

    def choose_avoided(self, nodes: Sequence[str], resources: Resources) -> Sequence[str]:
        """Return which of these nodes a run can do without, the most suspect first."""


@runtime_checkable
class EndsLeftovers(Protocol):
    """A launcher that can end the processes of an attempt whose files are gone. It is optional."""

    def end_leftovers(self, key: Key, nonce: str) -> None:
        """End every process that carries `nonce`, and see to it that the attempt never begins."""
