"""Slurm as a launcher: submit, look, stop and kill, each with one or two commands for all jobs."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.domain.evidence import Cause
from app.domain.resources import Capacity, Gpu, Kind, Resources, Shortage
from app.launchers.base import (
    HttpMailboxAddress,
    Job,
    JobState,
    JobStatus,
    Key,
    LauncherContext,
    LauncherError,
    Submission,
    Unreachable,
)
from app.launchers.options import check_names, find_engine_type
from app.launchers.slurm import job as jobs
from app.launchers.slurm.client import JobRow, NodeGroup, Refused, SlurmClient
from app.launchers.slurm.states import SENTENCES, STATES, STOPPED

_NAME = re.compile(r"(run_[0-9a-z]+)\.([1-9][0-9]*)")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EARLY_SECONDS = 90.0
"""Slurm may send its warning a minute early, and looks at limits twice a minute."""
PLACES_SECONDS, NEW_PLACES_SECONDS = 15.0, 3.0
"""How old the places of waiting jobs may be; where a job is new among them."""
_ORDER = (JobState.RUNNING, JobState.QUEUED, JobState.UNKNOWN, JobState.ENDED)


class SlurmLauncher:
    """Runs agents as batch jobs. For its options see `jobs.Options`.

    It keeps nothing but the last answer of sinfo: all can be asked again.
    """

    owns_queue = True

    def __init__(self, context: LauncherContext, name: str = "slurm", **options: Any) -> None:
        check_names(jobs.Options, options)
        self.name, self.options = name, jobs.Options(**options)
        self.shares_files = self.options.files == "shared"
        self.look_seconds: float = self.options.look_seconds
        self.max_pending: int | None = self.options.max_pending
        self._data_dir = context.data_dir.absolute()
        environment = {
            key: value for key, value in context.environment.items() if not key.startswith("LLM_")
        }
        self._client = SlurmClient(environment, self.options.call_seconds)
        self._groups: list[NodeGroup] = []
        self._places: dict[str, int] = {}
        self._placed_at = float("-inf")

    def offer(self) -> None:
        """Return nothing: Slurm decides. Remembers what its partition has, for `check`."""
        try:
            self._groups = self._client.nodes(self.options.partition)
        except Refused as error:
            raise Unreachable(f"Slurm refuses sinfo: {error}.") from error
        if not self._groups and self.options.partition is not None:
            raise Unreachable(f"Slurm has no nodes in a partition {self.options.partition!r}.")

    def total(self) -> Capacity:
        """Return what the nodes of the partition have in all."""
        self.offer()
        groups = self._groups
        gpus = [
            Gpu(f"{group.partition}/{number}", kind or "GPU")
            for group in groups
            for kind, count in group.gpus.items()
            for number in range(count * group.nodes)
        ]
        memory = sum(group.nodes * group.memory_mb for group in groups) * (1 << 20) / 1e9
        return Capacity(sum(group.nodes * group.cpus for group in groups), memory, tuple(gpus))

    def check(self, resources: Resources) -> Shortage | None:
        """Return what no node of the partition has, or how many more it would need."""
        groups = self._groups
        if not groups:
            return None
        where = f"partition {groups[0].partition.rstrip('*')}"
        gpu = self._gpu(resources)
        if resources.gpus and gpu is None:
            known = ", ".join(sorted({kind for group in groups for kind in group.gpus if kind}))
            detail = f"Needs GPUs of type {resources.gpu_type}; {where} has: {known or 'none'}."
            return Shortage(detail, True, Kind.GPUS)
        for kind, needed, offered, unit in (
            (Kind.GPUS, resources.gpus, max(_gpus(group, gpu) for group in groups), "GPUs a node"),
            (Kind.CPUS, resources.cpus or 0, max(g.cpus for g in groups), "CPUs a node"),
            (
                Kind.MEMORY, jobs.memory_mb(resources), max(g.memory_mb for g in groups),
                "MB of memory a node",
            ),
            (Kind.NODES, resources.nodes or 1, sum(g.nodes for g in groups), "nodes"),
        ):  # fmt: skip
            if needed > offered:
                return Shortage(f"Needs {needed:g} {unit}; {where} has {offered}.", True, kind)
        most, limit = self._most_seconds(), resources.time_limit_minutes
        if most is not None and limit is not None and limit * 60 > most:
            detail = f"Needs {limit:g} minutes; {where} allows {most / 60:g}."
            return Shortage(detail, True, Kind.NODES)
        return None

    def _most_seconds(self) -> float | None:
        limits = [group.seconds_limit for group in self._groups]
        known = [limit for limit in limits if limit is not None]
        return min(known) if known and len(known) == len(limits) else None

    def _gpu(self, resources: Resources) -> str | None:
        """Return what Slurm calls the GPU type; '' for any; None if there is no such type."""
        offered = {kind for group in self._groups for kind in group.gpus if kind}
        return find_engine_type(resources.gpu_type, self.options.gpu_types, offered)

    def choose_avoided(self, nodes: Sequence[str], resources: Resources) -> Sequence[str]:
        """Return as many of these nodes as leave enough others in the partition."""
        names = [name for name in nodes if _NODE.fullmatch(name)]
        spare = sum(group.nodes for group in self._groups) - (resources.nodes or 1)
        return names[: max(spare, 0)]

    def submit(self, job: Job) -> Submission:
        """Submit a batch job. A second one of the same attempt would start no second trainer."""
        assert isinstance(job.mailbox, HttpMailboxAddress)
        gpu, log = self._gpu(job.resources), None
        if gpu is None:
            raise LauncherError(f"Slurm has no GPUs of type {job.resources.gpu_type}.")
        if self.shares_files:  # a folder that is missing fails the job without a word
            folder = self._data_dir / "runs" / job.key.run_id
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            log = folder / f"slurm-{job.key.attempt}.log"
        minutes = jobs.minutes(job.resources, self.options, self._most_seconds())
        arguments = jobs.arguments(job, self.options, gpu, minutes, log)
        secrets = {jobs.CLAIM_CODE: job.mailbox.claim_code}
        try:
            return Submission(
                self._client.submit(arguments, jobs.script(job, self.options), secrets)
            )
        except Unreachable:  # also after it was taken in: the next look tells
            return Submission(None, doubt=True)
        except Refused as error:
            raise LauncherError(f"Slurm refuses the job: {error}.") from error

    def look(self, keys: Sequence[Key]) -> Mapping[Key, JobStatus]:
        """Return the state of each attempt's job; of several, of the one that has come furthest."""
        rows = self._list_active()
        forgotten = [key.name for key in keys if key.name not in rows]
        try:
            for row in self._client.list_ended(forgotten):
                rows.setdefault(row.name, []).append(row)
        except (Refused, Unreachable):
            pass  # an accounting that is away tells no less than none
        statuses = {key: self._status(rows.get(key.name, [])) for key in keys}
        waiting = {key: status for key, status in statuses.items() if status.word == "PENDING"}
        if waiting:
            self._find_places([status.engine_id or "" for status in waiting.values()])
        for key, status in waiting.items():
            position = self._places.get(status.engine_id or "")
            statuses[key] = replace(status, position=position)
        return statuses

    def _find_places(self, ids: Sequence[str]) -> None:
        """Look now and then at the whole queue, which may be long."""
        is_known = self._places.keys() >= set(ids)
        age = time.monotonic() - self._placed_at
        if age < (PLACES_SECONDS if is_known else NEW_PLACES_SECONDS):
            return
        self._placed_at = time.monotonic()
        try:
            self._places = self._client.places()
        except (Refused, Unreachable):
            self._places = {}  # jobs wait without a place

    def _list_active(self) -> dict[str, list[JobRow]]:
        try:
            jobs_of_user = self._client.jobs()
        except Refused as error:
            raise Unreachable(f"Slurm refuses squeue: {error}.") from error
        rows: dict[str, list[JobRow]] = {}
        for row in jobs_of_user:
            rows.setdefault(row.name, []).append(row)
        return rows

    def _status(self, rows: list[JobRow]) -> JobStatus:
        if not rows:
            return JobStatus(JobState.ABSENT)
        return min((self._status_of(row) for row in rows), key=lambda s: _ORDER.index(s.state))

    def _status_of(self, row: JobRow) -> JobStatus:
        state, cause = STATES.get(row.state, (JobState.UNKNOWN, None))
        text = "" if row.reason in ("None", "") else row.reason
        exit_code = signal = None
        if state is JobState.ENDED:
            code = os.waitstatus_to_exitcode(row.status)
            exit_code, signal = (code, None) if code >= 0 else (None, -code)
            near = row.seconds_limit is not None and row.seconds_used >= (
                row.seconds_limit - self.options.warn_seconds - _EARLY_SECONDS
            )
            if cause is None and near:  # it obeyed the warning: its end looks like any other
                cause, text = Cause.TIME_LIMIT, SENTENCES["TIMEOUT"]
            else:
                words = f"Slurm job {{id}} ended: {row.state}, exit code {code}."
                text = SENTENCES.get(row.state, words)
            on = f": {', '.join(row.nodes)}" if row.nodes else ""
            limit = f"{(row.seconds_limit or 0) / 60:g} minutes"
            text = text.format(id=row.id, on=on, limit=limit)
        return JobStatus(
            state, engine_id=row.id, word=row.state, reason_text=text, nodes=row.nodes,
            exit_code=exit_code, signal=signal, cause=cause, is_suspended=row.state in STOPPED,
        )  # fmt: skip

    def stop(self, keys: Sequence[Key]) -> None:
        """Send SIGTERM to the agents alone: any other signal would reach a trainer's workers."""
        rows = self._list_rows(keys)
        running = [row.id for row in rows if STATES.get(row.state, (None,))[0] is JobState.RUNNING]
        self._client.cancel(running, "--batch", "--signal=TERM")
        # Signals to a pending job keep scancel waiting for a minute and a half.
        self._client.cancel([row.id for row in rows if row.id not in running], "--state=PENDING")

    def kill(self, keys: Sequence[Key]) -> None:
        """Cancel the jobs: SIGTERM to all processes, and SIGKILL after Slurm's KillWait."""
        self._client.cancel([row.id for row in self._list_rows(keys)])

    def _list_rows(self, keys: Sequence[Key]) -> list[JobRow]:
        names = {key.name for key in keys}
        return [
            row
            for name, rows in self._list_active().items()
            for row in rows
            if name in names and STATES.get(row.state, (None,))[0] is not JobState.ENDED
        ]

    def strays(self) -> Sequence[Key]:
        """Return the attempts of all jobs under names like ours that have not ended."""
        keys = []
        for name, rows in self._list_active().items():
            match = _NAME.fullmatch(name)
            ended = all(STATES.get(row.state, (None,))[0] is JobState.ENDED for row in rows)
            if match is not None and not ended:
                keys.append(Key(match[1], int(match[2])))
        return keys


def _gpus(group: NodeGroup, kind: str | None) -> int:
    """Return how many GPUs of a type a node of this group has; of any type for ''."""
    return group.gpus.get(kind, 0) if kind else sum(group.gpus.values())
