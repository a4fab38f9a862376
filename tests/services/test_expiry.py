"""Retention of logs and points: what is past its time goes, on record, whole, and nothing else."""

import json
import random
from array import array
from pathlib import Path

import pytest
from sqlalchemy import ColumnElement, create_engine, func, select
from sqlmodel import SQLModel

from app.db.database import Database
from app.db.sql import changing
from app.db.tables import Run
from app.domain import failpoints
from app.domain.ids import timestamp_after
from app.domain.permissions import DEFAULT_PROJECT
from app.domain.points import Column
from app.domain.requests import MarkRequest, ResumeRequest
from app.domain.team import ProjectUpdate
from app.errors import LogRemoved
from app.services import (
    curves,
    deletion,
    expiry,
    log_streams,
    marks,
    metrics,
    projects,
    resuming,
    runs,
    train_log,
)
from app.storage import data_dir as data_dirs
from app.supervisor import expiring
from app.supervisor.expiring import expire_runs
from app.supervisor.state import SupervisorState
from tests.support.stage import RECIPES, SAVED, Stage
from tests.support.supervisor import Recorder, jobs, open_state

pytestmark = pytest.mark.anyio

POINTS = 1500
SPIKE = 777
FAILPOINTS = ["expire.decided", "expire.points", "expire.curves", "expire.log", "expire.finished"]


