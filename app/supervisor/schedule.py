"""Launching: queued runs, oldest first, as far as the machine's resources go.

    find a good checkpoint → write the spec → claim → launch

is one job for each start, so that a large checkpoint or a slow disk holds up nothing else.
The spec is on disk before the claim is on record: whoever finds a claimed attempt of which
there is no trace only has to launch it.
"""

import asyncio
from dataclasses import dataclass

from app.db.sql import load
from app.db.tables import Run
from app.domain.evidence import Evidence
from app.domain.failpoints import failpoint
from app.domain.lifecycle import CheckpointState as State
from app.domain.lifecycle import Reason, RunStatus
from app.domain.recipes import LOCAL, Recipe
from app.domain.resources import Allocation, Capacity, Resources, Shortage
from app.errors import Busy, Unavailable
from app.launchers.base import Launcher, LauncherError, Unreachable
from app.services import launches, runs
from app.services.launches import AnyRun, LiveRun, QueueCursor, Source, WaitingReason
from app.supervisor import launch_config, retrying, verifying
from app.supervisor.state import QueueSnapshot, SupervisorState, uses_files

QUEUE_PAGE = 200
COUNT_SECONDS = 5.0
FAILED_SECONDS = 5.0
"""After so long a run at which the service failed is looked at again."""
MOST_OF_ERROR = 300
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
        not await state.db.read(launches.list_queued, QueueCursor(), 1)
        or not await state.has_data_dir()
    ):
        return
    engines = await _engines(state)
    machine = tuple((name, e.capacity, tuple(e.in_use)) for name, e in engines.items())
    queue = await _snapshot(state, machine)
    while page := await state.db.read(launches.list_queued, queue.cursor, QUEUE_PAGE):
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
        queue.cursor = QueueCursor(page[-1].id)
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


async def _engines(state: SupervisorState) -> dict[str, Engine]:
    """Return what each launcher offers, and what runs hold of it."""
    engines = {}
    for name, launcher in state.launchers.items():
        engines[name] = engine = Engine(launcher, None, [])
        try:
            engine.capacity = await asyncio.to_thread(launcher.offer)
        except Unreachable as error:
            engine.trouble = str(error) or "The cluster cannot be reached."
    for launcher_name, allocation in state.starting.values():
        engines[launcher_name].in_use.append(allocation)
    live = await state.db.read(launches.list_launched)
    for run in [*live, *await state.db.read(launches.list_submitted)]:
        held_by = engines.get(run.launcher or LOCAL)
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
    engine = engines.get(recipe.launcher)
    if engine is None or engine.trouble is not None:
        queue.waiting += 1
        queue.look_again_at = min(queue.look_again_at, state.clock() + FAILED_SECONDS)
        unknown = f"The launcher {recipe.launcher!r} is not configured on this server."
        detail = engine.trouble if engine and engine.trouble else unknown
        return WaitingReason(run.id, Reason.WAITING_FOR_CLUSTER, detail)
    found = _admit(state, run, queue, engine)
    if isinstance(found, str):
        queue.waiting += 1
        return WaitingReason(run.id, Reason.WAITING_FOR_RESOURCES, found)
    queue.is_stuck = False
    sources = await _sources(state, run)
    if sources and sources[0].stored.state == State.PENDING:
        detail = f"{sources[0].named.ckpt_path} is still being written."
        return WaitingReason(run.id, Reason.WAITING_FOR_CHECKPOINT, detail)
    engine.in_use.append(found)
    _begin(state, run, recipe, found, sources)
    return None


def _admit(
    state: SupervisorState, run: Run, queue: QueueSnapshot, engine: Engine
) -> Allocation | str:
    """Return what is set aside for a run, or why it must wait.

    An engine with a queue of its own admits all that it could ever run.
    """
    resources, capacity, in_use = state.resources(run), engine.capacity, engine.in_use
    if engine.launcher.owns_queue or capacity is None:
        shortage = engine.launcher.check(resources)
        return shortage.detail if shortage else Allocation()
    reservations = queue.reservations[engine.launcher.name]
    found = reservations.allocate(resources, capacity, in_use)
    if isinstance(found, Shortage):
        if not found.impossible and reservations.add(resources, capacity, in_use):
            queue.holders.append(run.id)
        return found.detail
    if capacity.places is not None and len(in_use) >= capacity.places:
        return f"Needs a place to run; all {capacity.places} are taken."
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
        if await state.db.read(launches.count_waiting, last.cursor) != last.waiting:
            return new
        last.counted_at = now
    return last


def _held(state: SupervisorState, run: LiveRun) -> Allocation:
    try:
        resources = state.resources(run)
    except ValueError:  # its GPUs are on record beside what it asked for
        resources = Resources()
    return Allocation(tuple(load(run.gpus)), resources.cpus or 0, resources.memory_gb or 0)


def service_error(run: Run, error: Exception) -> WaitingReason:
    """Return why a queued run waits at which the service itself has failed."""
    return WaitingReason(run.id, Reason.SERVICE_ERROR, describe_failure(error))


def describe_failure(error: Exception) -> str:
    """Return one sentence about a failure of the service itself."""
    what = f"{type(error).__name__}: {error}"[:MOST_OF_ERROR]
    return f"The service failed at this run, and tries again: {what}"


