"""Observing: what became of every launched run, from the files and the kernel."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace

from app.agent.mailbox import ExitRecord
from app.db.tables import Attempt
from app.domain.evidence import Cause, Evidence
from app.domain.failpoints import failpoint
from app.domain.lifecycle import CheckpointState as State
from app.domain.lifecycle import Reason, RunStatus
from app.domain.recipes import LOCAL, Recipe, StallAction
from app.errors import Busy, CheckpointUnreadable, Unavailable
from app.launchers.base import (
    EndsLeftovers,
    JobState,
    JobStatus,
    Key,
    LauncherError,
    Unreachable,
    WakesUp,
)
from app.services import attempts, checkpoints, launches
from app.services.launches import LiveRun
from app.supervisor import launch_config, logs, schedule, spool, verifying
from app.supervisor.state import SupervisorState, key_of, uses_files

RELAUNCH_SECONDS = 5.0
EXTERNAL_SECONDS = 5.0
# The agent kills at the grace's end and a second later at most; one on another machine may
# have heard of the stop two seconds late.
OVERDUE_SECONDS = 4.0
AGENT_SILENT_SECONDS = 30.0
"""After so long without a pulse an agent that is reached over HTTP counts as gone."""
MISSING_SECONDS = 15.0
"""For so long an engine must not know a job before that counts as its end."""
STRAYS_SECONDS = 60.0
TAKE_IN_SECONDS = 0.2
"""How long a tick waits for what a trainer left: nearly always it is little."""

log = logging.getLogger(__name__)


async def observe(state: SupervisorState) -> None:
    """Looks at every launched run; one that cannot be looked at does not hold up the others.

    A process whose end the kernel will tell is alive until it does: only the others cost
    a look at the disk, all in one thread.
    """
    launched = await state.db.read(launches.list_launched)
    launched += await state.db.read(launches.list_submitted)
    unsure = [run for run in launched if _must_be_looked_at(state, run)]
    found = await _look(state, unsure)
    for run in [*launched, *await _external_runs(state)]:
        try:
            await _observe(state, run, found.get(key_of(run)))
            if _notice(state, run) is Reason.SERVICE_ERROR:
                await _set_notice(state, run, None)
        except Exception as error:
            words = "run %s could not be observed; it is tried again"
            state.log_throttled(run.id, words, run.id, error=error)
            with suppress(Busy, Unavailable):  # the database's own trouble is on no run
                await _tell_trouble(state, run, error)


async def _external_runs(state: SupervisorState) -> list[LiveRun]:
    """Return the external runs that are to be looked at now.

    Those that train are read off the event loop, and as often as their silence has to be noticed.
    """
    seconds = min(EXTERNAL_SECONDS, state.settings.external_heartbeat_seconds / 4)
    if state.clock() - state.externals_seen_at < seconds:
        return await state.db.read(launches.list_ending_external)
    state.externals_seen_at = state.clock()
    return await state.db.scan(launches.list_external)


def _notice(state: SupervisorState, run: LiveRun) -> Reason | None:
    """Return what is on record as wrong with a run that goes on."""
    if run.termination_reason is None and run.status_reason in launches.NOTICES:
        return Reason(run.status_reason)
    return state.attempt(run).notice


async def _set_notice(
    state: SupervisorState, run: LiveRun, reason: Reason | None, detail: str = ""
) -> None:
    """Record what is wrong with a run that goes on, once; None: nothing is any more."""
    attempt, before = state.attempt(run), _notice(state, run)
    if before == reason:
        return
    if before is None:
        attempt.hidden_detail = run.status_detail
    told = detail if reason else attempt.hidden_detail
    await state.db.write(launches.set_notice, run, reason, told, before)
    attempt.notice = reason


async def _tell_trouble(state: SupervisorState, run: LiveRun, error: Exception) -> None:
    if isinstance(error, Busy | Unavailable) and not isinstance(error, LauncherError):
        return
    if isinstance(error, OSError):
        detail = f"The files of this run cannot be used, which is tried again: {error.strerror}."
    else:
        detail = schedule.describe_failure(error)
    await _set_notice(state, run, Reason.SERVICE_ERROR, detail)


def _must_be_looked_at(state: SupervisorState, run: LiveRun) -> bool:
    attempt = state.attempt(run)
    return attempt.exit_fd is None or not attempt.address_written


async def _look(state: SupervisorState, unsure: list[LiveRun]) -> dict[Key, JobStatus]:
    """Return what the launchers and the agents' mailboxes know, with one question to each."""
    keys: dict[str, list[Key]] = {}
    for run in unsure:
        keys.setdefault(run.launcher or LOCAL, []).append(key_of(run))
    found: dict[Key, JobStatus] = {}
    for name, wanted in keys.items():
        found |= dict.fromkeys(wanted, JobStatus(JobState.UNKNOWN))
        try:
            if name not in state.launchers:
                raise Unreachable(f"The launcher {name!r} is not configured on this server.")
            found |= await asyncio.to_thread(state.launchers[name].look, wanted)
        except Unreachable as error:
            state.log_throttled(name, "%s cannot be reached: %s", name, error)
    if any(not uses_files(launcher) for launcher in state.launchers.values()):
        by_key = {key_of(run): run for run in unsure}
        for row in await state.db.read(attempts.list_live):
            key = Key(row.run_id, row.number)
            if key in by_key:
                found[key] = _with_mailbox(state, by_key[key], found[key], row)
    return found


