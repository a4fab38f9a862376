"""Observing: what became of every launched run, from the files and the kernel."""

import asyncio
import logging
from contextlib import suppress

from app.domain.evidence import Evidence
from app.domain.failpoints import failpoint
from app.domain.lifecycle import CheckpointState as State
from app.domain.lifecycle import Reason, RunStatus
from app.domain.recipes import Recipe, StallAction
from app.errors import Busy, CheckpointUnreadable, Unavailable
from app.launchers.base import LauncherError, Observation
from app.services import checkpoints, launches
from app.services.launches import LiveRun
from app.supervisor import launch_config, logs, schedule, spool, verifying
from app.supervisor.state import Desk

RELAUNCH_SECONDS = 5.0
EXTERNAL_SECONDS = 5.0
# The wrapper kills at the grace's end and a second later at most; one on another machine may
# have heard of the stop two seconds late.
OVERDUE_SECONDS = 4.0
TAKE_IN_SECONDS = 0.2
"""How long a turn waits for what a trainer left: nearly always it is little."""

log = logging.getLogger(__name__)


async def observe(desk: Desk) -> None:
    """Looks at every launched run; one that cannot be looked at does not hold up the others.

    A process whose end the kernel will tell is alive until it does: only the others cost
    a look at the disk, all in one thread.
    """
    launched = await desk.db.read(launches.launched)
    unsure = [run for run in launched if _must_be_looked_at(desk, run)]
    found = await asyncio.to_thread(_look, desk, unsure) if unsure else {}
    for run in [*launched, *await _external_runs(desk)]:
        try:
            await _observe(desk, run, found.get(run.id))
            if _notice(desk, run) is Reason.SERVICE_ERROR:
                await _set_notice(desk, run, None)
        except Exception as error:
            words = "run %s could not be observed; it is tried again"
            desk.log_throttled(run.id, words, run.id, error=error)
            with suppress(Busy, Unavailable):  # the database's own trouble is on no run
                await _tell_trouble(desk, run, error)


async def _external_runs(desk: Desk) -> list[LiveRun]:
    """Return the external runs that are to be looked at now.

    Those that train are read off the event loop, and as often as their silence has to be noticed.
    """
    seconds = min(EXTERNAL_SECONDS, desk.settings.external_heartbeat_seconds / 4)
    if desk.clock() - desk.externals_seen_at < seconds:
        return await desk.db.read(launches.external_ending)
    desk.externals_seen_at = desk.clock()
    return await desk.db.scan(launches.external)


def _notice(desk: Desk, run: LiveRun) -> Reason | None:
    """Return what is on record as wrong with a run that goes on."""
    if run.termination_reason is None and run.status_reason in launches.NOTICES:
        return Reason(run.status_reason)
    return desk.attempt(run).notice


async def _set_notice(desk: Desk, run: LiveRun, reason: Reason | None, detail: str = "") -> None:
    """Record what is wrong with a run that goes on, once; None: nothing is any more."""
    attempt, before = desk.attempt(run), _notice(desk, run)
    if before == reason:
        return
    if before is None:
        attempt.hidden_detail = run.status_detail
    told = detail if reason else attempt.hidden_detail
    await desk.db.write(launches.set_notice, run, reason, told, before)
    attempt.notice = reason


async def _tell_trouble(desk: Desk, run: LiveRun, error: Exception) -> None:
    if isinstance(error, Busy | Unavailable) and not isinstance(error, LauncherError):
        return
    if isinstance(error, OSError):
        detail = f"The files of this run cannot be used, which is tried again: {error.strerror}."
    else:
        detail = schedule.describe_failure(error)
    await _set_notice(desk, run, Reason.SERVICE_ERROR, detail)


def _must_be_looked_at(desk: Desk, run: LiveRun) -> bool:
    attempt = desk.attempt(run)
    return attempt.exit_fd is None or not attempt.address_written


def _look(desk: Desk, runs: list[LiveRun]) -> dict[str, Observation | Exception]:
    found: dict[str, Observation | Exception] = {}
    for run in runs:
        try:
            found[run.id] = desk.launcher.observe(desk.run_dir(run.id), run.attempt)
        except Exception as error:
            found[run.id] = error
    return found


async def _observe(desk: Desk, run: LiveRun, found: Observation | Exception | None) -> None:
    if run.recipe is None:
        await _external(desk, run)
    elif isinstance(found, Exception):
        await _alive(desk, run)  # it may be: what cannot be seen is stopped like all others
        raise found
    elif found is None or found.state == "alive":
        attempt = desk.attempt(run)
        attempt.is_over = False  # its machine may have been cut off, and be back
        if attempt.began_at is None and found is not None and found.ran_seconds is not None:
            attempt.began_at = desk.clock() - found.ran_seconds
        await _alive(desk, run)  # first: a full or slow disk must not keep it from being stopped
        await _adopt(desk, run)
    elif found.state == "absent":
        await _absent(desk, run)
    else:
        await _over(desk, run, found)


