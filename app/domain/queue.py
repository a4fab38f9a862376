"""Scheduling: the order of the queue, the quotas of projects, and preemption.

    order = FairOrder(waiting, shares)      levels of priority, then fair shares, then time
    for run in order:
        decision = plan.consider(run)       Start(allocation) or Wait(reason, …)
        plan.start(run, allocation); order.add_share(…)

* A run of a higher priority starts first. A run moves up a level for each day it has waited, so
  that none waits forever.
* Within a level, the project with the smallest share of the machines is next, then the oldest run.
* A run that exceeds its project's quota waits and holds up no other project.
* If there is no room for a run of a higher priority, runs of a lower one yield: the youngest of
  the lowest first, no more than needed, and only those that may (`Holder.may_yield`).

The supervisor and the simulation in the tests use the same functions. There is no I/O.
"""

import heapq
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app.domain.lifecycle import Reason
from app.domain.quotas import ProjectUse
from app.domain.resources import (
    Allocation,
    Capacity,
    Kind,
    Reservations,
    Resources,
    Shortage,
    allocate,
)

AGING_SECONDS = 24 * 3600.0
"""After so long in the queue a run moves up one level of priority, and again after each."""
MAX_PREEMPTIONS = 3
"""A run that was preempted so often is left alone."""
UNKNOWN_SHARE = 0.001
"""The share that a run has of an engine which does not say what it has."""


