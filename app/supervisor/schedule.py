"""Scheduling: queued runs by priority and fair shares, as far as their launchers' resources go.

The rules are in `domain.queue`; here are the looks at the machines and the queue, and what
follows. Each start is a job of its own (`start`), so that a large checkpoint or a slow disk holds
up nothing else.
"""

import asyncio
import math
from typing import NamedTuple

from app.domain.ids import seconds_between, timestamp
from app.domain.lifecycle import CheckpointState as State
from app.domain.lifecycle import Reason, RunStatus
from app.domain.priority import Priority
from app.domain.queue import AGING_SECONDS, FairOrder, Holder, Start, Wait, Waiting
from app.domain.recipes import LOCAL, Recipe
from app.domain.resources import Resources
from app.services import launches, live_runs, runs
from app.services.launches import WaitingReason
from app.services.live_runs import QueueCursor, QueuedRun
from app.supervisor import pools, retrying
from app.supervisor.memory import QueueSnapshot
from app.supervisor.pools import Engine, View
from app.supervisor.start import begin_start, name_of_start, service_error
from app.supervisor.state import BATCH, SupervisorState, uses_files
from app.supervisor.terminate import request_termination

QUEUE_PAGE = 1000
COUNT_SECONDS = 5.0
EXACT_POSITIONS = 100
FAILED_SECONDS = 5.0
"""Pause before a run that the service failed to handle is tried again."""
UNKNOWN_RECIPE = (
    "The recipe {!r} is not configured on this server: add it to the file of LLM_TRAIN_RECIPES "
    "and restart the server, or cancel the run."
)
Refusal = tuple[Reason, str]
"""Why one launcher cannot take a run now."""


class Look(NamedTuple):
    """One look at the queue: the machines, and how far it has come."""

    view: View
    queue: QueueSnapshot
    order: FairOrder
    words: dict[str, tuple[str | None, str | None]]
    """Why each run was last said to wait, without its place."""


async def launch(state: SupervisorState) -> None:
    """Start what can start; record for the rest why it waits.

    While nothing changes on the machine, only runs that are new in the queue are read. A run for
    which this fails holds up no other.
    """
    head = await state.db.read(live_runs.list_queued, QueueCursor(), 1)
    if not head or not await state.has_data_dir():
        return
    view = await pools.look(state, head[0])
    queue, queued = await _read_queue(state, view)
    by_id = {run.id: run for run in queued}
    now = timestamp()
    waiting = [_make_waiting(state, queue, run, now) for run in queued]
    if queue is not state.queue:
        said = state.waiting_words
        state.waiting_words = {id: said[id] for id in by_id if id in said}
    look = Look(view, queue, FairOrder(waiting, queue.plan.shares()), state.waiting_words)
    reasons: list[WaitingReason] = []
    for number, item in enumerate(look.order):
        run = by_id[item.id]
        try:
            reason = await _start_or_wait(state, look, run, item)
        except Exception as error:
            state.log_throttled(run.id, "run %s cannot be started", run.id, error=error)
            _look_again(state, queue, FAILED_SECONDS)
            reason = service_error(run, error)
        if reason is not None and (run.status_reason, run.status_detail) != reason[1:3]:
            reasons.append(reason)
        if number % BATCH == BATCH - 1:
            await asyncio.sleep(0)  # a long queue must not hold up requests
    if reasons:
        await state.db.write(launches.set_waiting_reasons, reasons)
    state.queue = queue if queue.is_stuck else None


def _with_position(
    look: Look, run: QueuedRun, item: Waiting, reason: WaitingReason
) -> WaitingReason:
    """Add a run's position among those that wait for its launcher; that of the first is plain.

    A position far behind is a round number, or each start would change the rows of a long queue.
    """
    launcher, said = item.launchers[0], (reason.reason, reason.detail)
    look.queue.positions[launcher] += 1
    position, about = look.queue.positions[launcher], ""
    known = look.words.get(run.id, (run.status_reason, run.status_detail))
    look.words[run.id] = said
    if position > EXACT_POSITIONS:
        position, about = math.ceil(position / EXACT_POSITIONS) * EXACT_POSITIONS, "about "
    suffix = "" if position == 1 else f" It is {about}number {position} in the queue."
    return reason._replace(detail=reason.detail + suffix, is_new=known != said)


