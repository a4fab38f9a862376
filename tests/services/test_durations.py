"""Durations are measured, not read off the wall clock: that is set, or goes back, during a run."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from app.db.database import Database
from app.db.tables import Run
from app.launchers.base import JobState, JobStatus
from app.services import progress
from app.supervisor.reconcile import reconcile
from tests.support.clock import WallClock
from tests.support.server import PATIENCE_SECONDS
from tests.support.stage import Stage
from tests.support.supervisor import Seen, open_state

pytestmark = pytest.mark.anyio


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    return WallClock(monkeypatch)


def training(ran_seconds: float | None) -> Seen:
    """A launcher whose trainers live, and have run for so long."""
    return Seen(JobStatus(JobState.RUNNING, ran_seconds=ran_seconds))


async def limited(stage: Stage, minutes: float) -> Run:
    """A run with this time limit that trains."""
    run = await stage.claim(await stage.submit(resources={"time_limit_minutes": minutes}))
    await stage.report(run, batch=1, step=5, total_steps=10)
    return await stage.get(run)


async def test_a_time_limit_is_held_to_however_the_clock_is_set(
    db: Database, tmp_path: Path, wall: WallClock
) -> None:
    stage, launcher = await Stage.open(db), training(20.0)
    state = open_state(db, tmp_path, launcher)
    run = await limited(stage, 1)
    state.run_dir(run.id).mkdir(parents=True)
    wall.shift(hours=2)
    await reconcile(state)
    assert not launcher.stopped and (await stage.get(run)).termination_reason is None
    wall.shift(hours=-4)
    launcher.status = replace(launcher.status, ran_seconds=61.0)
    await reconcile(open_state(db, tmp_path, launcher))  # a server that has just been started
    assert (
        launcher.stopped == [run.id] and (await stage.get(run)).termination_reason == "time_limit"
    )


async def test_a_time_limit_holds_where_the_start_was_not_recorded(
    db: Database, tmp_path: Path, wall: WallClock
) -> None:
    """By a wrapper of an earlier version: it counts from when this server first saw it."""
    stage, launcher = await Stage.open(db), training(None)
    state = open_state(db, tmp_path, launcher)
    run = await limited(stage, 1e-3)
    state.run_dir(run.id).mkdir(parents=True)
    wall.shift(hours=2)
    await reconcile(state)
    assert not launcher.stopped
    began = time.monotonic()
    while not launcher.stopped:
        await reconcile(state)
        assert time.monotonic() - began < PATIENCE_SECONDS
    assert (await stage.get(run)).termination_reason == "time_limit"


async def test_an_eta_follows_the_steps_and_not_the_clock(db: Database, wall: WallClock) -> None:
    stage = await Stage.open(db)
    run = await stage.claim(await stage.submit())
    for batch, hours in enumerate((0, 2, -4), start=1):
        wall.shift(hours)
        await stage.report(run, batch=batch, step=10 * batch, total_steps=40)
    eta = progress.eta_seconds(await stage.get(run))
    assert eta is not None and 0 <= eta < 60


async def test_a_first_report_says_nothing_of_the_pace(db: Database) -> None:
    """A trainer that somebody else started may have come to its step in a week."""
    stage = await Stage.open(db)
    for recipe in (None, "tiny"):
        run = await stage.submit(recipe)
        run = run if recipe is None else await stage.claim(run)
        await stage.report(run, batch=1)
        await stage.report(run, batch=2, step=5_000, total_steps=10_000)
        assert progress.eta_seconds(await stage.get(run)) is None
        await stage.report(run, batch=3, step=5_001)
        eta = progress.eta_seconds(await stage.get(run))
        assert eta is not None and eta > 0


async def test_the_pace_is_that_of_this_attempt_and_of_time_that_was_measured(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    here = "this boot"
    monkeypatch.setattr(progress, "_read_clock", lambda: (here, now))
    stage = await Stage.open(db)
    run = await stage.run("running")
    now = 120.0
    await stage.report(run, batch=2, step=6)
    assert progress.eta_seconds(await stage.get(run)) == 80.0
    here, now = "after another boot", 1.0  # 600 steps in a time that nobody can tell
    await stage.report(run, batch=3, step=606, total_steps=610)
    assert progress.eta_seconds(await stage.get(run)) == 80.0
    now = 3.0
    await stage.report(run, batch=4, step=607)
    assert progress.eta_seconds(await stage.get(run)) == 33.0
    again = await stage.claim(await stage.retries(run, exit_code=1))
    await stage.report(again, batch=1, step=608)
    assert progress.eta_seconds(await stage.get(again)) is None


class Ticks:
    """A clock that a test moves, and what the supervisor counts as listening by it."""

    def __init__(self, db: Database, tmp_path: Path) -> None:
        self.now = 1000.0
        self.state = open_state(db, tmp_path, training(None))
        self.state.clock = lambda: self.now
        self.state.ticked_at = self.now

    def tick(self, after: float) -> float:
        """Return the seconds that count of those before this tick."""
        before, self.now = self.state.listening_seconds, self.now + after
        self.state.begin_tick(leads=True)
        return self.state.listening_seconds - before


async def test_a_pause_of_the_machine_is_no_silence_of_its_trainers(
    db: Database, tmp_path: Path
) -> None:
    ticks = Ticks(db, tmp_path)
    assert ticks.tick(0.5) == 0.5
    assert ticks.tick(3600.0) <= 1.0, "it was suspended for an hour"


async def test_while_reports_are_rejected_nobody_is_silent(db: Database, tmp_path: Path) -> None:
    ticks = Ticks(db, tmp_path)
    db.write_rejected_at = ticks.now
    assert sum(ticks.tick(1.0) for _ in range(10)) == 0.0, "trainers may be sending them again"
    assert sum(ticks.tick(1.0) for _ in range(30)) >= 20.0