def _with_mailbox(
    state: SupervisorState, run: LiveRun, engine: JobStatus, row: Attempt
) -> JobStatus:
    """Return what is known of an attempt: the agent's word comes before the engine's.

    An engine that says that a job has ended, or that it has none, may be wrong: that counts only
    when the agent has been silent for a while, and the latter when it says so for a while.
    """
    attempt = state.attempt(run)
    if engine.state is not JobState.ABSENT:
        attempt.missing_since = None
    elif attempt.missing_since is None:
        attempt.missing_since = state.listening_seconds
    if (record := attempts.get_exit(row)) is not None:
        return replace(engine, state=JobState.ENDED, record=record)
    if row.agent is not None:
        sign = row.pulse_at or ""
        if attempt.last_pulse is None or attempt.last_pulse[0] != sign:
            attempt.last_pulse = sign, state.listening_seconds
        if state.listening_seconds - attempt.last_pulse[1] < AGENT_SILENT_SECONDS:
            return replace(engine, state=JobState.RUNNING, ran_seconds=row.ran_seconds)
    if engine.state is JobState.ABSENT:
        if state.listening_seconds - (attempt.missing_since or 0.0) < MISSING_SECONDS:
            return replace(engine, state=JobState.UNKNOWN)
        if row.agent is not None:
            return replace(engine, state=JobState.ENDED)
    return engine


async def _observe(state: SupervisorState, run: LiveRun, found: JobStatus | None) -> None:
    if run.recipe is None:
        await _external(state, run)
    elif run.status == RunStatus.QUEUED:
        if found is not None:
            await _waiting_in_cluster(state, run, found)
    elif found is not None and found.state is JobState.UNKNOWN:
        await _alive(state, run)  # it may be: what cannot be seen is stopped like all others
        if found.error is not None:
            raise found.error
    elif found is None or found.state in (JobState.RUNNING, JobState.QUEUED):
        attempt = state.attempt(run)
        attempt.is_finished = False  # its machine may have been cut off, and be back
        if attempt.began_at is None and found is not None and found.ran_seconds is not None:
            attempt.began_at = state.clock() - found.ran_seconds
        await _alive(state, run)  # first: a full or slow disk must not keep it from being stopped
        await _adopt(state, run)
    elif found.state is JobState.ABSENT:
        await _absent(state, run)
    elif found.record is not None or run.id not in state.starting:
        # The launch that is in progress replaces what a trainer has put in its directory's place.
        await _over(state, run, found)


