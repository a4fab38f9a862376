"""A cluster in simulated time, whose every decision is made by the rules of `domain.queue`.

    cluster = Cluster(nodes=100, gpus=8, quotas={"a": Quota()}, tick=60)
    cluster.submit(at, Job(…))
    cluster.run()            # until everything has ended; the jobs know what became of them

It does what `supervisor.schedule` does with what the rules say: start, wait, make others yield,
queue those again that have saved. A job saves every `saves_every` seconds and when it is stopped.
"""

import heapq
from dataclasses import dataclass, field
from itertools import count

from app.domain.queue import (
    MAX_PREEMPTIONS,
    FairOrder,
    Holder,
    Plan,
    Pool,
    Start,
    Waiting,
)
from app.domain.quotas import ProjectUse, Quota
from app.domain.resources import Allocation, Capacity, Gpu, Resources

NODE = 8.0
SAVE_SECONDS = 30.0
"""How long a job that was told to stop saves."""


@dataclass
class Job:
    """One run: what it needs, and what became of it."""

    id: str
    project: str
    priority: int
    gpus: int
    seconds: float
    saves_every: float = 600.0
    submitted: float = 0.0
    queued: float = 0.0
    started: float | None = None
    """Of this attempt."""
    first_started: float | None = None
    ended: float | None = None
    done: float = 0.0
    """Seconds of work that are saved."""
    lost: float = 0.0
    """Seconds of work that were done once more."""
    preemptions: int = 0
    stopping: bool = False
    allocation: Allocation = field(default_factory=Allocation)

    def __post_init__(self) -> None:
        self.resources = Resources(count=self.gpus, cpus=float(self.gpus))


class Cluster:
    """Nodes with eight CPUs and some GPUs each, and the runs that want them."""

    def __init__(self, nodes: int, gpus: int, quotas: dict[str, Quota], tick: float) -> None:
        names = [f"{node}:{card}" for node in range(nodes) for card in range(gpus)]
        cards = tuple(Gpu(name, "H100") for name in names)
        self.capacity = Capacity(nodes * NODE, nodes * 64.0, cards)
        self.quotas, self.tick, self.now = quotas, tick, 0.0
        self.waiting: dict[str, Job] = {}
        self.running: dict[str, Job] = {}
        self.jobs: list[Job] = []
        self.overtaken = 0.0
        """By how much a run was younger, at most, than one that it started before. Runs of projects
        with a quota are not counted as overtaken: they wait for their own."""
        self._events: list[tuple[float, int, str, Job, float]] = []
        self._number = count()

    def submit(self, at: float, job: Job) -> None:
        self.jobs.append(job)
        job.submitted = job.queued = at
        self._at(at, "submit", job)

    def run(self) -> None:
        """Let time pass until every job has ended; the queue is looked at once a tick."""
        while self._events:
            self.now = max(self._events[0][0], self.now + self.tick)
            changed = False
            while self._events and self._events[0][0] <= self.now:
                _, _, what, job, about = heapq.heappop(self._events)
                changed |= self._happen(what, job, about)
            if changed and self.waiting:
                self._look()
        assert not self.waiting and not self.running, "somebody waits for ever"

    def _at(self, at: float, what: str, job: Job, about: float = 0.0) -> None:
        heapq.heappush(self._events, (at, next(self._number), what, job, about))

    def _happen(self, what: str, job: Job, about: float) -> bool:
        """Return True if the next look may find something else than the last."""
        if what == "submit":
            self.waiting[job.id] = job
            return True
        if what != "save" and job.started != about:
            return False  # of an attempt that was stopped
        if what == "save":
            return job.started == about and any(
                other.priority < job.priority for other in self.waiting.values()
            )
        del self.running[job.id]
        if what == "end":
            job.ended, job.started = self.now, None
        else:
            self._yielded(job)
        return True

    def _yielded(self, job: Job) -> None:
        assert job.started is not None
        job.done += self.now - job.started - SAVE_SECONDS
        job.lost += SAVE_SECONDS
        job.preemptions += 1
        job.stopping, job.started, job.queued = False, None, self.now
        self.waiting[job.id] = job

    def _look(self) -> None:
        pool = Pool(self.capacity, [self._holder(job) for job in self.running.values()])
        uses = {name: ProjectUse(quota) for name, quota in self.quotas.items()}
        for holder in pool.holders:
            uses[holder.project_id].add(holder.gpus)
        plan = Plan({"cluster": pool}, uses)
        order = FairOrder([self._item(job) for job in self.waiting.values()], plan.shares())
        for item in order:
            decision = plan.consider(item)
            if isinstance(decision, Start):
                order.add_share(item.project_id, plan.start(item, decision))
                self._start(item.id, decision.allocation)
                continue
            for victim in decision.preempts:
                self._stop(self.running[victim.run_id], item)
        self._check()

    def _item(self, job: Job) -> Waiting:
        waited = self.now - job.queued
        return Waiting(job.id, job.project, job.priority, waited, ("cluster",), job.resources)

    def _holder(self, job: Job) -> Holder:
        assert job.started is not None
        has_saved = self.now - job.started >= job.saves_every
        return Holder(
            job.id, job.project, job.priority, job.allocation, job.gpus, f"{job.started:020.3f}",
            is_ending=job.stopping, may_yield=has_saved and job.preemptions < MAX_PREEMPTIONS,
        )  # fmt: skip

    def _start(self, id: str, allocation: Allocation) -> None:
        job = self.waiting.pop(id)
        self.running[id] = job
        free = (each for each in self.waiting.values() if self.quotas[each.project] == Quota())
        oldest = min((each.queued for each in free), default=job.queued)
        self.overtaken = max(self.overtaken, job.queued - oldest)
        job.started, job.allocation = self.now, allocation
        job.first_started = job.first_started or self.now
        self._at(self.now + job.seconds - job.done, "end", job, self.now)
        self._at(self.now + job.saves_every, "save", job, self.now)

    def _stop(self, job: Job, by: Waiting) -> None:
        assert job.started is not None and not job.stopping
        assert job.priority > by.priority, "only a lower run yields"
        assert self.now - job.started >= job.saves_every, "nothing was saved yet"
        job.stopping = True
        self._at(self.now + SAVE_SECONDS, "yield", job, job.started)

    def _check(self) -> None:
        """Nothing is given twice, and no project has more than its quota."""
        cards = [card for job in self.running.values() for card in job.allocation.gpus]
        assert len(cards) == len(set(cards)) <= len(self.capacity.gpus)
        for name, quota in self.quotas.items():
            own = [job for job in self.running.values() if job.project == name]
            assert quota.max_runs is None or len(own) <= quota.max_runs
            assert quota.max_gpus is None or sum(job.gpus for job in own) <= quota.max_gpus
