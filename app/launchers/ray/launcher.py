"""Ray as a launcher: submit, look, stop and kill; the service's own queue before it."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
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
from app.launchers.ray import job as jobs
from app.launchers.ray.client import JobRow, Node, RayClient, Refused
from app.launchers.ray.states import CAUSES, STATES

_NAME = re.compile(r"(run_[0-9a-z]+)\.([1-9][0-9]*)")
FORGET_SECONDS = 3600.0
"""The time after which an ended job is deleted from Ray, since each `look` lists all jobs."""


class RayLauncher:
    """Runs agents as jobs. For its options see `jobs.Options`.

    It keeps nothing but the last list of nodes: all can be asked again.
    """

    owns_queue, shares_files = False, False

    def __init__(self, context: LauncherContext, name: str = "ray", **options: Any) -> None:
        check_names(jobs.Options, options)
        self.name, self.options = name, jobs.Options(**options)
        self.look_seconds: float = self.options.look_seconds
        self.max_pending: int | None = self.options.max_pending
        token_file = Path(self.options.token_file) if self.options.token_file else None
        self._client = RayClient(self.options.address, token_file, self.options.call_seconds)
        self._nodes: list[Node] = []
        self._services: set[str] = set()

    def offer(self) -> Capacity | None:
        """Return what all nodes have; None where the cluster grows as needed."""
        try:
            self._nodes = self._client.nodes()
        except Refused as error:
            raise Unreachable(f"Ray does not list its nodes: {error}.") from error
        if self.options.autoscales:
            return None
        gpus = [
            Gpu(f"{node.address}/{number}", self._translate_gpu_type(node.gpu_type))
            for node in self._nodes
            for number in range(node.gpus)
        ]
        memory = sum(node.memory_bytes for node in self._nodes) / 1e9
        return Capacity(sum(node.cpus for node in self._nodes), memory, tuple(gpus))

    def check(self, resources: Resources) -> Shortage | None:
        """Return what no node has; a job runs on one."""
        if (resources.nodes or 1) > 1:
            detail = f"Needs {resources.nodes} nodes; a job of Ray has one."
            return Shortage(detail, True, Kind.NODES)
        if self.options.autoscales or not self._nodes:
            return None
        gpu = self._gpu(resources)
        if resources.gpus and gpu is None:
            known = ", ".join(sorted({node.gpu_type for node in self._nodes if node.gpu_type}))
            detail = f"Needs GPUs of type {resources.gpu_type}; Ray has: {known or 'none'}."
            return Shortage(detail, True, Kind.GPUS)
        fitting = [node for node in self._nodes if not gpu or node.gpu_type == gpu]
        memory = (resources.memory_gb or 0.0) * 1e9
        for kind, asked, has, unit, scale in (
            (Kind.GPUS, resources.gpus, max(n.gpus for n in fitting), "GPUs", 1.0),
            (Kind.CPUS, resources.cpus or 0, max(n.cpus for n in fitting), "CPUs", 1.0),
            (Kind.MEMORY, memory, max(n.memory_bytes for n in fitting), "GB of memory", 1e9),
        ):
            if asked > has:
                words = f"Needs {asked / scale:g} {unit} on one node; Ray has {has / scale:g}."
                return Shortage(words, True, kind)
        return None

    def _translate_gpu_type(self, gpu_type: str) -> str:
        """Return what runs call a type of GPUs."""
        names = [name for name, value in self.options.gpu_types.items() if value == gpu_type]
        return names[0] if names else gpu_type or "GPU"

    def _gpu(self, resources: Resources) -> str | None:
        """Return what Ray calls the GPU type; '' for any; None if there is no such type."""
        offered = {node.gpu_type for node in self._nodes if node.gpu_type}
        return find_engine_type(resources.gpu_type, self.options.gpu_types, offered)

    def submit(self, job: Job) -> Submission:
        """Submit a job. Ray refuses a second one of the same attempt, as long as it knows it."""
        assert isinstance(job.mailbox, HttpMailboxAddress)
        gpu = self._gpu(job.resources)
        if gpu is None and job.resources.gpus:
            raise LauncherError(f"Ray has no GPUs of type {job.resources.gpu_type}.")
        self._services.add(job.mailbox.api_url)
        try:
            self._client.upload(*jobs.package())
            self._client.submit(jobs.body(job, self.options, gpu))
        except Unreachable:  # also after it was taken in: the next look tells
            return Submission(None, doubt=True)
        except Refused as error:
            raise LauncherError(f"Ray refuses the job: {error}.") from error
        return Submission(job.key.name)

    def look(self, keys: Sequence[Key]) -> Mapping[Key, JobStatus]:
        """Return the state of each attempt's job."""
        rows = {row.name: row for row in self._list_jobs()} if keys else {}
        return {key: _status(rows.get(key.name)) for key in keys}

    def _list_jobs(self) -> list[JobRow]:
        try:
            return self._client.jobs()
        except Refused as error:
            raise Unreachable(f"Ray does not list its jobs: {error}.") from error

    def stop(self, keys: Sequence[Key]) -> None:
        """Have Ray signal the jobs: it reaches the agents alone, which pass it on."""
        names = {key.name for key in keys}
        for row in self._list_jobs() if keys else ():
            if row.name in names and STATES.get(row.state) is not JobState.ENDED:
                self._client.stop(row.name)

    def kill(self, keys: Sequence[Key]) -> None:
        """Do the same: Ray can do no more, and the agent kills after the grace."""
        self.stop(keys)

    def strays(self) -> Sequence[Key]:
        """Return the attempts of all jobs under names like ours that have not ended."""
        keys = []
        for row in self._list_jobs():
            match = _NAME.fullmatch(row.name)
            if match is None:
                continue
            if STATES.get(row.state) is not JobState.ENDED:
                keys.append(Key(match[1], int(match[2])))
            elif self._is_old(row):
                self._client.delete(row.name)
        return keys

    def _is_old(self, row: JobRow) -> bool:
        ours = row.metadata.get(jobs.SERVICE) in self._services
        return ours and row.ended_at is not None and time.time() - row.ended_at > FORGET_SECONDS


def _status(row: JobRow | None) -> JobStatus:
    """Return what a job's entry in Ray's list says of its attempt."""
    if row is None:
        return JobStatus(JobState.ABSENT)
    state, text, cause = STATES.get(row.state, JobState.UNKNOWN), row.message, None
    if state is JobState.ENDED:
        cause, words = CAUSES.get(row.error, (None, "Ray job {id} ended: {state}{code}."))
        if row.state == "STOPPED":
            cause, words = Cause.STOPPED_ELSEWHERE, "Ray job {id} was stopped by somebody else."
        code = "" if row.exit_code is None else f", exit code {row.exit_code}"
        on = f": {row.node}" if row.node else ""
        text = words.format(id=row.name, state=row.state, code=code, on=on)
        if cause is Cause.NEVER_STARTED or row.exit_code:
            text = f"{text} {row.message}"[:500]
    # Its exit code is that of the process before the agent, and says nothing of the trainer.
    return JobStatus(
        state, engine_id=row.name, word=row.state, reason_text=text,
        nodes=(row.node,) if row.node else (), cause=cause,
    )  # fmt: skip