async def _adopt(state: SupervisorState, run: LiveRun) -> None:
    """Watch for the end of a living trainer, and tell it where this server is."""
    attempt, launcher = state.attempt(run), state.launcher(run)
    if not uses_files(launcher):
        return
    if not attempt.is_watched and isinstance(launcher, WakesUp):
        state.watch(attempt, await asyncio.to_thread(launcher.exit_fd, key_of(run)))
        attempt.is_watched = True
    if not attempt.address_written:
        await asyncio.to_thread(launch_config.write_address, state, run.id)
        attempt.address_written = True


async def _alive(state: SupervisorState, run: LiveRun) -> None:
    if run.status == RunStatus.CANCELLING:
        await _stop(state, run)
        return
    recipe = state.recipe(run)
    if recipe is None:
        return
    limit = state.resources(run).time_limit_minutes
    if limit is not None:
        attempt = state.attempt(run)
        if attempt.began_at is None:
            attempt.began_at = state.clock()
        ran = state.clock() - attempt.began_at
        detail = f"The time limit of {limit:g} minutes is over."
        if ran > limit * 60 and await _request_termination(state, run, Reason.TIME_LIMIT, detail):
            await _stop(state, run)
    heartbeat_age = state.heartbeat_age(run)
    allowed = recipe.heartbeat_seconds if run.status == RunStatus.RUNNING else recipe.start_seconds
    if recipe.heartbeat_seconds and heartbeat_age > allowed:
        detail = f"No report for {allowed:g} seconds."
        if await _request_termination(state, run, Reason.HEARTBEAT_LOST, detail):
            await _request_end(state, run, kill=True)
    await _check_progress(state, run, recipe)
    if run.status == RunStatus.STARTING and not recipe.heartbeat_seconds:
        await state.db.write(launches.mark_running, run.id, run.attempt)


async def _check_progress(state: SupervisorState, run: LiveRun, recipe: Recipe) -> None:
    """Act on a trainer that lives and takes no further step, as its recipe says."""
    if run.termination_reason == Reason.STALLED:
        await _stop(state, run)
        return
    never_reports = not recipe.heartbeat_seconds and run.last_progress_at is None
    if run.status != RunStatus.RUNNING or run.finished or never_reports:
        return
    if not recipe.stall_seconds or state.progress_age(run) <= recipe.stall_seconds:
        if _notice(state, run) is Reason.STALLED:
            await _set_notice(state, run, None)
        return
    detail = f"No further step than {run.step} for {recipe.stall_seconds:g} seconds."
    await _set_notice(state, run, Reason.STALLED, detail)
    if recipe.on_stall is not StallAction.TELL and await _request_termination(
        state, run, Reason.STALLED, detail
    ):
        await _stop(state, run)


async def _stop(state: SupervisorState, run: LiveRun) -> None:
    """Ask the trainer to stop, once. Its agent sees to the rest; if it cannot, we do."""
    attempt = state.attempt(run)
    if attempt.stop_sent_at is None:
        await _request_end(state, run, kill=False)
        attempt.stop_sent_at = state.listening_seconds
    recipe = state.recipe(run)
    grace = recipe.grace_seconds if recipe else Recipe("", ()).grace_seconds
    if state.listening_seconds - attempt.stop_sent_at > grace + OVERDUE_SECONDS:
        await _request_end(state, run, kill=True)


async def _request_end(state: SupervisorState, run: LiveRun, *, kill: bool) -> None:
    """Ask the agent to stop or kill its trainer; a kill goes through the engine as well."""
    launcher, keys = state.launcher(run), [key_of(run)]
    if not uses_files(launcher):
        await state.db.write(attempts.request_stop, run.id, run.attempt, kill=kill)
        if not kill:
            return
    await asyncio.to_thread(launcher.kill if kill else launcher.stop, keys)


async def _end_leftovers(state: SupervisorState, run: LiveRun) -> None:
    """End what may be left of an attempt, and make sure that it never begins."""
    launcher, key = state.launcher(run), key_of(run)
    if isinstance(launcher, EndsLeftovers) and run.nonce is not None:
        await asyncio.to_thread(launcher.end_leftovers, key, run.nonce)
    else:
        await _request_end(state, run, kill=True)


