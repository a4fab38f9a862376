"""Reconciling: compare every launched run with what became of its attempt, and act on it.

job_status  what launchers and agents know
running     it runs: limits, heartbeat, progress          terminate  how it is stopped
finish      it has ended: take in, verify, record         external   trainers of somebody else
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field

from app.domain.evidence import Cause, Evidence
from app.domain.lifecycle import Reason, RunStatus, is_external
from app.errors import Busy, Unavailable
from app.launchers.base import JobState, JobStatus, Key, WakesUp
from app.services import attempts, endings, launches, live_runs
from app.services.launches import EngineWords
from app.services.live_runs import LiveRun
from app.supervisor import external, launch_config, notices
from app.supervisor.finish import finish
from app.supervisor.job_status import get_statuses
from app.supervisor.running import check_running
from app.supervisor.start import submit
from app.supervisor.state import BATCH, SupervisorState, key_of, uses_files
from app.supervisor.terminate import end_leftovers

RELAUNCH_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass
class News:
    """The findings of one pass over the runs, which are recorded together at its end."""

    words: list[EngineWords] = field(default_factory=list)
    """The status of queued jobs, as their engines report it."""
    nodes: list[tuple[Key, tuple[str, ...]]] = field(default_factory=list)
    """The machines that attempts run on."""


async def reconcile(state: SupervisorState) -> None:
    """Check every launched run; one that cannot be checked does not hold up the others.

    A process whose end the kernel will report is alive until it does: only the others cost
    a read of the disk, all in one thread.
    """
    live = await state.db.read(live_runs.list_launched)
    live += await state.db.read(live_runs.list_submitted)
    statuses = await get_statuses(state, [run for run in live if _must_look(state, run)])
    news = News()
    for number, run in enumerate([*live, *await external.list_due(state)]):
        if number % BATCH == BATCH - 1:
            await asyncio.sleep(0)  # a thousand runs must not hold up requests
        try:
            await _reconcile(state, run, statuses.get(key_of(run)), news)
            if notices.get(state, run) is Reason.SERVICE_ERROR:
                await notices.record(state, run, None)
        except Exception as error:
            about = "run %s could not be reconciled; it is tried again"
            state.log_throttled(run.id, about, run.id, error=error)
            with suppress(Busy, Unavailable):
                await notices.record_error(state, run, error)
    await _record(state, news)


async def _record(state: SupervisorState, news: News) -> None:
    """Record what a look has found, many runs at a time: a thousand may have begun at once."""
    for start in range(0, len(news.words), BATCH):
        part = news.words[start : start + BATCH]
        await state.db.write(launches.record_engine_words, part)
        for new in part:
            state.attempts[new.run_id, new.attempt].engine_words = new.words
    for start in range(0, len(news.nodes), BATCH):
        nodes_by_attempt = news.nodes[start : start + BATCH]
        await state.db.write(attempts.record_nodes, nodes_by_attempt)
        for key, nodes in nodes_by_attempt:
            if (attempt := state.attempts.get(key)) is not None:
                attempt.nodes = nodes


def _must_look(state: SupervisorState, run: LiveRun) -> bool:
    attempt = state.attempt(run)
    return attempt.exit_fd is None or not attempt.address_written


async def _reconcile(
    state: SupervisorState, run: LiveRun, status: JobStatus | None, news: News
) -> None:
    """Act on the status of a run's attempt; None: its process has not ended."""
    if is_external(run):
        await external.check_external(state, run)
    elif run.status == RunStatus.QUEUED:
        if status is not None:
            await _handle_submitted(state, run, status, news)
    elif status is not None and status.state is JobState.UNKNOWN:
        await check_running(state, run)  # it may be: what cannot be seen is stopped like all others
        if status.error is not None:
            raise status.error
    elif status is None or status.state in (JobState.RUNNING, JobState.QUEUED):
        attempt = state.attempt(run)
        attempt.is_finished = False  # its machine may have been cut off, and be back
        if attempt.began_at is None and status is not None and status.ran_seconds is not None:
            attempt.began_at = state.clock() - status.ran_seconds
        await _check_suspended(state, run, status)
        # Without, a failure of its machine could not be told.
        if status is not None and status.nodes and status.nodes != attempt.nodes:
            news.nodes.append((key_of(run), status.nodes))
        # First: a full or slow disk must not keep it from being stopped.
        await check_running(state, run)
        await _adopt(state, run)
    elif status.state is JobState.ABSENT:
        await _handle_absent(state, run)
    elif status.record is not None or run.id not in state.starting:
        # The launch that is in progress replaces what a trainer has put in its directory's place.
        await finish(state, run, status)