async def _adopt(desk: Desk, run: LiveRun) -> None:
    """Watch for the end of a living trainer, and tell it where this server is."""
    attempt, run_dir = desk.attempt(run), desk.run_dir(run.id)
    if not attempt.is_watched:
        desk.watch(attempt, await asyncio.to_thread(desk.launcher.exit_fd, run_dir, run.attempt))
        attempt.is_watched = True
    if not attempt.address_written:
        await asyncio.to_thread(launch_config.write_address, desk, run.id)
        attempt.address_written = True


async def _alive(desk: Desk, run: LiveRun) -> None:
    if run.status == RunStatus.CANCELLING:
        await _stop(desk, run)
        return
    recipe = desk.recipe(run)
    if recipe is None:
        return
    limit = desk.resources(run).time_limit_minutes
    if limit is not None:
        attempt = desk.attempt(run)
        if attempt.began_at is None:
            attempt.began_at = desk.clock()
        ran = desk.clock() - attempt.began_at
        detail = f"The time limit of {limit:g} minutes is over."
        if ran > limit * 60 and await _condemn(desk, run, Reason.TIME_LIMIT, detail):
            await _stop(desk, run)
    silence = desk.silence(run)
    allowed = recipe.heartbeat_seconds if run.status == RunStatus.RUNNING else recipe.start_seconds
    if recipe.heartbeat_seconds and silence > allowed:
        detail = f"No report for {allowed:g} seconds."
        if await _condemn(desk, run, Reason.HEARTBEAT_LOST, detail):
            await asyncio.to_thread(desk.launcher.kill, desk.run_dir(run.id), run.attempt)
    await _check_progress(desk, run, recipe)
    if run.status == RunStatus.STARTING and not recipe.heartbeat_seconds:
        await desk.db.write(launches.running, run.id, run.attempt)


async def _check_progress(desk: Desk, run: LiveRun, recipe: Recipe) -> None:
    """Act on a trainer that lives and takes no further step, as its recipe says."""
    if run.termination_reason == Reason.STALLED:
        await _stop(desk, run)
        return
    never_reports = not recipe.heartbeat_seconds and run.last_progress_at is None
    if run.status != RunStatus.RUNNING or run.finished or never_reports:
        return
    if not recipe.stall_seconds or desk.progress_age(run) <= recipe.stall_seconds:
        if _notice(desk, run) is Reason.STALLED:
            await _set_notice(desk, run, None)
        return
    detail = f"No further step than {run.step} for {recipe.stall_seconds:g} seconds."
    await _set_notice(desk, run, Reason.STALLED, detail)
    if recipe.on_stall is not StallAction.TELL and await _condemn(
        desk, run, Reason.STALLED, detail
    ):
        await _stop(desk, run)


async def _stop(desk: Desk, run: LiveRun) -> None:
    """Asks the trainer to stop, once. Its wrapper sees to the rest; if it cannot, we do."""
    attempt, run_dir = desk.attempt(run), desk.run_dir(run.id)
    if attempt.stop_sent_at is None:
        await asyncio.to_thread(desk.launcher.stop, run_dir, run.attempt)
        attempt.stop_sent_at = desk.attention
    recipe = desk.recipe(run)
    grace = recipe.grace_seconds if recipe else Recipe("", ()).grace_seconds
    if desk.attention - attempt.stop_sent_at > grace + OVERDUE_SECONDS:
        await asyncio.to_thread(desk.launcher.kill, run_dir, run.attempt)


async def _condemn(desk: Desk, run: LiveRun, reason: Reason, detail: str) -> bool:
    """Whether the service may end this trainer; why is on record before it does."""
    if run.termination_reason == reason:
        return True
    try:
        return await desk.db.write(launches.condemn, run, reason, detail)
    except (Busy, Unavailable):
        if reason is not Reason.TIME_LIMIT:  # whoever is silent may not have been heard
            raise
        desk.attempt(run).unrecorded = (reason, detail)
        return True


