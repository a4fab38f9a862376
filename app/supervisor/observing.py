"""Observing: what became of every launched run, from the files and the kernel."""

import asyncio
import json
import logging
import time
from pathlib import Path

from pydantic import ValidationError

from app.domain.evidence import Evidence
from app.domain.failpoints import failpoint
from app.domain.ids import seconds_between, timestamp
from app.domain.lifecycle import CheckpointState as State
from app.domain.lifecycle import Reason, RunStatus
from app.domain.recipes import Recipe
from app.errors import ServiceError
from app.launchers.base import Observation
from app.services import checkpoints, launches, reports
from app.services.reports import ReportRequest
from app.store.tables import Run
from app.supervisor import launching, verifying
from app.supervisor.desk import Desk

EXTERNAL_GRACE_SECONDS = 30.0
EXTERNAL_HEARTBEAT_SECONDS = 60.0
RELAUNCH_SECONDS = 5.0

log = logging.getLogger(__name__)


async def observe(desk: Desk) -> None:
    """Looks at every launched run; one that cannot be looked at does not hold up the others."""
    for run in await desk.db.read(launches.launched):
        try:
            if run.recipe is None:
                await _external(desk, run)
            else:
                await _local(desk, run)
        except Exception:
            log.exception("run %s could not be observed; it is tried again", run.id)


async def _local(desk: Desk, run: Run) -> None:
    recipe = desk.recipe(run)
    attempt = (run.id, run.attempt)
    found = await asyncio.to_thread(desk.launcher.observe, desk.run_dir(run.id), run.attempt)
    if found.state == "alive":
        desk.watch(attempt)
        await _alive(desk, run, recipe)
    elif found.state == "absent":
        await _absent(desk, run, recipe)
    else:
        if found.state == "vanished":
            await asyncio.to_thread(desk.launcher.kill, desk.run_dir(run.id), run.attempt)
        await _over(desk, run, recipe, found)
        desk.unwatch(attempt)


async def _alive(desk: Desk, run: Run, recipe: Recipe | None) -> None:
    attempt = (run.id, run.attempt)
    run_dir = desk.run_dir(run.id)
    if run.status == RunStatus.CANCELLING:
        if attempt not in desk.stopped:
            desk.stopped.add(attempt)
            await asyncio.to_thread(desk.launcher.stop, run_dir, run.attempt)
        return
    if recipe is None:
        return
    if run.status == RunStatus.STARTING and not recipe.heartbeat_seconds:
        await desk.db.write(launches.running, run.id, run.attempt)
    limit = desk.resources(run).time_limit_minutes
    if limit is not None and run.launched_at is not None:
        ran = seconds_between(run.launched_at, timestamp())
        if ran > limit * 60 and attempt not in desk.stopped:
            detail = f"The time limit of {limit:g} minutes is over."
            if await desk.db.write(
                launches.condemn, run.id, run.attempt, Reason.TIME_LIMIT, detail
            ):
                desk.stopped.add(attempt)
                await asyncio.to_thread(desk.launcher.stop, run_dir, run.attempt)
    allowed = recipe.heartbeat_seconds if run.status == RunStatus.RUNNING else recipe.start_seconds
    if recipe.heartbeat_seconds and _silence(desk, run) > allowed:
        detail = f"No report for {allowed:g} seconds."
        if await desk.db.write(
            launches.condemn, run.id, run.attempt, Reason.HEARTBEAT_LOST, detail
        ):
            await asyncio.to_thread(desk.launcher.kill, run_dir, run.attempt)


def _silence(desk: Desk, run: Run) -> float:
    """Seconds since the last report; while no server led, nobody could have listened."""
    assert desk.leading_since is not None and run.launched_at is not None
    led = time.monotonic() - desk.leading_since
    return min(led, seconds_between(run.heartbeat_at or run.launched_at, timestamp()))


async def _absent(desk: Desk, run: Run, recipe: Recipe | None) -> None:
    """Claimed, and not a trace: the server died before it launched, or the launch is young."""
    if run.status == RunStatus.CANCELLING or recipe is None:
        # From here on it can never begin; the next look finds it over.
        await asyncio.to_thread(desk.launcher.stop, desk.run_dir(run.id), run.attempt)
        desk.woken.set()
        return
    since = desk.launched_at.get((run.id, run.attempt))
    if since is None or time.monotonic() - since > RELAUNCH_SECONDS:
        log.info("run %s: launching attempt %d again", run.id, run.attempt)
        await launching.relaunch(desk, run, recipe)


async def _over(desk: Desk, run: Run, recipe: Recipe | None, found: Observation) -> None:
    """Takes in what the trainer left on disk, then records how it ended."""
    failpoint("end.before_spool")
    await _deliver_spool(desk, run)
    await verifying.verify(desk)
    await verifying.discover(desk, run)
    failpoint("end.before_record")
    await desk.db.write(
        launches.end, run.id, run.attempt,
        Evidence(
            cancel_asked=False,
            vanished=found.state == "vanished",
            exit_code=found.exit_code,
            signal=found.signal,
            out_of_memory=found.oom,
            launch_error=found.detail if found.never_ran else None,
            stop_sent=found.stop_sent,
            requires_report=recipe.requires_report if recipe else True,
        ),
        recipe,
    )  # fmt: skip


async def _deliver_spool(desk: Desk, run: Run) -> None:
    """Ingests the batches that the trainer could not deliver; those that arrived count once."""
    path = desk.run_dir(run.id) / f"attempt-{run.attempt}" / "reports.jsonl"
    for line in await asyncio.to_thread(_lines, path):
        try:
            report = ReportRequest.model_validate(json.loads(line))
            if report.attempt == run.attempt:
                await desk.db.write(reports.ingest, run.id, report)
        except (ValueError, ValidationError, ServiceError) as error:
            log.warning("run %s: a line of %s is not used: %s", run.id, path, error)


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except FileNotFoundError:
        return []


async def _external(desk: Desk, run: Run) -> None:
    """An external run ends by what its trainer reports, or by its silence."""
    silence = _silence(desk, run)
    if run.status == RunStatus.CANCELLING:
        stop = await desk.db.write(checkpoints.promise, run)
        assert run.cancel_requested_at is not None
        waited = seconds_between(run.cancel_requested_at, timestamp())
        over = bool(run.finished) or stop.state != State.PENDING or waited > EXTERNAL_GRACE_SECONDS
    else:
        over = bool(run.finished)
        if not over and silence > EXTERNAL_HEARTBEAT_SECONDS:
            over = await desk.db.write(
                launches.condemn, run.id, run.attempt, Reason.HEARTBEAT_LOST,
                f"No report for {EXTERNAL_HEARTBEAT_SECONDS:g} seconds.",
            )  # fmt: skip
    if over:
        await desk.db.write(launches.end, run.id, run.attempt, Evidence(False, exit_code=0), None)
