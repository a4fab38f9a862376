"""Slurm's commands: each call is one command, with a time-out, and its output parsed.

    jobs()     one squeue for all jobs of this user, also those that have ended a while ago
    places()   one squeue for the waiting jobs of all users
    ended(…)   sacct, for jobs that squeue has forgotten; only where there is accounting
    nodes(…)   sinfo: what the partition has
    submit(…)  sbatch; cancel(…)  scancel

Raises Unreachable while the controller does not answer, and Refused with its own words.
"""

import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from app.launchers.base import Unreachable

_FIELDS = ("JobID", "State", "Reason", "exit_code", "NodeList", "TimeUsed", "TimeLimit", "Name")
_SQUEUE = (
    "squeue",
    "--me",
    "--noheader",
    "--states=all",
    "-O",
    ",".join(f"{f}:|" for f in _FIELDS),
)
_WAITING = ("squeue", "--noheader", "--states=PENDING", "--format=%A|%Q|%P")
_SACCT = ("sacct", "--allocations", "--noheader", "--parsable2", "--starttime=now-14days")
_NO_ANSWER = re.compile(
    r"timed out|[Uu]nable to contact|[Cc]onnect(?:ion)? (?:failure|refused|reset)|Zero Bytes"
    r"|[Cc]ommunication (?:connection|shutdown)|not responding|temporarily unavailable"
    r"|Transport endpoint|Unexpected message|Insane message|controller.* (?:standby|down)"
    r"|[Pp]rotocol authentication|[Mm]unge"
)
_UNLIMITED = ("UNLIMITED", "infinite", "NOT_SET", "INVALID", "n/a", "")


class Refused(Exception):
    """Slurm said no; its own words."""


class JobRow(NamedTuple):
    """One job, as squeue tells it."""

    id: str
    state: str
    reason: str
    status: int
    """The wait status of the batch process."""
    nodes: tuple[str, ...]
    seconds_used: float
    seconds_limit: float | None
    name: str


class NodeGroup(NamedTuple):
    """Nodes of one kind in a partition."""

    partition: str
    nodes: int
    cpus: int
    memory_mb: int
    gpus: Mapping[str, int]
    """How many of each type; a GPU without a type counts as ''."""
    seconds_limit: float | None


class SlurmClient:
    """The commands of one cluster, run with `environment` (SLURM_CONF names another cluster)."""

    def __init__(self, environment: Mapping[str, str], call_seconds: float) -> None:
        self._environment, self._call_seconds = dict(environment), call_seconds
        self._has_accounting: bool | None = None

    def jobs(self) -> list[JobRow]:
        """Return all jobs of this user that Slurm still knows."""
        return [parse_job(line) for line in self._run(_SQUEUE).splitlines() if line]

    def places(self) -> dict[str, int]:
        """Return the place of each waiting job in the queue of its partition, by its id.

        Where Slurm shows others' jobs to nobody (PrivateData=jobs), it is that among one's own.
        """
        return rank_waiting(self._run(_WAITING).splitlines())

    def list_ended(self, names: Sequence[str]) -> list[JobRow]:
        """Return the jobs of these names that the accounting knows; none where there is none."""
        if self._has_accounting is None:
            config = self._run(("scontrol", "show", "config"))
            self._has_accounting = "accounting_storage/slurmdbd" in config
        if not self._has_accounting or not names:
            return []
        fields = "JobID,State,ExitCode,NodeList,ElapsedRaw,JobName"
        output = self._run((*_SACCT, f"--name={','.join(names)}", f"--format={fields}"))
        return [parse_accounted(line) for line in output.splitlines() if line]

    def nodes(self, partition: str | None) -> list[NodeGroup]:
        """Return what the partition has; None: the default one."""
        chosen = () if partition is None else (f"--partition={partition}",)
        command = ("sinfo", "--noheader", "--exact", "--format=%P|%D|%c|%m|%G|%l", *chosen)
        groups = [parse_group(line) for line in self._run(command).splitlines() if line]
        if partition is not None:
            return groups
        return [group for group in groups if group.partition.endswith("*")]

    def submit(self, arguments: Sequence[str], script: str, secrets: Mapping[str, str]) -> str:
        """Return the id of the new job. `secrets`: variables of its environment."""
        output = self._run(("sbatch", "--parsable", *arguments), script, secrets)
        return output.strip().splitlines()[-1].partition(";")[0]

    def cancel(self, ids: Sequence[str], *options: str) -> None:
        """Cancel jobs, or signal them. One that has ended meanwhile is none of its errors."""
        if ids:
            try:
                self._run(("scancel", *options, *ids))
            except Refused:
                return

    def _run(
        self, command: Sequence[str], text: str | None = None, more: Mapping[str, str] | None = None
    ) -> str:
        try:
            done = subprocess.run(  # noqa: S603 - a list, and no shell
                command,
                input=text,
                stdin=subprocess.DEVNULL if text is None else None,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=self._call_seconds,
                env={**self._environment, **(more or {})},
            )
        except subprocess.TimeoutExpired:
            seconds = f"{self._call_seconds:g} seconds"
            raise Unreachable(f"Slurm has not answered `{command[0]}` for {seconds}.") from None
        except OSError as error:
            raise Unreachable(f"`{command[0]}` cannot be run here: {error.strerror}.") from error
        if done.returncode == 0:
            return done.stdout
        words = _short(done.stderr) or f"`{command[0]}` ended with {done.returncode}"
        if _NO_ANSWER.search(done.stderr):
            raise Unreachable(f"Slurm does not answer: {words}.")
        raise Refused(words)