async def _absent(desk: Desk, run: LiveRun) -> None:
    """Claimed, and not a trace: the server died before it launched, or the launch is young."""
    if not await desk.in_place():
        return
    recipe, attempt = desk.recipe(run), desk.attempt(run)
    if run.heartbeat_at is not None or run.status == RunStatus.RUNNING:
        # It did begin: somebody removed its files. A second launch would run beside it.
        if attempt.launched_at is None:
            attempt.launched_at = desk.clock()
        if desk.clock() - attempt.launched_at > RELAUNCH_SECONDS:
            await asyncio.to_thread(
                desk.launcher.kill, desk.run_dir(run.id), run.attempt, run.nonce
            )
            desk.woken.set()
        return
    if run.host not in (None, desk.launcher.host):
        # Claimed on a machine that is gone, with GPUs of that one: it must not begin here.
        await asyncio.to_thread(desk.launcher.kill, desk.run_dir(run.id), run.attempt, run.nonce)
        detail = "The machine that was to run it is gone; it is started on another."
        await desk.db.write(launches.requeue, run.id, run.attempt, detail)
        desk.forget(run)
        return
    if run.status == RunStatus.CANCELLING or recipe is None:
        # From here on it can never begin; the next look finds it over.
        await asyncio.to_thread(desk.launcher.kill, desk.run_dir(run.id), run.attempt, run.nonce)
        desk.woken.set()
        return
    if run.id in desk.starting:
        return
    since = attempt.launched_at
    if since is None or desk.clock() - since > RELAUNCH_SECONDS:
        log.info("run %s: launching attempt %d again", run.id, run.attempt)
        await schedule.act(desk, run, recipe)


async def _over(desk: Desk, run: LiveRun, found: Observation) -> None:
    """Takes in what the trainer left on disk, then records how it ended."""
    attempt, run_dir, recipe = desk.attempt(run), desk.run_dir(run.id), desk.recipe(run)
    if not attempt.is_over:
        # What it left may be large, and the other runs do not wait for that.
        about = f"what {run.id} left"
        if about not in desk.jobs:
            desk.begin(about, _take_in(desk, run, found))
        await asyncio.wait({desk.jobs[about][0]}, timeout=TAKE_IN_SECONDS)
        if not attempt.is_over:
            return
    absent = await verifying.settled(desk, run)
    if absent is None:
        return
    if attempt.unrecorded is not None:
        await desk.db.write(launches.condemn, run, *attempt.unrecorded)
    failpoint("end.before_record")
    evidence = Evidence(
        cancel_asked=False,
        vanished=found.state == "vanished",
        exit_code=found.exit_code,
        signal=found.signal,
        killed=found.killed,
        out_of_memory=found.oom,
        launch_error=found.detail if found.never_ran else None,
        stop_sent=found.stop_sent,
        requires_report=recipe.requires_report if recipe else True,
        clues=await asyncio.to_thread(logs.find_clues, run_dir, run.attempt, found.log_start),
    )
    if await desk.db.write(launches.end, run.id, run.attempt, evidence, recipe, absent):
        desk.forget(run)


async def _take_in(desk: Desk, run: LiveRun, found: Observation) -> None:
    """Ends what is left of the trainer's processes, and takes in or removes what it left."""
    if found.state == "vanished":
        await asyncio.to_thread(desk.launcher.kill, desk.run_dir(run.id), run.attempt, run.nonce)
    failpoint("end.before_spool")
    await spool.deliver(desk, run)
    with suppress(CheckpointUnreadable):
        await asyncio.to_thread(desk.storage.remove_drafts, run.experiment_id, run.id)
    desk.attempt(run).is_over = True
    desk.woken.set()  # what it held is free


async def _external(desk: Desk, run: LiveRun) -> None:
    """An external run ends by what its trainer reports, or by its silence."""
    settings, over = desk.settings, bool(run.finished)
    if run.status == RunStatus.CANCELLING:
        named = run.promised_checkpoint_id
        promised = None if named is None else await desk.db.read(checkpoints.get, named)
        attempt = desk.attempt(run)
        if attempt.stop_sent_at is None:  # it is told with the answer to its next report
            attempt.stop_sent_at = desk.attention
        over |= desk.attention - attempt.stop_sent_at > settings.external_grace_seconds
        over |= promised is not None and promised.state != State.PENDING
    elif not over and desk.silence(run) > settings.external_heartbeat_seconds:
        detail = f"No report for {settings.external_heartbeat_seconds:g} seconds."
        over = await _condemn(desk, run, Reason.HEARTBEAT_LOST, detail)
    if not over:
        return
    known = await desk.db.read(checkpoints.list_of_run, run.id)
    if await asyncio.to_thread(verifying.waiting, desk, known):
        return  # until they are read
    absent = frozenset(each.id for each in known)
    evidence = Evidence(cancel_asked=False)
    if await desk.db.write(launches.end, run.id, run.attempt, evidence, None, absent):
        desk.forget(run)
