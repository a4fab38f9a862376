"""What retention would remove is told before it does: exactly that is what it removes then."""

import random
from array import array
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Executable, select

from app.db.database import Database
from app.db.sql import Tx, changing, columns, query
from app.db.tables import Run
from app.domain.ids import timestamp_after
from app.domain.points import Column
from app.domain.requests import ExperimentRequest, MarkRequest
from app.domain.team import ProjectRequest, ProjectUpdate, RetentionChange
from app.services import (
    experiments,
    expiry,
    expiry_preview,
    marks,
    metrics,
    projects,
    runs,
)
from app.services.expiry import Part, Rule
from app.services.expiry_preview import Removable
from app.storage import data_dir as data_dirs
from app.storage.readers import Readers
from app.supervisor import expiring
from app.supervisor.expiring import expire_runs
from tests.support.stage import SAVED, Stage
from tests.support.supervisor import Recorder, jobs, open_state

pytestmark = pytest.mark.anyio

AGES = (5.0, 20.0, 50.0)
LIMITS = ((None, 1.0, 30.0), (1.0, 1.0, 10.0, 30.0, None), (1.0, 10.0, 30.0, None))
FOREVER = Rule(None, None, None)
Told = tuple[str | None, str | None, str | None]


@query(tuple[str])
def _ids() -> Executable:
    return select(columns(Run).id)


class Forest:
    """Runs of one project, some of which were resumed from others, and a supervisor."""

    def __init__(self, db: Database, stage: Stage, place: Path, dice: random.Random) -> None:
        self.db, self.stage, self.place, self.dice = db, stage, place, dice

    async def grow(self, name: str, size: int) -> str:
        """Make a project with so many ended runs; return its id."""
        project = await self.db.write(projects.create, ProjectRequest(name=name))
        request = ExperimentRequest(name=name, task_type="t", project=name)
        self.stage.experiment = (await self.db.write(experiments.create, request)).id
        grown: list[Run] = []
        for _ in range(size):
            run = await self.stage.run("succeeded", saved=True)
            if grown and self.dice.random() < 0.7:
                await self.change(run, parent_run_id=self.dice.choice(grown[-3:]).id)
            grown.append(await self.age(run))
        return project.id

    async def age(self, run: Run) -> Run:
        """Let a run have ended some time ago, with or without a log, points, and what keeps it."""
        dice, run = self.dice, await self.stage.get(run)
        if dice.random() < 0.7:
            column = Column(range(50), array("d", range(50)), array("d", [0.0] * 50))
            await self.db.write(metrics.write, run, {"loss": column})
        chance = dice.random()
        if chance < 0.04:
            await self.db.write(
                lambda tx: runs.set_tags(tx, runs.change(tx, runs.get(tx, run.id), tags='["keep"]'))
            )
        elif chance < 0.08:
            path = f"/ckpts/{run.experiment_id}/{run.id}/{SAVED}"
            mark = MarkRequest(run_id=run.id, ckpt_path=path, tag_type="final", release_tag=run.id)
            await self.db.write(marks.mark, run.experiment_id, mark)
        ended = timestamp_after(run.created_at, -dice.choice(AGES) * 24 * 3600)
        await self.change(run, finished_at=ended, attempt=dice.choice((0, 1)))
        log = self.place / "runs" / run.id / "train.log"
        log.parent.mkdir(parents=True)
        log.write_text("a line\n" * 100)
        return await self.stage.get(run)

    async def ended(self, days: float) -> Run:
        """A run with a curve and a log that ended so many days ago."""
        run = await self.stage.run("succeeded")
        column = Column(range(50), array("d", range(50)), array("d", [0.0] * 50))
        await self.db.write(metrics.write, run, {"loss": column})
        log = self.place / "runs" / run.id / "train.log"
        log.parent.mkdir(parents=True)
        log.write_text("a line\n" * 100)
        await self.change(run, finished_at=timestamp_after(run.created_at, -days * 24 * 3600))
        return await self.stage.get(run)

    async def change(self, run: Run, **changes: object) -> None:
        await self.db.write(
            lambda tx: tx.run(changing(Run, frozenset(changes)), key=run.id, **changes)
        )

    async def told(self) -> dict[str, Told]:
        """Return what retention has removed of each run."""

        def read(tx: Tx) -> dict[str, Told]:
            found = (runs.get(tx, row[0]) for row in tx.all(_ids))
            return {
                run.id: (run.log_removed_at, run.points_thinned_at, run.points_removed_at)
                for run in found
            }

        return await self.db.read(read)

    async def remove(self) -> None:
        """Let supervisors look until there is nothing more to be removed."""
        before = None
        while before != (before := await self.told()):
            state = open_state(self.db, self.place, Recorder())
            state.data_dir = data_dirs.get_name(self.place)
            await expire_runs(state)
            await jobs(state)

    async def preview(self, project: str, **days: float | None) -> list[Removable]:
        return await expiry_preview.preview(
            self.db, Readers(1), self.place, project, RetentionChange(**days), FOREVER
        )