async def _request_termination(
    state: SupervisorState, run: LiveRun, reason: Reason, detail: str
) -> bool:
    """Whether the service may end this trainer; why is on record before it does."""
    if run.termination_reason == reason:
        return True
    try:
        return await state.db.write(launches.request_termination, run, reason, detail)
    except (Busy, Unavailable):
        if reason is not Reason.TIME_LIMIT:  # its reports may have been rejected
            raise
        state.attempt(run).unrecorded = (reason, detail)
        return True


async def _absent(state: SupervisorState, run: LiveRun) -> None:
    """Claimed, and not a trace: the server died before it launched, or the launch is young."""
    if not await state.has_data_dir():
        return
    recipe, attempt = state.recipe(run), state.attempt(run)
    if run.heartbeat_at is not None or run.status == RunStatus.RUNNING:
        # It did begin: somebody removed its files. A second launch would run beside it.
        if attempt.launched_at is None:
            attempt.launched_at = state.clock()
        if state.clock() - attempt.launched_at > RELAUNCH_SECONDS:
            await _end_leftovers(state, run)
            state.wakeup.set()
        return
    offer = await asyncio.to_thread(state.launcher(run).offer)
    if offer is not None and offer.host is not None and run.host not in (None, offer.host):
        # Claimed on a machine that is gone, with GPUs of that one: it must not begin here.
        await _end_leftovers(state, run)
        detail = "The machine that was to run it is gone; it is started on another."
        await state.db.write(launches.requeue, run.id, run.attempt, detail)
        state.forget(run)
        return
    if run.status == RunStatus.CANCELLING or recipe is None:
        # From here on it can never begin; the next look finds it over.
        await _end_leftovers(state, run)
        state.wakeup.set()
        return
    if run.id in state.starting:
        return
    since = attempt.launched_at
    if since is None or state.clock() - since > RELAUNCH_SECONDS:
        log.info("run %s: launching attempt %d again", run.id, run.attempt)
        await schedule.submit(state, run, recipe)


async def _over(state: SupervisorState, run: LiveRun, found: JobStatus) -> None:
    """Take in what the trainer left on disk, then record how it ended."""
    attempt, run_dir, recipe = state.attempt(run), state.run_dir(run.id), state.recipe(run)
    if not attempt.is_finished:
        # What it left may be large, and the other runs do not wait for that.
        about = f"what {run.id} left"
        if about not in state.jobs:
            state.start_job(about, _take_in(state, run, found))
        await asyncio.wait({state.jobs[about][0]}, timeout=TAKE_IN_SECONDS)
        if not attempt.is_finished:
            return
    absent = await verifying.verify_committed(state, run)
    if absent is None:
        return
    if attempt.unrecorded is not None:
        await state.db.write(launches.request_termination, run, *attempt.unrecorded)
    failpoint("end.before_record")
    record = found.record or ExitRecord()
    clues = await asyncio.to_thread(logs.find_clues, run_dir, run.attempt, record.log_start)
    evidence = _evidence(found)._replace(
        requires_report=recipe.requires_report if recipe else True, clues=clues
    )
    if await state.db.write(launches.finish_attempt, run.id, run.attempt, evidence, recipe, absent):
        state.forget(run)


def _evidence(found: JobStatus) -> Evidence:
    """Return what is known of an end: by the agent's record, else by the engine."""
    record = found.record
    if record is None:
        return Evidence(
            cancel_asked=False,
            vanished=found.exit_code is None and found.signal is None,
            exit_code=found.exit_code,
            signal=found.signal,
            stop_sent=found.stop_sent,
            cause=found.cause,
            cause_detail=found.reason_text,
        )
    return Evidence(
        cancel_asked=False,
        exit_code=record.exit_code,
        signal=record.signal,
        killed=record.killed,
        out_of_memory=record.oom,
        launch_error=record.detail if record.never_ran else None,
        stop_sent=record.stop_sent,
        cause=found.cause,
        cause_detail=found.reason_text,
    )


