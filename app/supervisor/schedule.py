"""Scheduling: queued runs, oldest first, as far as the resources of their launchers go.

Each start is a job of its own (`start`), so that a large checkpoint or a slow disk holds up
nothing else.
"""

import asyncio
from dataclasses import dataclass
from typing import NamedTuple

from app.db.sql import load
from app.db.tables import Run
from app.domain.lifecycle import CheckpointState as State
from app.domain.lifecycle import Reason, RunStatus
from app.domain.recipes import LOCAL, Recipe
from app.domain.resources import Allocation, Capacity, Resources, Shortage
from app.launchers.base import Launcher
from app.services import launches, live_runs, runs
from app.services.launches import Source, WaitingReason
from app.services.live_runs import LiveRun, QueueCursor
from app.supervisor import retrying
from app.supervisor.engines import offer
from app.supervisor.start import begin_start, name_of_start, service_error
from app.supervisor.state import QueueSnapshot, SupervisorState, uses_files

QUEUE_PAGE = 200
COUNT_SECONDS = 5.0
FAILED_SECONDS = 5.0
"""After so long a run at which the service failed is looked at again."""
UNKNOWN_RECIPE = (
    "The recipe {!r} is not configured on this server: add it to the file of LLM_TRAIN_RECIPES "
    "and restart the server, or cancel the run."
)


async def launch(state: SupervisorState) -> None:
    """Start what can start; record for the rest why it waits.

    While nothing changes on the machine, only runs that are new in the queue are looked at. A run
    at which this fails holds up no other.
    """
    if (
        not await state.db.read(live_runs.list_queued, QueueCursor(), 1)
        or not await state.has_data_dir()
    ):
        return
    engines = await _engines(state)
    machine = tuple((name, e.capacity, tuple(e.in_use), e.waiting) for name, e in engines.items())
    queue = await _snapshot(state, machine)
    while page := await state.db.read(live_runs.list_queued, queue.cursor, QUEUE_PAGE):
        waiting: list[WaitingReason] = []
        for run in page:
            try:
                reason = await _start_or_wait(state, run, queue, engines)
            except Exception as error:
                state.log_throttled(run.id, "run %s cannot be started", run.id, error=error)
                queue.waiting += 1
                queue.look_again_at = min(queue.look_again_at, state.clock() + FAILED_SECONDS)
                reason = service_error(run, error)
            if reason is not None and (run.status_reason, run.status_detail) != reason[1:]:
                waiting.append(reason)
        if waiting:
            await state.db.write(launches.set_waiting_reasons, waiting)
        queue.cursor = QueueCursor(page[-1].priority, page[-1].id)
        await asyncio.sleep(0)  # a long queue must not hold up requests
    state.queue = queue if queue.is_stuck else None


@dataclass
class Engine:
    """A launcher as the queue sees it in one step."""

    launcher: Launcher
    capacity: Capacity | None
    """None: the engine admits, or cannot be asked now."""
    in_use: list[Allocation]
    trouble: str | None = None
    """Why the engine cannot be asked now."""
    is_new: bool = False
    """It is asked for the first time, and has not answered yet."""
    waiting: int = 0
    """How many jobs wait in the engine's own queue."""


async def _engines(state: SupervisorState) -> dict[str, Engine]:
    """Return what each launcher offers, and what runs hold of it."""
    engines = {}
    for name, launcher in state.launchers.items():
        engines[name] = engine = Engine(launcher, None, [])
        if uses_files(launcher):
            engine.capacity = await asyncio.to_thread(launcher.offer)
        else:
            known = await offer(state, launcher)
            engine.capacity, engine.trouble = known.capacity, known.trouble
            engine.is_new = not known.has_answered
    for launcher_name, allocation in state.starting.values():
        engines[launcher_name].in_use.append(allocation)
        engines[launcher_name].waiting += 1
    live = await state.db.read(live_runs.list_launched)
    for run in [*live, *await state.db.read(live_runs.list_submitted)]:
        held_by = engines.get(run.launcher or LOCAL)
        if held_by is not None and run.status == RunStatus.QUEUED and run.id not in state.starting:
            held_by.waiting += 1
        if held_by is None or held_by.capacity is None:
            continue
        here = held_by.capacity.host is None or run.host in (None, held_by.capacity.host)
        # What a dead trainer held is free, though its checkpoints may still be read.
        if here and run.id not in state.starting and not state.attempt(run).is_finished:
            held_by.in_use.append(_held(state, run))
    return engines


async def _start_or_wait(
    state: SupervisorState, run: Run, queue: QueueSnapshot, engines: dict[str, Engine]
) -> WaitingReason | None:
    """Begin the start of a queued run, or return why it waits; None: that is on record."""
    recipe = state.recipe(run)
    if recipe is None:
        # A server that was started without its file of recipes must not end the queue.
        queue.waiting += 1
        detail = UNKNOWN_RECIPE.format(run.recipe)
        return WaitingReason(run.id, Reason.WAITING_FOR_RESOURCES, detail)
    if run.id in state.starting:
        queue.is_stuck = False
        return _slow(state, run)
    if (left := retrying.seconds_left(state, run, recipe)) > 0:
        queue.waiting += 1
        queue.look_again_at = min(queue.look_again_at, state.clock() + left)
        return None
    place = _choose_place(state, run, recipe, queue, engines)
    if isinstance(place, WaitingReason):
        queue.waiting += 1
        return place
    queue.is_stuck = False
    sources = await _sources(state, run)
    if sources and sources[0].stored.state == State.PENDING:
        detail = f"{sources[0].named.ckpt_path} is still being written."
        return WaitingReason(run.id, Reason.WAITING_FOR_CHECKPOINT, detail)
    name, allocation = place
    engines[name].in_use.append(allocation)
    engines[name].waiting += 1
    begin_start(state, run, recipe, place, sources)
    return None