@pytest.fixture
async def forest(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Forest:
    monkeypatch.setattr(expiring, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(expiring, "AT_ONCE", 2)
    monkeypatch.setattr(expiry_preview, "_PAGE", 3)
    seed = random.randrange(2**32)
    print("seed", seed)
    return Forest(db, await Stage.open(db), tmp_path / "data", random.Random(seed))


async def test_what_is_told_is_what_goes(forest: Forest) -> None:
    """Random forests of resumed runs and random rules: all that passes of the supervisor remove."""
    dice = forest.dice
    for number in range(8):
        project = await forest.grow(f"p{number}", 10)
        for _ in range(3):
            logs, points, curves = map(dice.choice, LIMITS)
            days: Any = {"logs_days": logs, "points_days": points, "curves_days": curves}
            told = await forest.preview(project, **days)
            rules = expiry.Rules({project: Rule(logs, points, curves)})
            ends = (await forest.db.scan(expiry_preview.find, rules)).ends
            before = await forest.told()
            await forest.db.write(projects.update, project, ProjectUpdate(**days))
            await forest.remove()
            after = await forest.told()
            gone = [
                {id for id, what in after.items() if what[i] and not before[id][i]}
                for i in range(3)
            ]
            gone[1] -= gone[2]  # thinned by one pass, removed by the next
            assert gone == [set(ends[part]) for part in Part], (days, before)
            assert [row.runs for row in told] == [len(ids) for ids in gone]
            assert [row.oldest_end for row in told] == [
                min(ends[part].values(), default=None) for part in Part
            ]


@pytest.mark.parametrize("child_days", [5, 50])
async def test_what_a_decision_sets_free_is_told_as_what_becomes_of_it(
    forest: Forest, child_days: int
) -> None:
    project = await forest.grow("pair", 0)
    pair = [await forest.ended(days) for days in (20, child_days)]
    await forest.change(pair[1], parent_run_id=pair[0].id)
    if child_days == 50:  # the child's points have been thinned, which the parent's go with now
        await forest.db.write(projects.update, project, ProjectUpdate(points_days=30))
        await forest.remove()
    told = await forest.preview(project, points_days=1, curves_days=10)
    assert [row.runs for row in told] == ([0, 0, 2] if child_days == 50 else [0, 2, 0])


async def test_bytes_are_those_that_are_there(forest: Forest) -> None:
    project, run = await forest.grow("sized", 0), await forest.ended(20)
    steps = range(50, 2000)
    column = Column(steps, array("d", map(float, steps)), array("d", [0.0] * len(steps)))
    await forest.db.write(metrics.write, run, {"acc": column})
    log, points, curves = await forest.preview(project, logs_days=1, points_days=1)
    assert (log.runs, points.runs, curves.runs) == (1, 1, 0)
    assert log.size_bytes >= 512 and points.size_bytes > 500 and curves.size_bytes == 0
    assert (log.days, points.days, curves.days) == (1, 1, None)
    _, thinned, removed = await forest.preview(project, points_days=1, curves_days=1)
    assert thinned.runs == 0 and removed.size_bytes >= points.size_bytes


async def test_a_preview_of_very_many_runs_says_that_there_are_more(
    forest: Forest, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = await forest.grow("many", 0)
    for _ in range(5):
        await forest.ended(20)
    for most, more in ((4, True), (5, False)):
        monkeypatch.setattr(expiry_preview, "MOST", most)
        rows = await forest.preview(project, logs_days=1, points_days=1, curves_days=None)
        assert [(row.runs, row.more) for row in rows] == [(most, more), (most, more), (0, more)]