async def _check_suspended(state: SupervisorState, run: LiveRun, status: JobStatus | None) -> None:
    """Record that the engine keeps a job from running, for as long as it does."""
    if status is not None and status.is_suspended:
        state.pause_clocks(run)
        detail = f"{run.launcher} job {status.engine_id} is suspended."
        await notices.record(state, run, Reason.SUSPENDED, detail)
    elif notices.get(state, run) is Reason.SUSPENDED:
        await notices.record(state, run, None)


async def _adopt(state: SupervisorState, run: LiveRun) -> None:
    """Watch for the end of a living trainer, and tell it where this server is."""
    launcher = state.launcher(run)
    if not uses_files(launcher):
        return
    attempt = state.attempt(run)
    if not attempt.is_watched and isinstance(launcher, WakesUp):
        state.watch(attempt, await asyncio.to_thread(launcher.exit_fd, key_of(run)))
        attempt.is_watched = True
    if not attempt.address_written:
        write = launch_config.write_address
        attempt.address_written = await asyncio.to_thread(write, state, run.id)


async def _handle_absent(state: SupervisorState, run: LiveRun) -> None:
    """Launch a claimed attempt that has left no trace, or make sure that it never begins.

    The server died before the launch, the launch is recent, or its files were removed.
    """
    if not await state.has_data_dir():
        return
    recipe, attempt = state.recipe(run), state.attempt(run)
    if run.heartbeat_at is not None or run.status == RunStatus.RUNNING:
        # It did begin: somebody removed its files. A second launch would run beside it.
        if attempt.launched_at is None:
            attempt.launched_at = state.clock()
        if state.clock() - attempt.launched_at > RELAUNCH_SECONDS:
            await _prevent_start(state, run)
        return
    offer = await asyncio.to_thread(state.launcher(run).offer)
    if offer is not None and offer.host is not None and run.host not in (None, offer.host):
        # Claimed on a machine that is gone, with GPUs of that one: it must not begin here.
        await end_leftovers(state, run)
        detail = "The machine that was to run it is gone; it is started on another."
        await state.db.write(launches.requeue, run.id, run.attempt, detail)
        state.forget(run)
    elif run.status == RunStatus.CANCELLING or recipe is None:
        await _prevent_start(state, run)
    elif run.id not in state.starting and (
        attempt.launched_at is None or state.clock() - attempt.launched_at > RELAUNCH_SECONDS
    ):
        log.info("run %s: launching attempt %d again", run.id, run.attempt)
        await submit(state, run, recipe)


async def _prevent_start(state: SupervisorState, run: LiveRun) -> None:
    """Prevent an attempt from beginning; the next look finds it ended."""
    await end_leftovers(state, run)
    state.wakeup.set()


async def _handle_submitted(
    state: SupervisorState, run: LiveRun, status: JobStatus, news: News
) -> None:
    """Take in the engine's words on a submitted job, or its end before an agent claimed it."""
    recipe = state.recipe(run)
    if status.state is JobState.ENDED:
        why = status.reason_text or "The job ended before it began."
        evidence = Evidence(
            cancel_asked=False,
            cause=status.cause or Cause.NEVER_STARTED,
            cause_detail=status.record.detail if status.record else why,
        )
        await state.db.write(endings.end_submission, run.id, run.attempt, evidence, recipe)
        state.forget(run)
    elif status.state is JobState.ABSENT and recipe is not None and run.id not in state.starting:
        # The claim makes a second submission harmless.
        state.attempt(run).missing_since = None
        if (about := f"submission of {run.id}") not in state.jobs:
            state.start_job(about, submit(state, run, recipe))
    elif status.engine_id is not None or status.word:
        _take_in_engine_words(state, run, status, news.words)


def _take_in_engine_words(
    state: SupervisorState, run: LiveRun, status: JobStatus, words: list[EngineWords]
) -> None:
    """Add what is new of a job that waits; that alone its place has changed is no event."""
    job = f"{run.launcher} job {status.engine_id}" if status.engine_id else f"{run.launcher}"
    said = f"{job}: {status.reason_text or status.word}"
    position = "" if status.position is None else f", place {status.position} in the queue"
    detail, is_new = said + position, state.attempt(run).engine_words != said
    is_known = status.engine_id in (None, run.engine_id)
    if (run.status_reason, run.status_detail) != (
        Reason.WAITING_FOR_CLUSTER,
        detail,
    ) or not is_known:
        words.append(EngineWords(run.id, run.attempt, said, detail, status.engine_id, is_new))