class _Refusal(NamedTuple):
    """Why one launcher cannot take a run now."""

    reason: Reason
    detail: str
    may_keep_room: bool = False
    """True: it could run there, and what it waits for may be kept back from younger ones."""


def _choose_place(
    state: SupervisorState, run: Run, recipe: Recipe, queue: QueueSnapshot,
    engines: dict[str, Engine],
) -> tuple[str, Allocation] | WaitingReason:  # fmt: skip
    """Return the first of the recipe's launchers that takes the run, and what is set aside there.

    Where none does, the run keeps room back from younger ones at the first that could run it.
    """
    refusals: dict[str, _Refusal] = {}
    for name in recipe.launcher:
        found = _admit(state, run, queue, name, engines.get(name))
        if isinstance(found, Allocation):
            return name, found
        refusals[name] = found
        if name in engines and engines[name].is_new:
            break  # a server that has just started would pass over the first choice of all
    for name in [name for name, refusal in refusals.items() if refusal.may_keep_room][:1]:
        engine = engines[name]
        assert engine.capacity is not None
        reservations = queue.reservations[name]
        if reservations.add(state.resources(run), engine.capacity, engine.in_use):
            queue.holders.append(run.id)
    if len(refusals) == 1:
        return WaitingReason(run.id, *refusals[recipe.launcher[0]][:2])
    details = " ".join(f"{name}: {refusal.detail}" for name, refusal in refusals.items())
    return WaitingReason(run.id, refusals[recipe.launcher[0]].reason, details)


def _admit(
    state: SupervisorState, run: Run, queue: QueueSnapshot, name: str, engine: Engine | None
) -> Allocation | _Refusal:
    """Return what one launcher sets aside for a run, or why it cannot take it now."""
    if engine is None or engine.trouble is not None:
        queue.look_again_at = min(queue.look_again_at, state.clock() + FAILED_SECONDS)
        unknown = f"The launcher {name!r} is not configured on this server."
        detail = engine.trouble if engine and engine.trouble else unknown
        return _Refusal(Reason.WAITING_FOR_CLUSTER, detail)
    found = _allocate(state.resources(run), queue, engine)
    most = engine.launcher.max_pending
    if isinstance(found, Allocation) and most is not None and engine.waiting >= most:
        detail = f"At most {most} jobs wait in the queue of {name} at a time."
        return _Refusal(Reason.WAITING_FOR_CLUSTER, detail)
    return found


def _allocate(resources: Resources, queue: QueueSnapshot, engine: Engine) -> Allocation | _Refusal:
    """Return what of an engine is free for a run, or what it lacks.

    An engine with a queue of its own admits all that it could ever run.
    """
    reason, capacity, in_use = Reason.WAITING_FOR_RESOURCES, engine.capacity, engine.in_use
    if not uses_files(engine.launcher):  # what this machine lacks is found below
        shortage = engine.launcher.check(resources)
        if shortage is not None:
            return _Refusal(reason, shortage.detail)
    if engine.launcher.owns_queue or capacity is None:
        return Allocation()
    found = queue.reservations[engine.launcher.name].allocate(resources, capacity, in_use)
    if isinstance(found, Shortage):
        return _Refusal(reason, found.detail, may_keep_room=not found.impossible)
    if capacity.places is not None and len(in_use) >= capacity.places:
        return _Refusal(reason, f"Needs a place to run; all {capacity.places} are taken.")
    return found


async def _snapshot(state: SupervisorState, machine: object) -> QueueSnapshot:
    """Return the last look at the queue, where the next one need only go on from it."""
    now, new = state.clock(), QueueSnapshot(machine, state.clock())
    last = state.queue
    if last is None or last.machine != machine or now >= last.look_again_at:
        return new
    # Without the runs that others wait behind, they are looked at again.
    for holder in last.holders:
        if (await state.db.read(runs.get, holder)).status != RunStatus.QUEUED:
            return new
    # A clock that was set back, or a slow transaction, puts a new run before those that were seen.
    if now - last.counted_at >= COUNT_SECONDS:
        if await state.db.read(live_runs.count_waiting, last.cursor) != last.waiting:
            return new
        last.counted_at = now
    return last


def _held(state: SupervisorState, run: LiveRun) -> Allocation:
    try:
        resources = state.resources(run)
    except ValueError:  # its GPUs are on record beside what it asked for
        resources = Resources()
    return Allocation(tuple(load(run.gpus)), resources.cpus or 0, resources.memory_gb or 0)


def _slow(state: SupervisorState, run: Run) -> WaitingReason | None:
    """Return why a start that takes long is not over yet."""
    about = name_of_start(run)
    if about in state.unreadable:
        detail = f"{state.unreadable[about][1]} It is tried again."
    elif run.source_ckpt_path is not None and state.is_slow(about):
        detail = f"{run.source_ckpt_path} is being verified."
    else:
        return None
    return WaitingReason(run.id, Reason.WAITING_FOR_CHECKPOINT, detail)


async def _sources(state: SupervisorState, run: Run) -> list[Source]:
    if run.source_checkpoint_id is None and run.attempt == 0:
        return []
    return await state.db.read(launches.list_sources, run)
