"""Pools: each launcher's capacity, its holders and which may yield; each project's use of quota."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from app.db.sql import load
from app.domain.lifecycle import LAUNCHED, RunStatus
from app.domain.permissions import DEFAULT_PROJECT
from app.domain.queue import MAX_PREEMPTIONS, Holder, Plan, Pool
from app.domain.quotas import ProjectUse
from app.domain.recipes import LOCAL
from app.domain.resources import Allocation, Resources
from app.launchers.base import Launcher
from app.services import live_runs, quotas
from app.services.live_runs import LiveRun, QueuedRun
from app.supervisor.engines import offer
from app.supervisor.state import SupervisorState, uses_files

BYTES_SECONDS = 10.0
"""The maximum age of the count of a project's bytes."""


@dataclass
class Engine:
    """A launcher as the queue sees it in one step."""

    launcher: Launcher
    pool: Pool
    trouble: str | None = None
    """Why the engine cannot be asked now."""
    is_new: bool = False
    """It is asked for the first time, and has not answered yet."""
    waiting: int = 0
    """The number of jobs that wait in the engine's own queue."""


@dataclass
class View:
    """The machines and the projects in one step."""

    engines: dict[str, Engine]
    uses: dict[str, ProjectUse]
    live: dict[str, LiveRun] = field(default_factory=dict)

    def plan(self) -> Plan:
        """Return the plan of a look at the whole queue."""
        pools = {name: engine.pool for name, engine in self.engines.items()}
        return Plan(pools, self.uses)

    def signature(self) -> object:
        """Return what changes with all that could let a waiting run start."""
        engines = (
            (name, e.pool.capacity, tuple(e.pool.holders), e.waiting)
            for name, e in self.engines.items()
        )
        uses = ((id, use.quota, use.bytes) for id, use in self.uses.items())
        return *engines, *uses


async def look(state: SupervisorState, first: QueuedRun) -> View:
    """Return what each launcher offers, and what runs hold of it.

    `first`: the head of the queue, before which nobody has to yield to a run of its priority.
    """
    engines = {name: await _engine(state, launcher) for name, launcher in state.launchers.items()}
    limits = await state.db.read(quotas.list_all)
    view = View(engines, {id: ProjectUse(quota) for id, quota in limits.items()})
    live = await state.db.read(live_runs.list_launched)
    live += await state.db.read(live_runs.list_submitted)
    view.live = {run.id: run for run in live}
    owners = await state.db.read(live_runs.list_projects_of_live) if len(limits) > 1 else {}
    saved: set[str] = set()
    if any(run.priority > first.priority for run in live):
        saved = await state.db.read(live_runs.list_saved)
    for name, holder in state.starting.values():
        engines[name].waiting += 1
        _hold(view, engines[name], holder)
    for run in live:
        engine = engines.get(run.launcher or LOCAL)
        if engine is None or run.id in state.starting:
            continue
        if run.status == RunStatus.QUEUED:
            engine.waiting += 1
        owner = owners.get(run.id, DEFAULT_PROJECT)
        _count(view, state, engine, run, owner, may_yield=run.id in saved)
    await _count_bytes(state, view.uses)
    return view


async def _engine(state: SupervisorState, launcher: Launcher) -> Engine:
    if uses_files(launcher):
        return Engine(launcher, Pool(await asyncio.to_thread(launcher.offer)))
    known = await offer(state, launcher)
    # None: the engine admits, or cannot be asked now.
    capacity = None if launcher.owns_queue else known.capacity
    return Engine(launcher, Pool(capacity), known.trouble, is_new=not known.has_answered)


def _count(
    view: View, state: SupervisorState, engine: Engine, run: LiveRun, owner: str, *, may_yield: bool
) -> None:
    """Count what a live run holds of its launcher and of its project's quota."""
    capacity = engine.pool.capacity
    here = capacity is None or capacity.host is None or run.host in (None, capacity.host)
    # What a dead trainer held is free, though its checkpoints may still be read.
    if state.attempt(run).is_finished:
        return
    recipe, is_launched = state.recipe(run), RunStatus(run.status) in LAUNCHED
    resources = _resources(state, run)
    allocation = _allocation(run, resources)
    holder = Holder(
        run.id, owner, run.priority, allocation,
        # An engine names no GPUs: they count as the run, or its recipe, asks for them.
        resources.count_held(allocation.gpus), run.launched_at or run.submitted_at or "",
        is_ending=run.status == RunStatus.CANCELLING
        or (is_launched and run.termination_reason is not None),
        may_yield=may_yield
        and run.status == RunStatus.RUNNING
        and run.preemptions < MAX_PREEMPTIONS
        and recipe is not None
        and recipe.preemptible,
    )  # fmt: skip
    if here:
        _hold(view, engine, holder)
    else:
        _use(view, holder)


def _hold(view: View, engine: Engine, holder: Holder) -> None:
    engine.pool.holders.append(holder)
    _use(view, holder)


def _use(view: View, holder: Holder) -> None:
    view.uses.setdefault(holder.project_id, ProjectUse()).add(holder.gpus)


async def _count_bytes(state: SupervisorState, uses: dict[str, ProjectUse]) -> None:
    """Count the bytes of projects that have a quota of them, each of them now and then."""
    limited: Iterable[str] = [id for id, use in uses.items() if use.quota.max_bytes is not None]
    for id in limited:
        at, size = state.bytes_of_projects.get(id, (float("-inf"), 0))
        if state.clock() - at >= BYTES_SECONDS:
            at, size = state.clock(), await state.db.scan(quotas.count_bytes, id)
            state.bytes_of_projects[id] = at, size
        uses[id].bytes = size


def _resources(state: SupervisorState, run: LiveRun) -> Resources:
    try:
        return state.resources(run)
    except ValueError:  # its GPUs are on record beside what it asked for
        return Resources()


def _allocation(run: LiveRun, resources: Resources) -> Allocation:
    return Allocation(tuple(load(run.gpus)), resources.cpus or 0, resources.memory_gb or 0)