class Waiting(NamedTuple):
    """A queued run."""

    id: str
    project_id: str
    priority: int
    """Its rank: the lower starts first."""
    waited_seconds: float
    """Since it was queued, or queued again."""
    launchers: tuple[str, ...]
    """Where it may run: on the first that has room."""
    resources: Resources
    may_preempt: bool = True
    """False for one that could not start even if there was room."""

    @property
    def level(self) -> int:
        """Return where it is in the queue: its priority, less a level for each day of waiting."""
        return self.priority - int(self.waited_seconds // AGING_SECONDS)

    @property
    def gpus(self) -> int:
        """Return the GPUs that it needs on all of its nodes."""
        return self.resources.gpus_in_all


class Holder(NamedTuple):
    """A run that holds resources of a launcher."""

    run_id: str
    project_id: str
    priority: int
    allocation: Allocation
    gpus: int
    since: str
    """When it got them."""
    is_ending: bool = False
    may_yield: bool = False
    """It has saved a good checkpoint in this attempt, and its recipe lets it be preempted."""


class Start(NamedTuple):
    """There is room for a run."""

    allocation: Allocation
    launcher: str = ""


class Wait(NamedTuple):
    """There is no room for a run. `detail` is stable as long as the reason is the same."""

    reason: Reason
    detail: str
    reserves: bool = False
    """It keeps something back from those behind it."""
    preempts: tuple[Holder, ...] = ()
    """The runs that are to yield to it."""
    details: tuple[tuple[str, str], ...] = ()
    """What each launcher lacks, in their order; empty where the quota is what it waits for."""
    has_place: bool = True
    """It may start once there is room; False: no launcher that was considered can ever run it."""


@dataclass
class Pool:
    """One launcher's capacity, its holders and its waiters. `capacity` None: its engine decides."""

    capacity: Capacity | None
    holders: list[Holder] = field(default_factory=list)
    reservations: Reservations = field(default_factory=Reservations)
    promised: list[Allocation] = field(default_factory=list)
    """Allocations of runs that start once others have made room for them."""
    ending: set[str] = field(default_factory=set)
    """Runs that were told to yield."""
    is_contested: bool = False
    """A run waits here that no other makes room for: it comes first for whatever others free."""
    _known: dict[Resources, Shortage] = field(default_factory=dict)
    """What a run that needs just this lacks: within a look less and less is free."""

    def admit(self, run: Waiting) -> Allocation | Shortage:
        """Return what a run gets, or what it lacks."""
        if self.capacity is None:
            return Allocation()
        known = self._known.get(run.resources)
        if known is not None:
            return known
        in_use = [holder.allocation for holder in self.holders]
        allocated = self.reservations.allocate(run.resources, self.capacity, in_use)
        if isinstance(allocated, Allocation):
            return _find_no_slot(self.capacity, in_use) or allocated
        return allocated

    def keep_room(self, run: Waiting, shortage: Shortage) -> tuple[bool, tuple[Holder, ...]]:
        """Let a run wait here: keep room back from those behind it, and make others yield.

        Returns whether that is any more than was kept, and who is to yield.
        """
        if self.capacity is None or run.resources in self._known:
            return False, ()
        keeps = False
        if shortage.kind is not Kind.SLOTS:
            in_use = [holder.allocation for holder in self.holders]
            keeps = self.reservations.add(run.resources, self.capacity, in_use)
        preempts = self._make_room(run)
        if self.is_contested and not keeps:
            self._known[run.resources] = shortage
        return keeps, preempts

    def _make_room(self, run: Waiting) -> tuple[Holder, ...]:
        """Return who is to yield; nobody where what is ending suffices, or nobody may."""
        if self.capacity is None or self.is_contested:
            return ()
        staying = [
            holder
            for holder in self.holders
            if not holder.is_ending and holder.run_id not in self.ending
        ]
        chosen = find_victims(run, self.capacity, staying, self.promised)
        if chosen is None:
            self.is_contested = True
            return ()
        victims, allocation = chosen
        self.promised.append(allocation)
        self.ending.update(holder.run_id for holder in victims)
        return victims


@dataclass
class Plan:
    """One look at the queue: what is admitted, run by run. It is kept while nothing changes."""

    pools: dict[str, Pool]
    projects: dict[str, ProjectUse] = field(default_factory=dict)

    def consider(self, run: Waiting) -> Start | Wait:
        """Return what a run gets now, or why it waits.

        Where no launcher has room, it waits at the first that could ever run it.
        """
        excess = self._use(run).find_excess(run.gpus)
        if excess is not None:
            return Wait(Reason.WAITING_FOR_QUOTA, excess)
        shortages: dict[str, Shortage] = {}
        for name in run.launchers:
            admission = self.pools[name].admit(run)
            if isinstance(admission, Allocation):
                return Start(admission, name)
            shortages[name] = admission
        reserves, preempts = False, tuple[Holder, ...]()
        first = next(
            (name for name, shortage in shortages.items() if not shortage.impossible), None
        )
        if first is not None:
            reserves, preempts = self.pools[first].keep_room(run, shortages[first])
        details = tuple((name, shortage.detail) for name, shortage in shortages.items())
        detail = details[0][1] if details else ""
        return Wait(
            Reason.WAITING_FOR_RESOURCES, detail, reserves, preempts, details,
            has_place=first is not None,
        )  # fmt: skip

    def start(self, run: Waiting, decision: Start) -> float:
        """Record that a run starts; return the share of the machines that it takes."""
        allocation, pool = decision.allocation, self.pools[decision.launcher]
        self._use(run).add(run.gpus)
        pool.holders.append(Holder(run.id, run.project_id, run.priority, allocation, run.gpus, ""))
        return find_share(allocation, pool.capacity)

    def shares(self) -> dict[str, float]:
        """Return the share of the machines that each project holds."""
        sums: dict[str, float] = {}
        for pool in self.pools.values():
            for holder in pool.holders:
                share = find_share(holder.allocation, pool.capacity)
                sums[holder.project_id] = sums.get(holder.project_id, 0.0) + share
        return sums

    def _use(self, run: Waiting) -> ProjectUse:
        return self.projects.setdefault(run.project_id, ProjectUse())


class FairOrder:
    """Waiting runs in the order in which they are considered."""

    def __init__(self, waiting: Iterable[Waiting], shares: Mapping[str, float]) -> None:
        self._shares = dict(shares)
        self._lines: dict[str, deque[Waiting]] = {}
        for run in sorted(waiting, key=lambda run: (run.level, run.id)):
            self._lines.setdefault(run.project_id, deque()).append(run)

    def add_share(self, project_id: str, share: float) -> None:
        """Count what a run of a project has got. Of use before the next run is taken."""
        self._shares[project_id] = self._shares.get(project_id, 0.0) + share

    def __iter__(self) -> Iterator[Waiting]:
        """Return the runs: each project's next one is weighed after its last was considered."""
        heads = [self._key(project_id) for project_id in self._lines]
        heapq.heapify(heads)
        while heads:
            project_id = heads[0][-1]
            line = self._lines[project_id]
            yield line.popleft()
            if line:
                heapq.heapreplace(heads, self._key(project_id))
            else:
                heapq.heappop(heads)

    def _key(self, project_id: str) -> tuple[int, float, str, str]:
        run = self._lines[project_id][0]
        return run.level, self._shares.get(project_id, 0.0), run.id, project_id


def find_victims(
    run: Waiting, capacity: Capacity, staying: Sequence[Holder], promised: Sequence[Allocation]
) -> tuple[tuple[Holder, ...], Allocation] | None:
    """Return which runs must yield for a run to start, and what it gets then.

    The youngest of the lowest priority first, and no run whose place is not needed. None if the
    run may not, or all that may yield are not enough.
    """

    def fit(victims: Sequence[Holder]) -> Allocation | None:
        """Return what the run gets once these have yielded."""
        ids = {holder.run_id for holder in victims}
        in_use = [holder.allocation for holder in staying if holder.run_id not in ids]
        in_use += promised
        allocated = allocate(run.resources, capacity, in_use)
        if isinstance(allocated, Shortage) or _find_no_slot(capacity, in_use) is not None:
            return None
        return allocated

    if (allocation := fit(())) is not None:
        return (), allocation
    if not run.may_preempt:
        return None
    may_yield = sorted(
        (holder for holder in staying if holder.may_yield and holder.priority > run.priority),
        key=lambda holder: (holder.priority, holder.since), reverse=True,
    )  # fmt: skip
    # The more yield, the more is free: the fewest are found by halving.
    fewest = bisect_left(
        range(len(may_yield)), True, key=lambda n: fit(may_yield[: n + 1]) is not None
    )
    victims = may_yield[: fewest + 1]
    if (allocation := fit(victims)) is None:
        return None
    for holder in reversed(victims[:-1]):
        spared = [holding for holding in victims if holding is not holder]
        if (allocated := fit(spared)) is not None:
            victims, allocation = spared, allocated
    return tuple(victims), allocation


def find_share(allocation: Allocation, capacity: Capacity | None) -> float:
    """Return the part of a launcher that an allocation is: the largest of those of its kinds."""
    if capacity is None:
        return UNKNOWN_SHARE
    parts = (
        (len(allocation.gpus), len(capacity.gpus)),
        (allocation.cpus, capacity.cpus),
        (allocation.memory_gb, capacity.memory_gb),
        (1, capacity.slots or 0),
    )
    return max(UNKNOWN_SHARE, *(part / whole for part, whole in parts if whole))


def _find_no_slot(capacity: Capacity, in_use: Sequence[Allocation]) -> Shortage | None:
    if capacity.slots is None or len(in_use) < capacity.slots:
        return None
    detail = f"All {capacity.slots} slots are taken."
    return Shortage(detail, False, Kind.SLOTS)