async def _read_queue(state: SupervisorState, view: View) -> tuple[QueueSnapshot, list[QueuedRun]]:
    """Return the last look, if the next one only has to go on from it, and the runs to look at."""
    queue = await _get_snapshot(state, view)
    queued = await _read_after(state, queue.cursor)
    projects = queue.projects | {run.project_id for run in queued}
    if queue is state.queue and queued and len(projects) > 1:
        # Whose turn it is among projects is decided among all of their runs.
        queue = _take_snapshot(state, view)
        queued = await _read_after(state, queue.cursor)
    queue.projects = projects
    if queued:
        queue.cursor = QueueCursor(queued[-1].priority, queued[-1].id)
    return queue, queued


async def _read_after(state: SupervisorState, cursor: QueueCursor) -> list[QueuedRun]:
    queued: list[QueuedRun] = []
    while page := await state.db.read(live_runs.list_queued, cursor, QUEUE_PAGE):
        queued += page
        cursor = QueueCursor(page[-1].priority, page[-1].id)
        if len(page) < QUEUE_PAGE:
            break
        await asyncio.sleep(0)
    return queued


def _make_waiting(
    state: SupervisorState, queue: QueueSnapshot, run: QueuedRun, now: str
) -> Waiting:
    """Return a queued run as the rules of the queue see it."""
    waited = max(0.0, seconds_between(run.queued_at, now))
    # Its turn may come with its age.
    left = AGING_SECONDS - waited % AGING_SECONDS
    queue.look_again_at = min(queue.look_again_at, state.clock() + left)
    recipe = state.recipe(run)
    try:
        resources = state.resources(run)
    except ValueError:  # what is wrong with them is found in its turn
        resources = Resources()
    return Waiting(
        run.id, run.project_id, run.priority, waited, recipe.launcher if recipe else (LOCAL,),
        resources, may_preempt=run.status_reason != Reason.WAITING_FOR_CHECKPOINT,
    )  # fmt: skip


async def _start_or_wait(
    state: SupervisorState, look: Look, run: QueuedRun, item: Waiting
) -> WaitingReason | None:
    """Begin the start of a queued run, or return why it waits; None: that is on record."""
    queue, recipe = look.queue, state.recipe(run)
    if recipe is None:
        # A server that was started without its file of recipes must not end the queue.
        queue.waiting += 1
        detail = UNKNOWN_RECIPE.format(run.recipe)
        return WaitingReason(run.id, Reason.WAITING_FOR_RESOURCES, detail)
    if run.id in state.starting:
        queue.is_stuck = False
        return _explain_slow_start(state, run)
    if (left := retrying.seconds_left(state, run, recipe)) > 0:
        _look_again(state, queue, left)
        return None
    state.resources(run)  # raises what is wrong with them
    decision, refusals = _decide(state, look, item, recipe)
    if isinstance(decision, Start):
        return await _start(state, look, item, recipe, decision)
    await _wait(state, look, run, decision)
    if decision.reason is Reason.WAITING_FOR_QUOTA:
        reason = WaitingReason(run.id, decision.reason, decision.detail)
        return _with_position(look, run, item, reason)
    reason = _combine(run, recipe, refusals)
    # One that can never start waits for its operator, and has no place.
    has_place = decision.has_place or reason.reason is Reason.WAITING_FOR_CLUSTER
    return _with_position(look, run, item, reason) if has_place else reason


def _combine(run: QueuedRun, recipe: Recipe, refusals: dict[str, Refusal]) -> WaitingReason:
    """Return why none of a run's launchers takes it now, in one text."""
    first = refusals[recipe.launcher[0]]
    if len(refusals) == 1:
        return WaitingReason(run.id, *first)
    details = (f"{name}: {refusals[name][1]}" for name in recipe.launcher if name in refusals)
    return WaitingReason(run.id, first[0], " ".join(details))


def _decide(
    state: SupervisorState, look: Look, item: Waiting, recipe: Recipe
) -> tuple[Start | Wait, dict[str, Refusal]]:
    """Return what a run gets, or that it waits and why none of its launchers takes it now."""
    refusals: dict[str, Refusal] = {}
    names: list[str] = []
    for name in recipe.launcher:
        engine = look.view.engines.get(name)
        refusal = _refuse(state, look.queue, item.resources, name, engine)
        if refusal is None:
            names.append(name)
        else:
            refusals[name] = refusal
        if engine is not None and engine.is_new:
            break  # a server that has just started would pass over the first choice of all
    while True:
        decision = look.queue.plan.consider(item._replace(launchers=tuple(names)))
        if isinstance(decision, Wait):
            for name, detail in decision.details:
                refusals[name] = Reason.WAITING_FOR_RESOURCES, detail
            return decision, refusals
        engine = look.view.engines[decision.launcher]
        most = engine.launcher.max_pending
        if most is None or engine.waiting < most:
            return decision, refusals
        detail = f"At most {most} jobs wait in the queue of {decision.launcher} at a time."
        refusals[decision.launcher] = Reason.WAITING_FOR_CLUSTER, detail
        names.remove(decision.launcher)


