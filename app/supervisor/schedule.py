"""Launching: queued runs, oldest first, as far as the machine's resources go.

    find a good checkpoint → write the spec → claim → launch

is one job for each start, so that a large checkpoint or a slow disk holds up nothing else.
The spec is on disk before the claim is on record: whoever finds a claimed attempt of which
there is no trace only has to launch it.
"""

import asyncio

from app.db.sql import load
from app.db.tables import Run
from app.domain.evidence import Evidence
from app.domain.failpoints import failpoint
from app.domain.lifecycle import CheckpointState as State
from app.domain.lifecycle import Reason, RunStatus
from app.domain.recipes import Recipe
from app.domain.resources import Allocation, Capacity, Resources, Shortage
from app.errors import Busy, Unavailable
from app.launchers.base import LauncherError
from app.services import launches, runs
from app.services.launches import AnyRun, LiveRun, Place, Source, WaitingReason
from app.supervisor import launch_config, retrying, verifying
from app.supervisor.state import Desk, QueueSnapshot

QUEUE_PAGE = 200
COUNT_SECONDS = 5.0
FAILED_SECONDS = 5.0
"""After so long a run at which the service failed is looked at again."""
MOST_OF_ERROR = 300
UNKNOWN_RECIPE = (
    "The recipe {!r} is not configured on this server: add it to the file of LLM_TRAIN_RECIPES "
    "and restart the server, or cancel the run."
)


async def launch(desk: Desk) -> None:
    """Start what can start; record for the rest why it waits.

    While nothing changes on the machine, only runs that are new in the queue are looked at. A run
    at which this fails holds up no other.
    """
    if not await desk.db.read(launches.queued, Place(), 1) or not await desk.in_place():
        return
    in_use = await _in_use(desk)
    capacity = await asyncio.to_thread(desk.launcher.capacity)
    queue = await _snapshot(desk, (capacity, tuple(in_use)))
    while page := await desk.db.read(launches.queued, queue.place, QUEUE_PAGE):
        waiting: list[WaitingReason] = []
        for run in page:
            try:
                reason = await _start_or_wait(desk, run, queue, capacity, in_use)
            except Exception as error:
                desk.log_throttled(run.id, "run %s cannot be started", run.id, error=error)
                queue.waiting += 1
                queue.look_again_at = min(queue.look_again_at, desk.clock() + FAILED_SECONDS)
                reason = service_error(run, error)
            if reason is not None and (run.status_reason, run.status_detail) != reason[1:]:
                waiting.append(reason)
        if waiting:
            await desk.db.write(launches.set_waiting_reasons, waiting)
        queue.place = Place(page[-1].id)
        await asyncio.sleep(0)  # a long queue must not hold up requests
    desk.queue = queue if queue.is_stuck else None


async def _in_use(desk: Desk) -> list[Allocation]:
    """Return what runs hold on this machine; those on others hold nothing here."""
    in_use = [*desk.starting.values()]
    for run in await desk.db.read(launches.launched):
        here = run.host in (None, desk.launcher.host)
        # What a dead trainer held is free, though its checkpoints may still be read.
        if here and run.id not in desk.starting and not desk.attempt(run).is_over:
            in_use.append(_held(desk, run))
    return in_use


async def _start_or_wait(
    desk: Desk, run: Run, queue: QueueSnapshot, capacity: Capacity, in_use: list[Allocation]
) -> WaitingReason | None:
    """Begin the start of a queued run, or return why it waits; None: that is on record."""
    recipe = desk.recipe(run)
    if recipe is None:
        # A server that was started without its file of recipes must not end the queue.
        queue.waiting += 1
        detail = UNKNOWN_RECIPE.format(run.recipe)
        return WaitingReason(run.id, Reason.WAITING_FOR_RESOURCES, detail)
    if run.id in desk.starting:
        queue.is_stuck = False
        return _slow(desk, run)
    if (left := retrying.seconds_left(desk, run, recipe)) > 0:
        queue.waiting += 1
        queue.look_again_at = min(queue.look_again_at, desk.clock() + left)
        return None
    resources = desk.resources(run)
    found = queue.reservations.allocate(resources, capacity, in_use)
    if isinstance(found, Shortage):
        queue.waiting += 1
        if not found.impossible and queue.reservations.add(resources, capacity, in_use):
            queue.holders.append(run.id)
        return WaitingReason(run.id, Reason.WAITING_FOR_RESOURCES, found.detail)
    if len(in_use) >= (places := desk.settings.max_local_runs):
        queue.waiting += 1
        detail = f"Needs a place to run; all {places} are taken."
        return WaitingReason(run.id, Reason.WAITING_FOR_RESOURCES, detail)
    queue.is_stuck = False
    sources = await _sources(desk, run)
    if sources and sources[0].stored.state == State.PENDING:
        detail = f"{sources[0].named.ckpt_path} is still being written."
        return WaitingReason(run.id, Reason.WAITING_FOR_CHECKPOINT, detail)
    in_use.append(found)
    _begin(desk, run, recipe, found, sources)
    return None


