"""The end of an attempt: take in what its trainer left, verify that, record the outcome."""

import asyncio
from contextlib import suppress

from app.agent.mailbox import ExitRecord
from app.domain.evidence import Cause, Evidence
from app.domain.failpoints import failpoint
from app.errors import CheckpointUnreadable
from app.launchers.base import JobStatus
from app.services import endings
from app.services.live_runs import LiveRun
from app.supervisor import event_files, logs, spool, verifying
from app.supervisor.state import SupervisorState
from app.supervisor.terminate import end_leftovers

TAKE_IN_SECONDS = 0.2
"""The longest time that a tick spends on what a trainer left, which is nearly always little."""
ENGINE_LOST = "What had started the agent was killed: its node or its cluster has failed."


async def finish(state: SupervisorState, run: LiveRun, status: JobStatus) -> None:
    """Record how an attempt ended. Called each tick until all that it left has been read."""
    attempt, recipe = state.attempt(run), state.recipe(run)
    if not attempt.is_finished:
        # What it left may be large, and the other runs do not wait for that.
        about = f"what {run.id} left"
        if about not in state.jobs:
            state.start_job(about, _take_in(state, run, status))
        await asyncio.wait({state.jobs[about][0]}, timeout=TAKE_IN_SECONDS)
        if not attempt.is_finished:
            return
    absent = await verifying.verify_committed(state, run)
    if absent is None:
        return
    if attempt.unrecorded is not None:
        await state.db.write(endings.request_termination, run, *attempt.unrecorded)
    failpoint("end.before_record")
    log_start = (status.record or ExitRecord()).log_start
    run_dir = state.run_dir(run.id)
    clues = await asyncio.to_thread(logs.find_clues, run_dir, run.attempt, log_start)
    evidence = make_evidence(status)._replace(
        requires_report=recipe.requires_report if recipe else True, clues=clues
    )
    if await state.db.write(endings.finish_attempt, run.id, run.attempt, evidence, recipe, absent):
        state.forget(run)


async def _take_in(state: SupervisorState, run: LiveRun, status: JobStatus) -> None:
    """End the trainer's remaining processes, and take in or remove the files it left."""
    if status.record is None:
        await end_leftovers(state, run)
    recipe = state.recipe(run)
    if recipe is not None and recipe.tensorboard:
        await event_files.deliver_rest(state, run, recipe)
    failpoint("end.before_spool")
    await spool.deliver(state, run)
    with suppress(CheckpointUnreadable):
        await asyncio.to_thread(state.storage.remove_drafts, run.experiment_id, run.id)
    state.attempt(run).is_finished = True
    state.wakeup.set()  # what it held is free


def make_evidence(status: JobStatus) -> Evidence:
    """Return what is known of an end: by the agent's record, else by the engine."""
    record = status.record
    if record is None:
        return Evidence(
            cancel_asked=False,
            is_lost=status.exit_code is None and status.signal is None,
            exit_code=status.exit_code,
            signal=status.signal,
            stop_sent=status.stop_sent,
            cause=status.cause,
            cause_detail=status.reason_text,
        )
    cause, detail = status.cause, status.reason_text
    if cause is None and record.engine_lost:
        cause, detail = Cause.NODE_FAILED, ENGINE_LOST
    return Evidence(
        cancel_asked=False,
        exit_code=record.exit_code,
        signal=record.signal,
        killed=record.killed,
        out_of_memory=record.oom,
        launch_error=record.detail if record.never_ran else None,
        stop_sent=record.stop_sent,
        cause=cause,
        cause_detail=detail,
    )