def _refuse(
    state: SupervisorState, queue: QueueSnapshot, resources: Resources, name: str,
    engine: Engine | None,
) -> Refusal | None:  # fmt: skip
    """Return why a launcher cannot be considered for a run; None if it can."""
    if engine is None or engine.trouble is not None:
        queue.look_again_at = min(queue.look_again_at, state.clock() + FAILED_SECONDS)
        unknown = f"The launcher {name!r} is not configured on this server."
        detail = engine.trouble if engine and engine.trouble else unknown
        return Reason.WAITING_FOR_CLUSTER, detail
    if uses_files(engine.launcher):
        return None  # what this machine lacks is found by the plan
    shortage = engine.launcher.check(resources)
    return None if shortage is None else (Reason.WAITING_FOR_RESOURCES, shortage.detail)


async def _wait(state: SupervisorState, look: Look, run: QueuedRun, decision: Wait) -> None:
    """Count a run that waits; those that are to yield to it are told so."""
    look.queue.waiting += 1
    if decision.reserves or decision.preempts:
        look.queue.holders.append(run.id)
    for holder in decision.preempts:
        await _preempt(state, look.view, run, holder)


async def _preempt(state: SupervisorState, view: View, run: QueuedRun, holder: Holder) -> None:
    """Cancel a run with a save, which is queued again then; `running` sees to it from here on."""
    # The members of its project may not know which runs there are in others.
    whom = run.id if run.project_id == holder.project_id else "a run of another project"
    detail = f"Makes room for {whom}, whose priority is {Priority.of_rank(run.priority)}."
    live = view.live[holder.run_id]
    if await request_termination(state, live, Reason.PREEMPTED, detail):
        state.wakeup.set()


async def _start(
    state: SupervisorState, look: Look, item: Waiting, recipe: Recipe, decision: Start
) -> WaitingReason | None:
    """Begin the start of a run for which there is room, unless its checkpoint is not there yet."""
    look.queue.is_stuck = False
    run = await state.db.read(runs.get, item.id)
    if run.status != RunStatus.QUEUED or run.submitted_at is not None:
        return None
    sources = []
    if run.source_checkpoint_id is not None or run.attempt:
        sources = await state.db.read(launches.list_sources, run)
    if sources and sources[0].stored.state == State.PENDING:
        detail = f"{sources[0].named.ckpt_path} is still being written."
        return WaitingReason(run.id, Reason.WAITING_FOR_CHECKPOINT, detail)
    share = look.queue.plan.start(item, decision)
    look.order.add_share(item.project_id, share)
    look.view.engines[decision.launcher].waiting += 1
    held = Holder(
        run.id, item.project_id, item.priority, decision.allocation, item.gpus, timestamp()
    )
    begin_start(state, run, recipe, decision.launcher, held, sources)
    return None


def _look_again(state: SupervisorState, queue: QueueSnapshot, seconds: float) -> None:
    """Count a run that waits, and look at the whole queue again after some seconds."""
    queue.waiting += 1
    queue.look_again_at = min(queue.look_again_at, state.clock() + seconds)


def _take_snapshot(state: SupervisorState, view: View) -> QueueSnapshot:
    return QueueSnapshot(view.signature(), state.clock(), plan=view.plan())


async def _get_snapshot(state: SupervisorState, view: View) -> QueueSnapshot:
    """Return the last look at the queue, where the next one need only go on from it."""
    now, new = state.clock(), _take_snapshot(state, view)
    last = state.queue
    if last is None or last.machine != new.machine or now >= last.look_again_at:
        return new
    # Once the runs that others wait behind are gone, the others are read again.
    for holder in last.holders:
        if (await state.db.read(runs.get, holder)).status != RunStatus.QUEUED:
            return new
    # A clock that was set back, or a slow transaction, puts a new run before those that were seen.
    if now - last.counted_at >= COUNT_SECONDS:
        if await state.db.read(live_runs.count_waiting, last.cursor) != last.waiting:
            return new
        last.counted_at = now
    return last


def _explain_slow_start(state: SupervisorState, run: QueuedRun) -> WaitingReason | None:
    """Return why a start that takes long is not over yet."""
    about = name_of_start(run)
    if about in state.unreadable:
        detail = f"{state.unreadable[about][1]} It is tried again."
    elif run.source_ckpt_path is not None and state.is_slow(about):
        detail = f"{run.source_ckpt_path} is being verified."
    else:
        return None
    return WaitingReason(run.id, Reason.WAITING_FOR_CHECKPOINT, detail)