async def _wait(state: SupervisorState, reason: WaitingReason) -> None:
    await state.db.write(launches.set_waiting_reasons, [reason])


def _slow(state: SupervisorState, run: Run) -> WaitingReason | None:
    """Return why a start that takes long is not over yet."""
    about = _about(run)
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


def _about(run: Run) -> str:
    return f"the start of {run.id}"


def _begin(
    state: SupervisorState, run: Run, recipe: Recipe, allocation: Allocation, sources: list[Source]
) -> None:
    state.starting[run.id] = recipe.launcher, allocation
    state.forget(run)  # the attempt before
    job = state.start_job(_about(run), _start(state, run, recipe, allocation, sources))

    def ended(_: object) -> None:
        state.starting.pop(run.id)
        state.unreadable.pop(_about(run), None)

    job.add_done_callback(ended)


async def _start(
    state: SupervisorState, run: Run, recipe: Recipe, allocation: Allocation, sources: list[Source]
) -> None:
    """Make one start; where the service fails at it, the run says so."""
    try:
        await _claim_and_launch(state, run, recipe, allocation, sources)
    except (Busy, Unavailable):  # the database's, which can record nothing now
        raise
    except OSError as error:  # such as a full disk: that passes
        detail = f"Its directory cannot be written: {error.strerror}."
        await _wait(state, WaitingReason(run.id, Reason.WAITING_FOR_RESOURCES, detail))
        raise
    except Exception as error:
        await _wait(state, service_error(run, error))
        raise


async def _claim_and_launch(
    state: SupervisorState, run: Run, recipe: Recipe, allocation: Allocation, sources: list[Source]
) -> None:
    """Finds a good checkpoint where one is needed, claims the launch and makes it."""
    source, unread = await verifying.find_good_source(state, _about(run), sources)
    detail = None
    if source is None and run.source_checkpoint_id is not None:
        ready = await state.db.read(runs.ready_in_lineage, run)
        exists = f"Ready: {', '.join(ready)}." if ready else "No checkpoint is ready."
        detail = f"{unread or f'{sources[0].named.ckpt_path} has no intact files.'} {exists}"
        await state.db.write(launches.fail_queued, run.id, Reason.CHECKPOINT_MISSING, detail)
        return
    if sources and (source is None or source.named.id != sources[0].named.id):
        instead = source.named.ckpt_path if source else "the beginning"
        why = unread or f"{sources[0].named.ckpt_path} is lost."
        detail = f"{why} This starts from {instead}."
    if not uses_files(state.launcher(run)):
        await _submit(state, run, recipe, source, detail)
        return
    spec = launch_config.spec(state, run, recipe, allocation.gpus, source)
    await asyncio.to_thread(launch_config.write_spec, state.run_dir(run.id), spec)
    failpoint("launch.before_claim")
    claimed = await state.db.write(
        launches.claim, run, allocation.gpus, source, detail, state.data_dir, allocation.host
    )
    if claimed is not None:
        failpoint("launch.claimed")
        await submit(state, claimed, recipe)


async def _submit(
    state: SupervisorState, run: Run, recipe: Recipe, source: Source | None, detail: str | None
) -> None:
    """Record the next attempt and give it to an engine, where its agent claims it."""
    ready = source if source is not None and source.stored.state == State.READY else None
    content = launch_config.remote_spec(state, run, recipe, ready)
    words = " ".join(filter(None, (detail, f"Submitted to {recipe.launcher}.")))
    failpoint("launch.before_claim")
    submitted = await state.db.write(
        launches.submit, run, recipe.launcher, ready, state.data_dir, state.secret, content, words
    )
    if submitted is not None:
        failpoint("launch.claimed")
        await submit(state, submitted, recipe)


async def submit(state: SupervisorState, run: AnyRun, recipe: Recipe) -> None:
    """Give a recorded attempt to its launcher. Safe to repeat: it starts once at most."""
    state.attempt(run).launched_at = state.clock()
    launcher = state.launcher(run)
    if not uses_files(launcher):
        await _submit_remote(state, launcher, run, recipe)
        return
    try:
        job = launch_config.local_job(state, run, recipe)
        await asyncio.to_thread(launcher.submit, job)
    except (LauncherError, OSError) as error:
        evidence = Evidence(False, launch_error=str(error))
        await state.db.write(
            launches.finish_attempt, run.id, run.attempt, evidence, recipe, frozenset()
        )
        state.forget(run)


async def _submit_remote(
    state: SupervisorState, launcher: Launcher, run: AnyRun, recipe: Recipe
) -> None:
    job = launch_config.remote_job(state, run)
    try:
        submission = await asyncio.to_thread(launcher.submit, job)
    except Unreachable as error:  # whether the engine has the job is seen when it is looked at
        state.log_throttled(launcher.name, "%s cannot be reached: %s", launcher.name, error)
    except LauncherError as error:
        evidence = Evidence(False, launch_error=str(error))
        await state.db.write(launches.end_submission, run.id, run.attempt, evidence, recipe)
        state.forget(run)
    else:
        if submission.engine_id is not None:
            record = launches.record_engine_id
            await state.db.write(record, run.id, run.attempt, submission.engine_id)