async def _waiting_in_cluster(state: SupervisorState, run: LiveRun, found: JobStatus) -> None:
    """Record the engine's words on a submitted job, or its end before an agent claimed it."""
    recipe = state.recipe(run)
    if found.state is JobState.ENDED:
        cause = found.cause or Cause.NEVER_STARTED
        words = found.reason_text or "The job ended before it began."
        record = found.record
        evidence = Evidence(
            cancel_asked=False, cause=cause, cause_detail=record.detail if record else words
        )
        await state.db.write(launches.end_submission, run.id, run.attempt, evidence, recipe)
        state.forget(run)
    elif found.state is JobState.ABSENT and recipe is not None and run.id not in state.starting:
        # The claim makes a second submission harmless.
        state.attempt(run).missing_since = None
        await schedule.submit(state, run, recipe)
    elif found.engine_id is not None or found.word:
        job = f"{run.launcher} job {found.engine_id}" if found.engine_id else f"{run.launcher}"
        said = found.reason_text or found.word
        reason = launches.WaitingReason(run.id, Reason.WAITING_FOR_CLUSTER, f"{job}: {said}")
        if (run.status_reason, run.status_detail) != reason[1:]:
            await state.db.write(launches.set_waiting_reasons, [reason])
        if found.engine_id is not None and found.engine_id != run.engine_id:
            record_id = launches.record_engine_id
            await state.db.write(record_id, run.id, run.attempt, found.engine_id)


async def end_strays(state: SupervisorState) -> None:
    """Kill the jobs that engines still have although their runs want them no more."""
    if state.clock() - state.strays_ended_at < STRAYS_SECONDS:
        return
    state.strays_ended_at = state.clock()
    for name, launcher in state.launchers.items():
        try:
            known = await asyncio.to_thread(launcher.strays)
            unwanted = await state.db.read(launches.list_unwanted, known) if known else []
            if unwanted:
                await asyncio.to_thread(launcher.kill, unwanted)
        except Unreachable as error:
            state.log_throttled(name, "%s cannot be reached: %s", name, error)


async def _take_in(state: SupervisorState, run: LiveRun, found: JobStatus) -> None:
    """End what is left of the trainer's processes, and take in or remove what it left."""
    if found.record is None:
        await _end_leftovers(state, run)
    failpoint("end.before_spool")
    await spool.deliver(state, run)
    with suppress(CheckpointUnreadable):
        await asyncio.to_thread(state.storage.remove_drafts, run.experiment_id, run.id)
    state.attempt(run).is_finished = True
    state.wakeup.set()  # what it held is free


async def _external(state: SupervisorState, run: LiveRun) -> None:
    """An external run ends by what its trainer reports, or by its silence."""
    settings, over = state.settings, bool(run.finished)
    if run.status == RunStatus.CANCELLING:
        named = run.promised_checkpoint_id
        promised = None if named is None else await state.db.read(checkpoints.get, named)
        attempt = state.attempt(run)
        if attempt.stop_sent_at is None:  # it is told with the answer to its next report
            attempt.stop_sent_at = state.listening_seconds
        over |= state.listening_seconds - attempt.stop_sent_at > settings.external_grace_seconds
        over |= promised is not None and promised.state != State.PENDING
    elif not over and state.heartbeat_age(run) > settings.external_heartbeat_seconds:
        detail = f"No report for {settings.external_heartbeat_seconds:g} seconds."
        over = await _request_termination(state, run, Reason.HEARTBEAT_LOST, detail)
    if not over:
        return
    known = await state.db.read(checkpoints.list_of_run, run.id)
    if await asyncio.to_thread(verifying.waiting, state, known):
        return  # until they are read
    absent = frozenset(each.id for each in known)
    evidence = Evidence(cancel_asked=False)
    if await state.db.write(launches.finish_attempt, run.id, run.attempt, evidence, None, absent):
        state.forget(run)
