"""One start, a job of its own: find a good checkpoint → write the spec → claim → submit.

spec.json is on disk before the claim is on record, so that after a crash any server can launch
the claimed attempt.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from llm_train.arguments import BadArgument

from app import tracing
from app.db.sql import load
from app.db.tables import Run
from app.domain import paths
from app.domain.evidence import Evidence
from app.domain.failpoints import failpoint
from app.domain.lifecycle import CheckpointState as State
from app.domain.lifecycle import Reason
from app.domain.queue import Holder
from app.domain.recipes import Recipe
from app.domain.resources import Allocation
from app.errors import Busy, Unavailable
from app.launchers.base import Launcher, LauncherError, Unreachable
from app.services import endings, launches, resuming, runs
from app.services.launches import Source, WaitingReason
from app.services.live_runs import AnyRun, QueuedRun
from app.supervisor import engines, launch_config, verifying
from app.supervisor.state import SupervisorState, uses_files

MAX_ERROR_LENGTH = 300
NO_FILES = " has no intact files."


def name_of_start(run: AnyRun | QueuedRun) -> str:
    """Return the name of the job that starts a run."""
    return f"the start of {run.id}"


def begin_start(
    state: SupervisorState, run: Run, recipe: Recipe, launcher: str, held: Holder,
    sources: list[Source],
) -> None:  # fmt: skip
    """Begin the start of a queued run on a launcher, with what is set aside for it there."""
    state.starting[run.id] = launcher, held
    state.forget(run)  # the attempt before
    job = state.start_job(name_of_start(run), _start(state, run, recipe, held.allocation, sources))

    def ended(_: object) -> None:
        state.starting.pop(run.id)
        state.unreadable.pop(name_of_start(run), None)

    job.add_done_callback(ended)


async def _start(
    state: SupervisorState, run: Run, recipe: Recipe, allocation: Allocation, sources: list[Source]
) -> None:
    """Make one start; where the service fails at it, the run says so."""
    launch = tracing.span("launch", llm_train__run_id=run.id, llm_train__recipe=recipe.name)
    try:
        with launch:
            await _claim_and_launch(state, run, recipe, allocation, sources)
    except (Busy, Unavailable):  # the database's, which can record nothing now
        raise
    except OSError as error:  # such as a full disk: that passes
        detail = f"Its directory cannot be written: {error.strerror}."
        await _record_waiting(state, WaitingReason(run.id, Reason.WAITING_FOR_RESOURCES, detail))
        raise
    except Exception as error:
        await _record_waiting(state, service_error(run, error))
        raise


async def _claim_and_launch(
    state: SupervisorState, run: Run, recipe: Recipe, allocation: Allocation, sources: list[Source]
) -> None:
    """Find a good checkpoint where one is needed, claim the launch and make it."""
    source, unread = await verifying.find_good_source(state, name_of_start(run), sources)
    if source is None and run.source_checkpoint_id is not None:
        await _fail_without_source(state, run, unread or sources[0].named.ckpt_path + NO_FILES)
        return
    detail = None
    if sources and (source is None or source.named.id != sources[0].named.id):
        instead = source.named.ckpt_path if source else "the beginning"
        why = unread or f"{sources[0].named.ckpt_path} is lost."
        detail = f"{why} This starts from {instead}."
    launcher = state.launcher(run)
    if launcher.shares_files:
        ready = source is not None and source.stored.state == State.READY
        start_from = paths.parse(source.stored.ckpt_path) if source and ready else None
        await state.run_reader(state.storage.stage, run.experiment_id, run.id, start_from)
    if not uses_files(launcher):
        await _submit(state, run, recipe, source, detail, allocation.gpus)
        return
    spec = launch_config.build_spec(state, run, recipe, allocation.gpus, source)
    await asyncio.to_thread(launch_config.write_spec, state.run_dir(run.id), spec)
    failpoint("launch.before_claim")
    claimed = await state.db.write(
        launches.claim, run, allocation.gpus, source, detail, state.data_dir, allocation.host
    )
    if claimed is not None:
        failpoint("launch.claimed")
        await submit(state, claimed, recipe)


async def _fail_without_source(state: SupervisorState, run: Run, why: str) -> None:
    ready = await state.db.read(resuming.list_ready_in_lineage, run)
    exists = f"Ready: {', '.join(ready)}." if ready else "No checkpoint is ready."
    reason = Reason.CHECKPOINT_MISSING
    await state.db.write(launches.fail_queued, run.id, reason, f"{why} {exists}")


async def _submit(
    state: SupervisorState, run: Run, recipe: Recipe, source: Source | None, detail: str | None,
    gpus: Sequence[str],
) -> None:  # fmt: skip
    """Record the next attempt and give it to an engine, where its agent claims it."""
    ready = source if source is not None and source.stored.state == State.READY else None
    content = launch_config.build_remote_spec(state, run, recipe, ready)
    launcher = state.launcher(run).name
    avoid = await engines.choose_avoided(state, run)
    avoidance = f"It avoids {', '.join(avoid)}: attempts have failed there." if avoid else None
    words = " ".join(filter(None, (detail, f"Submitted to {launcher}.", avoidance)))
    held = state.resources(run).count_held(gpus)
    failpoint("launch.before_claim")
    submitted = await state.db.write(
        launches.submit, run, launcher, ready, state.data_dir, state.secret, content, words, gpus,
        held,
    )  # fmt: skip
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
        hyperparams: dict[str, Any] = {}
        if recipe.passed_hyperparams:
            hyperparams = load((await state.db.read(runs.get, run.id)).hyperparams)
        job = launch_config.build_local_job(state, run, recipe, hyperparams)
        with tracing.span("launcher.submit", llm_train__launcher=launcher.name):
            await asyncio.to_thread(launcher.submit, job)
    except (LauncherError, BadArgument, OSError) as error:
        evidence = Evidence(False, launch_error=str(error))
        await state.db.write(
            endings.finish_attempt, run.id, run.attempt, evidence, recipe, frozenset()
        )
        state.forget(run)


async def _submit_remote(
    state: SupervisorState, launcher: Launcher, run: AnyRun, recipe: Recipe
) -> None:
    avoid = await engines.choose_avoided(state, run)
    job = launch_config.build_remote_job(state, run, avoid)
    try:
        with tracing.span("launcher.submit", llm_train__launcher=launcher.name):
            submission = await state.engine(launcher.name).thread.run(launcher.submit, job)
    except Unreachable as error:  # the next status check shows if the engine has the job
        state.log_throttled(launcher.name, "%s cannot be reached: %s", launcher.name, error)
    except LauncherError as error:
        evidence = Evidence(False, launch_error=str(error))
        await state.db.write(endings.end_submission, run.id, run.attempt, evidence, recipe)
        state.forget(run)
    else:
        failpoint("launch.submitted")
        if submission.engine_id is not None:
            record = launches.record_engine_id
            await state.db.write(record, run.id, run.attempt, submission.engine_id)


def service_error(run: AnyRun | QueuedRun, error: Exception) -> WaitingReason:
    """Return why a queued run waits at which the service itself has failed."""
    return WaitingReason(run.id, Reason.SERVICE_ERROR, describe_failure(error))


def describe_failure(error: Exception) -> str:
    """Return one sentence about a failure of the service itself."""
    what = f"{type(error).__name__}: {error}"[:MAX_ERROR_LENGTH]
    return f"The service failed at this run, and tries again: {what}"


async def _record_waiting(state: SupervisorState, reason: WaitingReason) -> None:
    await state.db.write(launches.set_waiting_reasons, [reason])
