"""Launching: queued runs, oldest first, as far as the machine's resources go.

    find a good checkpoint → write the spec → claim → launch

is one job for each start, so that a large checkpoint or a slow disk holds up nothing else.
The spec is on disk before the claim is on record: whoever finds a claimed attempt of which
there is no trace only has to launch it.
"""

import asyncio
import time

from app.domain.evidence import Evidence
from app.domain.failpoints import failpoint
from app.domain.lifecycle import CheckpointState as State
from app.domain.lifecycle import Reason, RunStatus
from app.domain.recipes import Recipe
from app.domain.resources import Allocation, Shortage, allocate
from app.launchers.base import LauncherError
from app.services import launches, runs
from app.services.launches import Place, Source
from app.store.sql import load
from app.store.tables import Run
from app.supervisor import planning, verifying
from app.supervisor.desk import Desk, Stuck

QUEUE_PAGE = 200
COUNT_SECONDS = 5.0
UNKNOWN_RECIPE = (
    "The recipe {!r} is not configured on this server: add it to the file of LLM_TRAIN_RECIPES "
    "and restart the server, or cancel the run."
)


async def launch(desk: Desk) -> None:
    """Starts what can start; says of the rest why it waits.

    While nothing changes on the machine, only runs that are new in the queue are looked at.
    """
    if not await desk.db.read(launches.queued, Place(), 1) or not await desk.in_place():
        return
    in_use = [*desk.starting.values()]
    for run in await desk.db.read(launches.launched):
        # What a dead trainer held is free, though its checkpoints may still be read.
        if run.recipe and run.id not in desk.starting and (run.id, run.attempt) not in desk.over:
            in_use.append(_held(desk, run))
    capacity = await asyncio.to_thread(desk.launcher.capacity)
    machine = (capacity, tuple(in_use))
    wants_gpus: str | None = None
    place, waiting, counted_at, stuck = Place(), 0, time.monotonic(), True
    if (last := await _stuck(desk, machine)) is not None:
        _, place, waiting, wants_gpus, counted_at = last
    while queue := await desk.db.read(launches.queued, place, QUEUE_PAGE):
        for run in queue:
            recipe = desk.recipe(run)
            if recipe is None:
                # A server that was started without its file of recipes must not end the queue.
                detail = UNKNOWN_RECIPE.format(run.recipe)
                await _wait(desk, run, Reason.WAITING_FOR_RESOURCES, detail)
                waiting += 1
                continue
            if run.id in desk.starting:
                stuck = False
                await _say_if_slow(desk, run)
                continue
            resources = desk.resources(run)
            found = allocate(resources, capacity, in_use)
            if isinstance(found, Allocation) and resources.count and wants_gpus:
                found = Shortage("Waits behind an older run that needs GPUs.", False)
            elif isinstance(found, Allocation) and len(in_use) >= desk.settings.max_local_runs:
                places = desk.settings.max_local_runs
                found = Shortage(f"Needs a place to run; all {places} are taken.", False)
            if isinstance(found, Shortage):
                # Small runs must not overtake a large one for ever.
                if resources.count and not found.impossible:
                    wants_gpus = wants_gpus or run.id
                await _wait(desk, run, Reason.WAITING_FOR_RESOURCES, found.detail)
                waiting += 1
                continue
            stuck = False
            sources = await _sources(desk, run)
            if sources and sources[0].stored.state == State.PENDING:
                detail = f"{sources[0].named.ckpt_path} is still being written."
                await _wait(desk, run, Reason.WAITING_FOR_CHECKPOINT, detail)
                continue
            in_use.append(found)
            _begin(desk, run, recipe, found, sources)
        place = Place(queue[-1].id)
        await asyncio.sleep(0)  # a long queue must not hold up requests
    desk.queue_stuck = Stuck(machine, place, waiting, wants_gpus, counted_at) if stuck else None


async def _stuck(desk: Desk, machine: object) -> Stuck | None:
    """The last look at the queue, where the next one need only go on from it."""
    last = desk.queue_stuck
    if last is None or last.machine != machine:
        return None
    # Without the run that others wait behind, they are looked at again.
    first = last.wants_gpus
    if first is not None and (await desk.db.read(runs.get, first)).status != RunStatus.QUEUED:
        return None
    # A clock that was set back, or a slow transaction, puts a new run before those that were seen.
    if time.monotonic() - last.counted_at >= COUNT_SECONDS:
        if await desk.db.read(launches.waiting, last.place) != last.waiting:
            return None
        last = last._replace(counted_at=time.monotonic())
    return last


def _held(desk: Desk, run: Run) -> Allocation:
    resources = desk.resources(run)
    return Allocation(tuple(load(run.gpus)), resources.cpus or 0, resources.memory_gb or 0)


async def _wait(desk: Desk, run: Run, reason: Reason, detail: str) -> None:
    if (run.status_reason, run.status_detail) != (reason, detail):
        await desk.db.write(launches.wait, run.id, reason, detail)


async def _say_if_slow(desk: Desk, run: Run) -> None:
    about = _about(run)
    if about in desk.unreadable:
        detail = f"{desk.unreadable[about][1]} It is tried again."
    elif run.source_ckpt_path is not None and desk.slow(about):
        detail = f"{run.source_ckpt_path} is being verified."
    else:
        return
    await _wait(desk, run, Reason.WAITING_FOR_CHECKPOINT, detail)


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
    job = desk.begin(_about(run), _start(desk, run, recipe, allocation, sources))

    def ended(_: object) -> None:
        desk.starting.pop(run.id)
        desk.unreadable.pop(_about(run), None)

    job.add_done_callback(ended)


async def _start(
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
    spec = planning.spec(desk, run, recipe, allocation.gpus, source)
    try:
        await asyncio.to_thread(planning.write_spec, desk.run_dir(run.id), spec)
    except OSError as error:  # such as a full disk: that passes
        detail = f"Its directory cannot be written: {error.strerror}."
        await _wait(desk, run, Reason.WAITING_FOR_RESOURCES, detail)
        raise
    failpoint("launch.before_claim")
    claimed = await desk.db.write(
        launches.claim, run, allocation.gpus, source, detail, desk.data_dir
    )
    if claimed is not None:
        failpoint("launch.claimed")
        await act(desk, claimed, recipe)


async def act(desk: Desk, run: Run, recipe: Recipe) -> None:
    """Launches a claimed attempt. Safe to repeat: the launcher starts it once at most."""
    desk.launched_at[run.id, run.attempt] = time.monotonic()
    try:
        plan = planning.plan(desk, run, recipe)
        await asyncio.to_thread(desk.launcher.launch, plan)
    except (LauncherError, OSError) as error:
        evidence = Evidence(False, launch_error=str(error))
        await desk.db.write(launches.end, run.id, run.attempt, evidence, recipe, frozenset())
        desk.forget((run.id, run.attempt))