async def _snapshot(desk: Desk, machine: object) -> QueueSnapshot:
    """Return the last look at the queue, where the next one need only go on from it."""
    now, new = desk.clock(), QueueSnapshot(machine, desk.clock())
    last = desk.queue
    if last is None or last.machine != machine or now >= last.look_again_at:
        return new
    # Without the runs that others wait behind, they are looked at again.
    for holder in last.holders:
        if (await desk.db.read(runs.get, holder)).status != RunStatus.QUEUED:
            return new
    # A clock that was set back, or a slow transaction, puts a new run before those that were seen.
    if now - last.counted_at >= COUNT_SECONDS:
        if await desk.db.read(launches.waiting, last.place) != last.waiting:
            return new
        last.counted_at = now
    return last


def _held(desk: Desk, run: LiveRun) -> Allocation:
    try:
        resources = desk.resources(run)
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


async def _wait(desk: Desk, reason: WaitingReason) -> None:
    await desk.db.write(launches.set_waiting_reasons, [reason])


def _slow(desk: Desk, run: Run) -> WaitingReason | None:
    """Return why a start that takes long is not over yet."""
    about = _about(run)
    if about in desk.unreadable:
        detail = f"{desk.unreadable[about][1]} It is tried again."
    elif run.source_ckpt_path is not None and desk.slow(about):
        detail = f"{run.source_ckpt_path} is being verified."
    else:
        return None
    return WaitingReason(run.id, Reason.WAITING_FOR_CHECKPOINT, detail)


async def _sources(desk: Desk, run: Run) -> list[Source]:
    if run.source_checkpoint_id is None and run.attempt == 0:
        return []
    return await desk.db.read(launches.sources, run)


def _about(run: Run) -> str:
    return f"the start of {run.id}"


def _begin(
    desk: Desk, run: Run, recipe: Recipe, allocation: Allocation, sources: list[Source]
) -> None:
    desk.starting[run.id] = allocation
    desk.forget(run)  # the attempt before
    job = desk.begin(_about(run), _start(desk, run, recipe, allocation, sources))

    def ended(_: object) -> None:
        desk.starting.pop(run.id)
        desk.unreadable.pop(_about(run), None)

    job.add_done_callback(ended)


async def _start(
    desk: Desk, run: Run, recipe: Recipe, allocation: Allocation, sources: list[Source]
) -> None:
    """Make one start; where the service fails at it, the run says so."""
    try:
        await _claim_and_launch(desk, run, recipe, allocation, sources)
    except (Busy, Unavailable):  # the database's, which can record nothing now
        raise
    except OSError as error:  # such as a full disk: that passes
        detail = f"Its directory cannot be written: {error.strerror}."
        await _wait(desk, WaitingReason(run.id, Reason.WAITING_FOR_RESOURCES, detail))
        raise
    except Exception as error:
        await _wait(desk, service_error(run, error))
        raise


async def _claim_and_launch(
    desk: Desk, run: Run, recipe: Recipe, allocation: Allocation, sources: list[Source]
) -> None:
    """Finds a good checkpoint where one is needed, claims the launch and makes it."""
    source, unread = await verifying.first_good(desk, _about(run), sources)
    detail = None
    if source is None and run.source_checkpoint_id is not None:
        ready = await desk.db.read(runs.ready_in_lineage, run)
        exists = f"Ready: {', '.join(ready)}." if ready else "No checkpoint is ready."
        detail = f"{unread or f'{sources[0].named.ckpt_path} has no intact files.'} {exists}"
        await desk.db.write(launches.refuse, run.id, Reason.CHECKPOINT_MISSING, detail)
        return
    if sources and (source is None or source.named.id != sources[0].named.id):
        instead = source.named.ckpt_path if source else "the beginning"
        why = unread or f"{sources[0].named.ckpt_path} is lost."
        detail = f"{why} This starts from {instead}."
    spec = launch_config.spec(desk, run, recipe, allocation.gpus, source)
    await asyncio.to_thread(launch_config.write_spec, desk.run_dir(run.id), spec)
    failpoint("launch.before_claim")
    claimed = await desk.db.write(
        launches.claim, run, allocation.gpus, source, detail, desk.data_dir, desk.launcher.host
    )
    if claimed is not None:
        failpoint("launch.claimed")
        await act(desk, claimed, recipe)


async def act(desk: Desk, run: AnyRun, recipe: Recipe) -> None:
    """Launches a claimed attempt. Safe to repeat: the launcher starts it once at most."""
    desk.attempt(run).launched_at = desk.clock()
    try:
        plan = launch_config.plan(desk, run, recipe)
        await asyncio.to_thread(desk.launcher.launch, plan)
    except (LauncherError, OSError) as error:
        evidence = Evidence(False, launch_error=str(error))
        await desk.db.write(launches.end, run.id, run.attempt, evidence, recipe, frozenset())
        desk.forget(run)