def _short(text: str) -> str:
    lines = [re.sub(r"^\w+: (?:error|fatal): ", "", line).strip() for line in text.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))[:400].rstrip(".")


def parse_job(line: str) -> JobRow:
    """Parse a line of squeue. The name comes last: others' may hold anything."""
    id, state, reason, status, nodes, used, limit, name = line.split("|", len(_FIELDS) - 1)
    return JobRow(
        id.strip(),
        state.strip(),
        reason.strip(),
        int(status) if status.strip().isdigit() else 0,
        expand(nodes.strip()),
        parse_time(used) or 0.0,
        parse_time(limit),
        name.strip().removesuffix("|").strip(),
    )


def rank_waiting(lines: Iterable[str]) -> dict[str, int]:
    """Return the places of jobs by their ids, from lines such as `4711|4294901757|main,urgent`.

    A job that waits for several partitions has its best place of these.
    """
    rows = [line.strip().split("|", 2) for line in lines if line.count("|") >= 2]
    before: Counter[str] = Counter()
    places: dict[str, int] = {}
    for id, _, partitions in sorted(rows, key=lambda row: (-int(row[1]), int(row[0]))):
        if id in places:  # a task of an array of which another one waits
            continue
        names = partitions.split(",")
        before.update(names)
        places[id] = min(before[name] for name in names)
    return places


def parse_accounted(line: str) -> JobRow:
    """Parse a line of sacct: `CANCELLED by 0` is the state, `0:15` exit code and signal."""
    id, state, code, nodes, elapsed, name = line.split("|", 5)
    exit_code, _, number = code.partition(":")
    status = (int(exit_code or 0) << 8) | int(number or 0)
    hosts = () if nodes.startswith("None") else expand(nodes)
    return JobRow(id, state.partition(" ")[0], "", status, hosts, float(elapsed or 0), None, name)


def parse_group(line: str) -> NodeGroup:
    """Parse a line of sinfo: `main*|2|4|2000|gpu:a100:2(S:0)|1-00:00:00`."""
    partition, nodes, cpus, memory, gres, limit = line.split("|", 5)
    gpus: dict[str, int] = {}
    for item in re.sub(r"\([^)]*\)", "", gres).split(","):
        parts = item.strip().split(":")
        if parts[0] == "gpu" and parts[-1].isdigit():
            kind = parts[1] if len(parts) == 3 else ""
            gpus[kind] = gpus.get(kind, 0) + int(parts[-1])
    numbers = [int(re.sub(r"\D.*", "", value) or 0) for value in (nodes, cpus, memory)]
    return NodeGroup(partition, numbers[0], numbers[1], numbers[2], gpus, parse_time(limit))


def parse_time(text: str) -> float | None:
    """Return the seconds of `[days-][[hours:]minutes:]seconds`; None for no limit."""
    if text.strip() in _UNLIMITED:
        return None
    days, _, rest = text.strip().rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = seconds * 60 + float(part)
    return float(days or 0) * 86_400 + seconds


def expand(nodes: str) -> tuple[str, ...]:
    """Return the names in a node list such as `n[1-3,07],gpu4`."""
    hosts: list[str] = []
    for item in re.findall(r"[^,\[]+(?:\[[^\]]*\][^,\[]*)*", nodes):
        hosts += _expand_one(item)
    return tuple(hosts)


def _expand_one(item: str) -> list[str]:
    match = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", item)
    if match is None:
        return [item] if item else []
    before, ranges, after = match.groups()
    numbers: list[str] = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        width = len(first)
        numbers += [f"{n:0{width}d}" for n in range(int(first), int(last or first) + 1)]
    return [before + number + rest for number in numbers for rest in _expand_one(after) or [""]]
