"""Launching: queued runs, oldest first, as far as the machine's resources go."""

import asyncio
import time

from app.domain.evidence import Evidence
from app.domain.failpoints import failpoint
from app.domain.lifecycle import CheckpointState as State
from app.domain.lifecycle import Reason
from app.domain.recipes import Recipe
from app.domain.resources import Allocation, Shortage, allocate
from app.launchers.base import LauncherError
from app.services import launches
from app.services.launches import Source
from app.store.sql import load
from app.store.tables import Run
from app.supervisor import planning, verifying
from app.supervisor.desk import Desk

QUEUE_PAGE = 200


async def launch(desk: Desk) -> None:
    """Starts what can start; says of the rest why it waits."""
    queue = await desk.db.read(launches.queued, QUEUE_PAGE)
    if not queue:
        return
    active = [run for run in await desk.db.read(launches.launched) if run.recipe is not None]
    in_use = [_held(desk, run) for run in active]
    capacity = await asyncio.to_thread(desk.launcher.capacity)
    gpus_wanted = False
    for run in queue:
        recipe = desk.recipe(run)
        if recipe is None:
            await desk.db.write(
                launches.refuse, run.id, Reason.LAUNCHER_ERROR,
                f"The recipe {run.recipe!r} is no longer configured.",
            )  # fmt: skip
            continue
        resources = desk.resources(run)
        found = allocate(resources, capacity, in_use)
        if isinstance(found, Allocation) and resources.count and gpus_wanted:
            found = Shortage("Waits behind an older run that needs GPUs.", False)
        elif isinstance(found, Allocation) and len(in_use) >= desk.settings.max_local_runs:
            found = Shortage(
                f"Needs a place to run; all {desk.settings.max_local_runs} are taken.", False
            )
        if isinstance(found, Shortage):
            # Small runs must not overtake a large one for ever.
            gpus_wanted |= bool(resources.count) and not found.impossible
            await desk.db.write(launches.wait, run.id, Reason.WAITING_FOR_RESOURCES, found.detail)
        elif await _start(desk, run, recipe, found):
            in_use.append(found)


def _held(desk: Desk, run: Run) -> Allocation:
    resources = desk.resources(run)
    return Allocation(tuple(load(run.gpus)), resources.cpus or 0, resources.memory_gb or 0)


async def _start(desk: Desk, run: Run, recipe: Recipe, allocation: Allocation) -> bool:
    """Finds a good checkpoint where one is needed, claims the launch and makes it."""
    source: Source | None = None
    detail = None
    if run.source_checkpoint_id is not None or run.attempt > 0:
        candidates = await desk.db.read(launches.sources, run)
        wanted = candidates[0] if candidates else None
        if wanted is not None and wanted.stored.state == State.PENDING:
            await desk.db.write(
                launches.wait, run.id, Reason.WAITING_FOR_CHECKPOINT,
                f"{wanted.named.ckpt_path} is still being written.",
            )  # fmt: skip
            return False
        source = await verifying.first_good(desk, candidates)
        if source is None and wanted is not None and run.source_checkpoint_id is not None:
            ready = await desk.db.read(launches.ready_in_lineage, run)
            exists = f"Ready: {', '.join(ready)}." if ready else "No checkpoint is ready."
            await desk.db.write(
                launches.refuse, run.id, Reason.CHECKPOINT_MISSING,
                f"{wanted.named.ckpt_path} has no intact files. {exists}",
            )  # fmt: skip
            return False
        if source is not None and wanted is not None and source.named.id != wanted.named.id:
            detail = f"{wanted.named.ckpt_path} is lost; this starts from {source.named.ckpt_path}."
    failpoint("launch.before_claim")
    claimed = await desk.db.write(
        launches.claim, run.id, allocation.gpus, source.named if source else None, detail
    )
    if claimed is None:
        return False
    failpoint("launch.claimed")
    await act(desk, claimed, recipe, source)
    return True


async def act(desk: Desk, run: Run, recipe: Recipe, source: Source | None) -> None:
    """Launches a claimed attempt. Safe to repeat: the launcher starts it once at most."""
    resume = None
    if source is not None and source.stored.state == State.READY:
        resume = (source.named, desk.checkpoint_dir(source.stored.ckpt_path))
    desk.launched_at[run.id, run.attempt] = time.monotonic()
    try:
        plan = planning.plan(desk, run, recipe)
        await asyncio.to_thread(planning.write_spec, plan.run_dir, planning.spec(desk, run, resume))
        await asyncio.to_thread(desk.launcher.launch, plan)
        desk.watch((run.id, run.attempt))
    except (LauncherError, OSError) as error:
        await desk.db.write(
            launches.end, run.id, run.attempt, Evidence(False, launch_error=str(error)), recipe
        )


async def relaunch(desk: Desk, run: Run, recipe: Recipe) -> None:
    """Launches a claimed attempt of which there is no trace: its server died in between."""
    source = await verifying.first_good(desk, await desk.db.read(launches.sources, run))
    await act(desk, run, recipe, source)
