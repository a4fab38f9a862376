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
from app.services.launches import AnyRun, LiveRun, Place, Source, WaitingReason
from app.supervisor import launch_config, retrying, verifying
from app.supervisor.state import Desk, QueueSnapshot, uses_files

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
    engines = await _engines(desk)
    machine = tuple((name, e.capacity, tuple(e.in_use)) for name, e in engines.items())
    queue = await _snapshot(desk, machine)
    while page := await desk.db.read(launches.queued, queue.place, QUEUE_PAGE):
        waiting: list[WaitingReason] = []
        for run in page:
            try:
                reason = await _start_or_wait(desk, run, queue, engines)
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


@dataclass
class Engine:
    """A launcher as the queue sees it in one step."""

    launcher: Launcher
    capacity: Capacity | None
    """None: the engine admits, or cannot be asked now."""
    in_use: list[Allocation]
    trouble: str | None = None
    """Why the engine cannot be asked now."""


async def _engines(desk: Desk) -> dict[str, Engine]:
    """Return what each launcher offers, and what runs hold of it."""
    engines = {}
    for name, launcher in desk.launchers.items():
        engines[name] = engine = Engine(launcher, None, [])
        try:
            engine.capacity = await asyncio.to_thread(launcher.offer)
        except Unreachable as error:
            engine.trouble = str(error) or "The cluster cannot be reached."
    for launcher_name, allocation in desk.starting.values():
        engines[launcher_name].in_use.append(allocation)
    live = await desk.db.read(launches.launched)
    for run in [*live, *await desk.db.read(launches.submitted)]:
        held_by = engines.get(run.launcher or LOCAL)
        if held_by is None or held_by.capacity is None:
            continue
        here = held_by.capacity.host is None or run.host in (None, held_by.capacity.host)
        # What a dead trainer held is free, though its checkpoints may still be read.
        if here and run.id not in desk.starting and not desk.attempt(run).is_over:
            held_by.in_use.append(_held(desk, run))
    return engines


async def _start_or_wait(
    desk: Desk, run: Run, queue: QueueSnapshot, engines: dict[str, Engine]
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
    engine = engines.get(recipe.launcher)
    if engine is None or engine.trouble is not None:
        queue.waiting += 1
        queue.look_again_at = min(queue.look_again_at, desk.clock() + FAILED_SECONDS)
        unknown = f"The launcher {recipe.launcher!r} is not configured on this server."
        detail = engine.trouble if engine and engine.trouble else unknown
        return WaitingReason(run.id, Reason.WAITING_FOR_CLUSTER, detail)
    found = _admit(desk, run, queue, engine)
    if isinstance(found, str):
        queue.waiting += 1
        return WaitingReason(run.id, Reason.WAITING_FOR_RESOURCES, found)
    queue.is_stuck = False
    sources = await _sources(desk, run)
    if sources and sources[0].stored.state == State.PENDING:
        detail = f"{sources[0].named.ckpt_path} is still being written."
        return WaitingReason(run.id, Reason.WAITING_FOR_CHECKPOINT, detail)
    engine.in_use.append(found)
    _begin(desk, run, recipe, found, sources)
    return None


def _admit(desk: Desk, run: Run, queue: QueueSnapshot, engine: Engine) -> Allocation | str:
    """Return what is set aside for a run, or why it must wait.

    An engine with a queue of its own admits all that it could ever run.
    """
    resources, capacity, in_use = desk.resources(run), engine.capacity, engine.in_use
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
    desk.starting[run.id] = recipe.launcher, allocation
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
    if not uses_files(desk.launcher(run)):
        await _submit(desk, run, recipe, source, detail)
        return
    spec = launch_config.spec(desk, run, recipe, allocation.gpus, source)
    await asyncio.to_thread(launch_config.write_spec, desk.run_dir(run.id), spec)
    failpoint("launch.before_claim")
    claimed = await desk.db.write(
        launches.claim, run, allocation.gpus, source, detail, desk.data_dir, allocation.host
    )
    if claimed is not None:
        failpoint("launch.claimed")
        await submit(desk, claimed, recipe)


async def _submit(
    desk: Desk, run: Run, recipe: Recipe, source: Source | None, detail: str | None
) -> None:
    """Record the next attempt and give it to an engine, where its agent claims it."""
    ready = source if source is not None and source.stored.state == State.READY else None
    content = launch_config.remote_spec(desk, run, recipe, ready)
    words = " ".join(filter(None, (detail, f"Submitted to {recipe.launcher}.")))
    failpoint("launch.before_claim")
    submitted = await desk.db.write(
        launches.submit, run, recipe.launcher, ready, desk.data_dir, desk.secret, content, words
    )
    if submitted is not None:
        failpoint("launch.claimed")
        await submit(desk, submitted, recipe)


async def submit(desk: Desk, run: AnyRun, recipe: Recipe) -> None:
    """Give a recorded attempt to its launcher. Safe to repeat: it starts once at most."""
    desk.attempt(run).launched_at = desk.clock()
    launcher = desk.launcher(run)
    if not uses_files(launcher):
        await _submit_remote(desk, launcher, run, recipe)
        return
    try:
        job = launch_config.local_job(desk, run, recipe)
        await asyncio.to_thread(launcher.submit, job)
    except (LauncherError, OSError) as error:
        evidence = Evidence(False, launch_error=str(error))
        await desk.db.write(launches.end, run.id, run.attempt, evidence, recipe, frozenset())
        desk.forget(run)


async def _submit_remote(desk: Desk, launcher: Launcher, run: AnyRun, recipe: Recipe) -> None:
    job = launch_config.remote_job(desk, run)
    try:
        submission = await asyncio.to_thread(launcher.submit, job)
    except Unreachable as error:  # whether the engine has the job is seen when it is looked at
        desk.log_throttled(launcher.name, "%s cannot be reached: %s", launcher.name, error)
    except LauncherError as error:
        evidence = Evidence(False, launch_error=str(error))
        await desk.db.write(launches.end_submission, run.id, run.attempt, evidence, recipe)
        desk.forget(run)
    else:
        if submission.engine_id is not None:
            record = launches.record_engine_id
            await desk.db.write(record, run.id, run.attempt, submission.engine_id)