@pytest.fixture(autouse=True)
def armed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_armed", {})
    monkeypatch.setattr(expiring, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(expiring, "AT_ONCE", 2)


class Scene:
    """A stage whose runs ended some days ago, and a supervisor."""

    def __init__(self, db: Database, stage: Stage, place: Path, url: str) -> None:
        self.db, self.stage, self.place, self.url = db, stage, place, url

    def restart(
        self, logs: float | None = None, points: float | None = None, curves: float | None = None
    ) -> SupervisorState:
        """A supervisor that remembers nothing, of a service with these settings."""
        self.state = open_state(self.db, self.place, Recorder())
        self.state.settings.logs_days, self.state.settings.points_days = logs, points
        self.state.settings.curves_days = curves
        self.state.data_dir = data_dirs.get_name(self.place)
        return self.state

    async def trained(self, days_ago: float, recipe: str | None = "tiny") -> Run:
        """A run with a log and a long curve, which ended so many days ago."""
        run = await self.stage.run("running", recipe, saved=True)
        draw = random.Random(7)
        values = array("d", (draw.random() for _ in range(POINTS)))
        values[SPIKE] = 99.0
        column = Column(range(1, POINTS + 1), values, array("d", [float("nan")] * POINTS))
        await self.db.write(metrics.write, run, {"loss": column})
        log = self.log(run)
        log.parent.mkdir(parents=True)
        log.write_text("a line\n")
        (log.parent / "mine.bin").write_text("the trainer's")
        await self.stage.report(run, finished=True)
        run = await self.stage.ends(run)
        assert run.finished_at is not None
        ended = {"finished_at": timestamp_after(run.finished_at, -days_ago * 24 * 3600)}
        await self.db.write(lambda tx: tx.run(changing(Run, frozenset(ended)), key=run.id, **ended))
        return await self.stage.get(run)

    def log(self, run: Run) -> Path:
        return self.place / "runs" / run.id / "train.log"

    async def passed(
        self, logs: float | None = None, points: float | None = None, curves: float | None = None
    ) -> None:
        """One look of a fresh supervisor at all runs."""
        state = self.restart(logs, points, curves)
        await expire_runs(state)
        await jobs(state)

    async def steps(self, run: Run) -> list[int]:
        read = await self.db.read(curves.read, [run.id], ["loss"])
        return [step for curve in read for step in curve.steps]

    async def check_curves_gone(self, run: Run) -> None:
        """No point is left, in no table; the latest value is; and both are on record once."""
        found = await self.stage.get(run)
        assert found.points_removed_at is not None
        assert await self.steps(run) == []
        assert self.rows_of("metric_series", run) == 0
        latest = await self.db.read(metrics.list_latest, run.id)
        assert [(row.key, row.step) for row in latest] == [("loss", POINTS)]
        told = await self.events_of(run)
        assert told.count("run.points_removed") == 1

    def rows_of(self, table: str, run: Run) -> int:
        return self.count(table, SQLModel.metadata.tables[table].c.run_id == run.id)

    async def events_of(self, run: Run) -> list[str]:
        return [e.type for e in await self.stage.events() if e.run_id == run.id]

    def pending(self) -> int:
        return self.count("expiration")

    def count(self, name: str, *where: ColumnElement[bool]) -> int:
        engine = create_engine(self.url)
        counted = select(func.count()).select_from(SQLModel.metadata.tables[name]).where(*where)
        with engine.connect() as connection:
            count: int = connection.execute(counted).scalar_one()
        engine.dispose()
        return count

    async def check_whole(self, run: Run) -> None:
        """Nothing is gone, and nothing says so."""
        found = await self.stage.get(run)
        told = found.log_removed_at, found.points_thinned_at, found.points_removed_at
        assert told == (None, None, None)
        assert len(await self.steps(run)) == POINTS
        assert self.log(run).read_text() == "a line\n"
        assert not {*await self.events_of(run)} & {*expiry.EVENTS.values()}

    async def check_expired(self, run: Run) -> None:
        """Log and points are removed as the rule says, and each removal is recorded once."""
        found = await self.stage.get(run)
        assert found.log_removed_at is not None and found.points_thinned_at is not None
        assert not self.log(run).exists()
        assert (self.log(run).parent / "mine.bin").read_text() == "the trainer's"
        steps = await self.steps(run)
        assert len(steps) < POINTS / 20
        assert {1, SPIKE + 1, POINTS} <= {*steps}, "the ends of a curve and its spike stay"
        told = await self.events_of(run)
        assert [told.count(name) for name in expiry.EVENTS.values()] == [1, 1, 0]
        with pytest.raises(LogRemoved, match="Retention removed"):
            await self.db.read(log_streams.get_run, run.id)


@pytest.fixture
async def scene(db: Database, tmp_path: Path, database_url: str) -> Scene:
    return Scene(db, await Stage.open(db), tmp_path / "data", database_url)


async def test_without_a_rule_all_is_kept(scene: Scene) -> None:
    run = await scene.trained(days_ago=5000)
    await scene.passed()
    await scene.check_whole(run)


async def test_what_is_past_its_time_goes_and_is_on_record(scene: Scene) -> None:
    old, young = await scene.trained(days_ago=31), await scene.trained(days_ago=29)
    later = await scene.trained(days_ago=40)
    await scene.passed(logs=30, points=30)
    await scene.check_expired(old)
    await scene.check_expired(later)
    await scene.check_whole(young)
    assert scene.pending() == 0
    (event,) = [e for e in await scene.stage.events() if e.run_id == old.id and "thinned" in e.type]
    assert json.loads(event.data)["kept_days"] == 30
    assert event.actor_kind == "supervisor"

    before = await scene.steps(old), await scene.stage.events()
    await scene.passed(logs=30, points=30)
    assert (await scene.steps(old), await scene.stage.events()) == before, "once is enough"


async def test_logs_and_points_have_times_of_their_own(scene: Scene) -> None:
    run = await scene.trained(days_ago=10)
    await scene.passed(logs=5, points=20)
    found = await scene.stage.get(run)
    assert found.log_removed_at is not None and found.points_thinned_at is None
    assert len(await scene.steps(run)) == POINTS
    await scene.passed(logs=5, points=8)
    await scene.check_expired(run)


async def test_curves_go_after_a_time_of_their_own_and_the_latest_values_stay(
    scene: Scene,
) -> None:
    old, thinned = await scene.trained(days_ago=400), await scene.trained(days_ago=100)
    young = await scene.trained(days_ago=10)
    await scene.passed(points=90, curves=365)
    await scene.check_curves_gone(old)
    assert (await scene.stage.get(old)).points_thinned_at is None, "what goes is not thinned first"
    assert 0 < len(await scene.steps(thinned)) < POINTS / 20
    await scene.check_whole(young)
    assert scene.count("metric_chunk") > 0 and scene.pending() == 0
    (event,) = [e for e in await scene.stage.events() if e.type == "run.points_removed"]
    assert json.loads(event.data)["kept_days"] == 365
    assert event.actor_kind == "supervisor"

    await scene.passed(points=50, curves=90)
    await scene.check_curves_gone(thinned)
    await scene.check_curves_gone(old)
    told = await scene.events_of(thinned)
    assert told.index("run.points_thinned") < told.index("run.points_removed")
    await scene.check_whole(young)
    rule = ProjectUpdate(curves_days=5)
    await scene.db.write(projects.update, DEFAULT_PROJECT, rule)
    await scene.passed()
    await scene.check_curves_gone(young)
    assert scene.count("metric_chunk") == scene.count("metric_series") == 0
    before = await scene.stage.events()
    await scene.passed(points=1, curves=1)
    assert await scene.stage.events() == before, "once is enough"


async def test_curves_stay_with_a_release_the_tag_keep_and_a_curve_that_begins_with_them(
    scene: Scene,
) -> None:
    released, kept = await scene.trained(days_ago=100), await scene.trained(days_ago=100)
    parent = await scene.trained(days_ago=100)
    path = f"/ckpts/{released.experiment_id}/{released.id}/{SAVED}"
    mark = MarkRequest(run_id=released.id, ckpt_path=path, tag_type="final", release_tag="v1")
    await scene.db.write(marks.mark, released.experiment_id, mark)
    await scene.db.write(
        lambda tx: runs.set_tags(tx, runs.change(tx, runs.get(tx, kept.id), tags='["keep"]'))
    )
    child = await scene.db.write(resuming.resume, parent.id, ResumeRequest(), RECIPES)
    await scene.passed(curves=1)
    for run in (released, kept, parent):
        await scene.check_whole(run)

    # The child ends without a point of its own: its curve is its parent's, and goes with it.
    await scene.db.write(runs.cancel, child.id)
    ended = {"finished_at": timestamp_after(parent.finished_at or "", 0)}
    await scene.db.write(lambda tx: tx.run(changing(Run, frozenset(ended)), key=child.id, **ended))
    await scene.passed(curves=1)
    await scene.passed(curves=1)
    await scene.check_curves_gone(parent)
    assert (await scene.stage.get(child)).points_removed_at is not None
    for run in (released, kept):
        await scene.check_whole(run)


async def test_the_rule_of_a_project_comes_before_that_of_the_service(scene: Scene) -> None:
    run = await scene.trained(days_ago=10)
    rule = ProjectUpdate(logs_days=100, points_days=100)
    await scene.db.write(projects.update, DEFAULT_PROJECT, rule)
    await scene.passed(logs=1, points=1)
    await scene.check_whole(run)
    rule = ProjectUpdate(logs_days=9, points_days=9)
    await scene.db.write(projects.update, DEFAULT_PROJECT, rule)
    await scene.passed()
    await scene.check_expired(run)


@pytest.mark.parametrize("release", [True, False])
async def test_releases_and_what_has_the_tag_keep_stay(scene: Scene, release: bool) -> None:
    run = await scene.trained(days_ago=100)
    if release:
        path = f"/ckpts/{run.experiment_id}/{run.id}/{SAVED}"
        mark = MarkRequest(run_id=run.id, ckpt_path=path, tag_type="final", release_tag="v1")
        await scene.db.write(marks.mark, run.experiment_id, mark)
    else:
        kept = '["keep"]'
        await scene.db.write(
            lambda tx: runs.set_tags(tx, runs.change(tx, runs.get(tx, run.id), tags=kept))
        )
    await scene.passed(logs=1, points=1)
    await scene.check_whole(run)


async def test_the_points_that_another_curve_begins_with_stay_as_long_as_that(scene: Scene) -> None:
    run = await scene.trained(days_ago=100)
    child = await scene.db.write(resuming.resume, run.id, ResumeRequest(), RECIPES)
    await scene.passed(points=1)
    assert len(await scene.steps(run)) == POINTS
    await scene.db.write(runs.cancel, child.id)
    await scene.db.write(deletion.delete_run, child.id)
    await scene.passed(points=1)
    assert len(await scene.steps(run)) < POINTS / 20


async def test_an_external_run_has_no_log_that_could_go(scene: Scene) -> None:
    run = await scene.trained(days_ago=100, recipe=None)
    await scene.passed(logs=1, points=1)
    found = await scene.stage.get(run)
    assert found.log_removed_at is None and found.points_thinned_at is not None


async def test_a_run_that_has_not_ended_is_left_alone(scene: Scene) -> None:
    run = await scene.stage.run("running", saved=True)
    await scene.passed(logs=1e-9, points=1e-9)
    assert (await scene.stage.get(run)).points_thinned_at is None


@pytest.mark.parametrize("failpoint", FAILPOINTS)
async def test_a_crash_leaves_nothing_half_told_and_is_finished_after_a_restart(
    scene: Scene, failpoint: str
) -> None:
    first, second = await scene.trained(days_ago=100), await scene.trained(days_ago=99)
    failpoints.activate(failpoint, "raise")
    rule = {"logs": 1.0, "curves" if failpoint == "expire.curves" else "points": 1.0}
    await scene.passed(**rule)
    if failpoint == "expire.decided":
        assert scene.pending() == 0
        await scene.check_whole(first)
    else:
        assert scene.pending() > 0
    for run in (first, second):
        found = await scene.stage.get(run)
        assert scene.log(run).exists() or found.log_removed_at is not None, "told before it goes"
        fewer = len(await scene.steps(run)) < POINTS
        assert not fewer or found.points_thinned_at or found.points_removed_at
    failpoints._armed.clear()
    # What was decided is done, even if the rule is another one by now.
    await scene.passed()
    assert scene.pending() == 0
    await scene.passed(**rule)
    for run in (first, second):
        if failpoint == "expire.curves":
            await scene.check_curves_gone(run)
        else:
            await scene.check_expired(run)


async def test_a_log_that_cannot_be_removed_does_not_keep_those_of_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await scene.trained(days_ago=100), await scene.trained(days_ago=99)
    remove = train_log.remove

    def refuse(run_dir: Path) -> None:
        if run_dir.name == first.id:
            raise PermissionError(1, "not permitted")
        remove(run_dir)

    with monkeypatch.context() as patched:
        patched.setattr(train_log, "remove", refuse)
        await scene.passed(logs=1, points=1)
    assert scene.log(first).exists() and scene.pending() == 1
    await scene.check_expired(second)
    await scene.passed(logs=1, points=1)
    await scene.check_expired(first)


async def test_a_data_directory_that_is_away_still_has_its_logs(scene: Scene) -> None:
    run = await scene.trained(days_ago=100)
    state = scene.restart(logs=1)
    state.data_dir = "another"
    await expire_runs(state)
    await jobs(state)
    assert scene.log(run).exists() and scene.pending() == 1


async def test_the_logs_of_ranks_go_with_the_log_and_nothing_else_does(
    scene: Scene, tmp_path: Path
) -> None:
    run = await scene.trained(days_ago=100)
    ranks = scene.log(run).parent / "ranks" / "attempt_0" / "1"
    ranks.mkdir(parents=True)
    for name in ("stdout.log", "stderr.err", "model.bin"):
        (ranks / name).write_text("of rank 1")
    (tmp_path / "elsewhere.log").write_text("somebody's")
    (ranks / "link.log").symlink_to(tmp_path / "elsewhere.log")
    (ranks / "folder.log").mkdir()
    (ranks.parent / "2").symlink_to(tmp_path)
    await scene.passed(logs=1)
    assert not scene.log(run).exists()
    assert {path.name for path in ranks.iterdir()} == {"model.bin", "folder.log"}
    assert (tmp_path / "elsewhere.log").exists()


async def test_a_deleted_run_leaves_nothing_to_do(scene: Scene) -> None:
    run = await scene.trained(days_ago=100)
    failpoints.activate("expire.points", "raise")
    failpoints.activate("expire.log", "raise")
    await scene.passed(logs=1, points=1)
    assert scene.pending() > 0
    await scene.db.write(deletion.delete_run, run.id)
    assert scene.pending() == 0


async def test_a_link_in_the_place_of_a_log_leads_nowhere(scene: Scene, tmp_path: Path) -> None:
    run = await scene.trained(days_ago=100)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    scene.log(run).unlink()
    scene.log(run).symlink_to(precious)
    await scene.passed(logs=1)
    assert precious.read_text() == "mine" and not scene.log(run).is_symlink()
