"""One job of Slurm, built purely: the arguments of sbatch, and the script on its stdin.

Anybody on the cluster may read both: they hold names, numbers and the agent's source. The claim
code is in the job's environment, which Slurm shows to nobody.
"""

import base64
import math
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from app.agent import bundle
from app.domain.priority import Priority
from app.domain.resources import Resources
from app.launchers.base import HttpMailboxAddress, Job, Key
from app.launchers.options import check_gpu_types, check_number, check_type

CLAIM_CODE = "LLM_TRAIN_CLAIM_CODE"
_MARGIN_MINUTES = 1.0
_SCRIPT = """\
#!/bin/sh
# The agent of attempt {attempt} of {run}. It claims the attempt at {url}.
umask 077
directory=$(mktemp -d "{base}/llm-train-XXXXXXXX") || exit 70
cd "$directory" || exit 70
base64 -d > agent.zip <<'END' || exit 70
{bundle}
END
exec {python} -I -S agent.zip http {url} {run} {attempt} "$directory"{nodes}
"""
# One agent a node. A task that fails ends the others at once; one that is done waits for them.
_SRUN = (
    " srun --nodes={n} --ntasks={n} --ntasks-per-node=1{cpus} --export=ALL --label --unbuffered"
    " --kill-on-bad-exit=1 --wait=0"
)


@dataclass(frozen=True)
class Options:
    """The options of a table `[launchers.NAME]`. Raises ValueError for one that is wrong."""

    partition: str | None = None
    account: str | None = None
    options: Sequence[str] = ()
    """Further arguments of sbatch."""
    files: Literal["shared", "none"] = "none"
    """shared: the nodes see the service's data directory under the same path."""
    python: str = "python3"
    """The interpreter on the nodes: of the agent, and for `{python}` in recipes."""
    directory: str | None = None
    """Where agents keep their files on a node; None: its TMPDIR."""
    look_seconds: float = 2.0
    max_pending: int | None = None
    warn_seconds: int = 120
    """How long before the time limit of a job its trainer is asked to stop and save."""
    default_minutes: float = 1440.0
    """The time limit of a run that names none."""
    nice: dict[str, int] = field(default_factory=lambda: {"low": 1000})
    """What sbatch's --nice is for runs of a priority; only operators of Slurm may go below 0."""
    gpu_types: dict[str, str] = field(default_factory=dict)
    """A run's gpu_type, and what Slurm calls it."""
    call_seconds: float = 20.0
    """How long a command of Slurm may take."""

    def __post_init__(self) -> None:
        for name in ("partition", "account", "directory"):
            check_type(name, getattr(self, name), str, None)
        check_type("python", self.python, str)
        check_type("options", self.options, list, tuple)
        if not all(isinstance(option, str) and option.startswith("-") for option in self.options):
            raise ValueError("options: must be a list of sbatch's options, like '--qos=high'")
        if self.files not in ("shared", "none"):
            raise ValueError("files: must be 'shared' or 'none'")
        for name in ("look_seconds", "default_minutes", "call_seconds"):
            check_number(name, getattr(self, name), above=0)
        check_number("warn_seconds", self.warn_seconds, above=-1)
        if self.warn_seconds > 65_535 or not isinstance(self.warn_seconds, int):
            raise ValueError("warn_seconds: must be a whole number, 65535 at most")
        if self.max_pending is not None:
            check_type("max_pending", self.max_pending, int)
            check_number("max_pending", self.max_pending, above=0)
        check_gpu_types(self.gpu_types)
        check_type("nice", self.nice, dict)
        priorities = {priority.value for priority in Priority}
        numbers = all(type(value) is int for value in self.nice.values())
        if not numbers or not priorities.issuperset(self.nice):
            raise ValueError("nice: must be a table of whole numbers for high, normal and low")


def arguments(
    job: Job, options: Options, gpu: str | None, minutes: float, log: Path | None
) -> list[str]:
    """Return the arguments of sbatch for a job; the operator's options come before the identity.

    `gpu`: what Slurm calls the type; '': any. `log`: where the batch script's own output goes.
    """
    resources = job.resources
    argv = [] if options.partition is None else [f"--partition={options.partition}"]
    if options.account is not None:
        argv.append(f"--account={options.account}")
    argv += [
        f"--nodes={resources.nodes or 1}",
        "--ntasks-per-node=1",
        f"--time={math.ceil(minutes)}",
    ]
    if options.warn_seconds:
        argv.append(f"--signal=B:TERM@{options.warn_seconds}")
    if resources.cpus is not None:
        argv.append(f"--cpus-per-task={math.ceil(resources.cpus)}")
    if resources.memory_gb is not None:
        argv.append(f"--mem={memory_mb(resources)}M")
    if resources.gpus:
        argv.append(f"--gres=gpu:{gpu}:{resources.gpus}" if gpu else f"--gres=gpu:{resources.gpus}")
    if nice := options.nice.get(job.priority.value, 0):
        argv.append(f"--nice={nice}")
    if job.avoid:
        argv.append(f"--exclude={','.join(job.avoid)}")
    return [
        *argv, "--open-mode=append", f"--output={log or '/dev/null'}", *options.options,
        # Requeued, a job would begin again under the same attempt.
        "--no-requeue", f"--job-name={job.key.name}", f"--export={CLAIM_CODE}",
    ]  # fmt: skip


def memory_mb(resources: Resources) -> int:
    """Return the memory asked for in Slurm's unit, 2^20 bytes."""
    return math.ceil((resources.memory_gb or 0) * 1e9 / (1 << 20))


def minutes(resources: Resources, options: Options, most_seconds: float | None) -> float:
    """Return the job's time limit: the run's own, which the service sees to, comes first."""
    if resources.time_limit_minutes is None:
        limit = options.default_minutes
    else:
        limit = resources.time_limit_minutes + options.warn_seconds / 60 + _MARGIN_MINUTES
    return limit if most_seconds is None else min(limit, most_seconds / 60)


def script(job: Job, options: Options) -> str:
    """Return the batch script: it unpacks the agent, and becomes it."""
    assert isinstance(job.mailbox, HttpMailboxAddress)
    base = shlex.quote(options.directory) if options.directory else "${TMPDIR:-/tmp}"
    nodes, cpus = job.resources.nodes or 1, job.resources.cpus
    per_task = "" if cpus is None else f" --cpus-per-task={math.ceil(cpus)}"
    packed = base64.b64encode(bundle.make()).decode()
    return _SCRIPT.format(
        run=_quote_key(job.key), attempt=job.key.attempt, url=shlex.quote(job.mailbox.api_url),
        base=base, python=shlex.quote(options.python),
        nodes=_SRUN.format(n=nodes, cpus=per_task) if nodes > 1 else "",
        bundle="\n".join(textwrap.wrap(packed, 76)),
    )  # fmt: skip


def _quote_key(key: Key) -> str:
    return shlex.quote(key.run_id)
