"""Deletion takes all of a run or nothing, also where a server dies, and never what is needed."""

import json
from functools import cache
from pathlib import Path

import pytest
from llm_train import checkpoint
from sqlalchemy import TextClause, create_engine, func, select, text
from sqlmodel import SQLModel

from app.db import thinning
from app.db.chunks import CHUNK
from app.db.database import Database
from app.db.tables import Run
from app.domain import failpoints
from app.domain.requests import ResumeRequest, VerifyRequest
from app.domain.webhooks import WebhookRequest
from app.errors import NotFound
from app.services import (
    deletion,
    deliveries,
    experiments,
    labels,
    models,
    removals,
    resuming,
    runs,
    usage,
    verifications,
    webhooks,
)
from app.services.removals import SERIES_AT_ONCE
from app.storage import data_dir as data_dirs
from app.storage.artifacts import Owner
from app.supervisor.deleting import remove_deleted
from app.supervisor.state import SupervisorState
from tests.support.stage import RECIPES, SAVED, Stage
from tests.support.supervisor import Recorder, jobs, open_state

pytestmark = pytest.mark.anyio

KEPT = {"attempt_usage", "deletion", "event"}
"""Tables in which a deleted run's id stays."""
FAILPOINTS = [
    "delete.rows", "delete.points", "delete.checkpoints", "delete.artifacts", "delete.logs",
    "delete.finished",
]  # fmt: skip


@pytest.fixture(autouse=True)
def armed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_armed", {})


@cache
def search() -> TextClause:
    """Return the query of the tables in which `:word` stands: hundreds of parts, made once."""
    parts = []
    for table in SQLModel.metadata.sorted_tables:
        texts = [c.name for c in table.columns if str(c.type) in ("VARCHAR", "TEXT")]
        likes = " OR ".join(f'CAST("{name}" AS TEXT) LIKE :word' for name in texts)
        if likes:
            found = f'EXISTS (SELECT 1 FROM "{table.name}" WHERE {likes})'
            parts.append(f"SELECT '{table.name}' WHERE {found}")
    return text(" UNION ALL ".join(parts))


class Scene:
    """A stage whose runs have files of every kind, and a supervisor."""

    def __init__(self, db: Database, stage: Stage, place: Path, url: str) -> None:
        self.db, self.stage, self.place, self.url = db, stage, place, url
        self.state = self.restart()

    def restart(self) -> SupervisorState:
        """A supervisor that remembers nothing."""
        self.state = open_state(self.db, self.place, Recorder())
        self.state.data_dir = data_dirs.get_name(self.place)
        return self.state

    async def trained(self, status: str = "succeeded") -> Run:
        """A run with a checkpoint, points, a log, an artifact, tags, labels and a model."""
        run = await self.stage.run("running", saved=True)
        await self.stage.report(run, batch=2, metrics={"loss": {"steps": [1, 2], "values": [2, 1]}})
        await self.db.write(labels.set_labels, run.id, {"who": "me"})
        await self.db.write(labels.add_alias, "mlflow", run.id, run.id)
        await self.db.write(
            lambda tx: runs.set_tags(tx, runs.change(tx, runs.get(tx, run.id), tags='["t"]'))
        )
        model = await self.db.write(
            models.create, run.experiment_id, run.id, "best", None, {}, {"a": "b"}
        )
        self.state.artifacts.put(Owner(run.experiment_id, model.id), "weights", [b"w"])
        self.state.artifacts.put(Owner(run.experiment_id, run.id), "plot.png", [b"p"])
        folder = self.place / "ckpts" / run.experiment_id / run.id
        (checkpoint.begin(folder, SAVED) / "w").write_text("w")
        log = self.place / "runs" / run.id / "train.log"
        log.parent.mkdir(parents=True)
        log.write_text("a line\n")
        if status == "succeeded":
            await self.stage.report(run, finished=True)
            run = await self.stage.ends(run)
        await self.db.write(verifications.start, run.experiment_id, VerifyRequest(run_id=run.id))
        return await self.stage.get(run)

    def tables_with(self, word: str) -> set[str]:
        """The tables in which this word stands, in any column."""
        engine = create_engine(self.url)
        with engine.connect() as connection:
            found = {str(name) for name in connection.scalars(search(), {"word": f"%{word}%"})}
        engine.dispose()
        return found

    def points(self) -> int:
        engine = create_engine(self.url)
        chunks = SQLModel.metadata.tables["metric_chunk"]
        with engine.connect() as connection:
            count: int = connection.execute(select(func.count()).select_from(chunks)).scalar_one()
        engine.dispose()
        return count

    def files_with(self, text: str) -> list[Path]:
        return [path for path in self.place.rglob("*") if text in str(path)]

    def files(self) -> list[Path]:
        """All files but the data directory's own name."""
        return sorted(p for p in self.place.rglob("*") if p.is_file() and p.name != "id")

    async def removed(self) -> None:
        await remove_deleted(self.state)
        await jobs(self.state)


@pytest.fixture
async def scene(db: Database, tmp_path: Path, database_url: str) -> Scene:
    return Scene(db, await Stage.open(db), tmp_path / "data", database_url)


async def test_a_deleted_run_is_gone_at_once_and_its_files_soon(scene: Scene) -> None:
    run, other = await scene.trained(), await scene.trained()
    assert len(scene.tables_with(run.id)) >= 12, "this test would see what is left"
    before = scene.points()

    deleted = await scene.db.write(deletion.delete_run, run.id)
    assert (deleted.run_id, deleted.runs, deleted.checkpoints) == (run.id, 1, 1)
    with pytest.raises(NotFound):
        await scene.db.read(runs.get, run.id)
    assert scene.tables_with(run.id) == KEPT | {"removal", "metric_series"}
    assert scene.files_with(run.id), "the disk is not part of the transaction"

    await scene.removed()
    assert scene.tables_with(run.id) == KEPT
    assert scene.files_with(run.id) == []
    assert scene.points() == before / 2
    done = await scene.db.read(deletion.get, deleted.id)
    assert done.finished_at is not None
    # Nothing of the other run went with it.
    assert len(scene.tables_with(other.id)) >= 12
    assert len(scene.files_with(other.id)) >= 5
    account = await scene.db.read(usage.account, usage.By.RUN, usage.Period(), "", 10)
    assert {each.group for each in account} == {run.id, other.id}, "its hours were spent"


async def test_a_run_with_more_curves_than_are_removed_at_once_leaves_none(scene: Scene) -> None:
    run = await scene.stage.run("running")
    curves = {f"m{number}": {"steps": [1], "values": [1]} for number in range(SERIES_AT_ONCE + 1)}
    await scene.stage.report(run, batch=2, metrics=curves, finished=True)
    run = await scene.stage.ends(run)
    assert scene.points() > SERIES_AT_ONCE
    await scene.db.write(deletion.delete_run, run.id)
    await scene.removed()
    assert scene.points() == 0


async def test_a_long_curve_is_removed_a_few_chunks_at_a_time(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that removed 50 million points held up a submit for eight seconds."""
    monkeypatch.setattr(thinning, "REMOVED", 2)
    run = await scene.stage.run("running")
    count = 5 * CHUNK
    curve = {"steps": list(range(count)), "values": [0.5] * count}
    await scene.stage.report(run, batch=2, metrics={"long": curve}, finished=True)
    run = await scene.stage.ends(run)
    left = [scene.points()]
    while await scene.db.write(removals.remove_points, run.id):
        left.append(scene.points())
    assert left[-1] == 0
    assert len(left) > 2 and left[1] >= 3, "rows of chunks"


async def test_a_tombstone_stays_and_the_history_has_no_gap(scene: Scene) -> None:
    run = await scene.trained()
    before = len(await scene.stage.events())
    await scene.db.write(deletion.delete_run, run.id)
    events = await scene.stage.events()
    assert len(events) == before + 1
    tombstone = events[-1]
    assert (tombstone.type, tombstone.run_id) == ("run.deleted", run.id)
    assert json.loads(tombstone.data)["checkpoints"] == 1
    assert {e.data for e in events[:-1] if e.run_id == run.id} == {"{}"}


@pytest.mark.parametrize("failpoint", FAILPOINTS)
async def test_a_crash_leaves_all_or_nothing_and_is_finished_after_a_restart(
    scene: Scene, failpoint: str
) -> None:
    run = await scene.trained()
    before, files = scene.tables_with(run.id), scene.files()
    failpoints.activate(failpoint, "raise")
    committed = failpoint != "delete.rows"
    if committed:
        await scene.db.write(deletion.delete_run, run.id)
        await scene.removed()
        assert scene.tables_with(run.id) <= KEPT | {"removal", "metric_series"}
    else:
        with pytest.raises(failpoints.FailpointReached):
            await scene.db.write(deletion.delete_run, run.id)
        assert (scene.tables_with(run.id), scene.files()) == (before, files)
    failpoints._armed.clear()
    scene.restart()
    if not committed:
        await scene.removed()
        assert scene.files() == files
        await scene.db.write(deletion.delete_run, run.id)
    await scene.removed()
    await scene.removed()
    assert (scene.tables_with(run.id), scene.files(), scene.points()) == (KEPT, [], 0)


@pytest.mark.parametrize("failpoint", FAILPOINTS)
async def test_an_experiment_goes_with_all_its_runs_whenever_a_server_dies(
    scene: Scene, failpoint: str
) -> None:
    run, other = await scene.trained(), await scene.trained()
    id = run.experiment_id
    before = (scene.tables_with(id), scene.files())
    failpoints.activate(failpoint, "raise")
    if failpoint == "delete.rows":
        with pytest.raises(failpoints.FailpointReached):
            await scene.db.write(deletion.delete_experiment, id)
        assert (scene.tables_with(id), scene.files()) == before
        failpoints._armed.clear()
    deleted = await scene.db.write(deletion.delete_experiment, id)
    await scene.removed()  # as far as the failpoint
    with pytest.raises(NotFound):
        await scene.db.read(experiments.get, id)
    failpoints._armed.clear()
    scene.restart()
    await scene.removed()
    await scene.removed()
    assert (scene.files(), scene.points()) == ([], 0)
    assert {*scene.tables_with(run.id), *scene.tables_with(other.id)} == {"attempt_usage"}
    done = await scene.db.read(deletion.get, deleted.id)
    assert (done.runs, done.checkpoints) == (2, 2) and done.finished_at is not None


async def test_a_repeated_deletion_is_the_same(scene: Scene) -> None:
    run = await scene.trained()
    first = await scene.db.write(deletion.delete_run, run.id)
    assert (await scene.db.write(deletion.delete_run, run.id, run.experiment_id)).id == first.id
    with pytest.raises(NotFound):
        await scene.db.write(deletion.delete_run, run.id, "exp_of_somebody_else")
    whole = await scene.db.write(deletion.delete_experiment, run.experiment_id)
    assert (await scene.db.write(deletion.delete_experiment, run.experiment_id)).id == whole.id
    newest = await scene.db.read(deletion.list_newest, None, 10)
    assert [each.id for each in newest] == [whole.id, first.id]
    assert [each.id for each in await scene.db.read(deletion.list_newest, whole.id, 10)] == [
        first.id
    ]


async def test_an_experiment_goes_with_all_of_its_runs(scene: Scene, db: Database) -> None:
    other = await Stage.open(db)
    kept = await other.run("succeeded", saved=True)
    run = await scene.trained()
    child = await db.write(resuming.resume, run.id, ResumeRequest(), RECIPES)
    await db.write(runs.cancel, child.id)
    hook = WebhookRequest(url="https://a.example.com", experiment_id=run.experiment_id)
    hook_id = (await db.write(webhooks.create, hook)).id
    await db.write(deliveries.send_test, hook_id)
    await db.write(models.create, run.experiment_id, None, "of the experiment", None, {}, {})

    deleted = await db.write(deletion.delete_experiment, run.experiment_id)
    assert (deleted.name, deleted.runs, deleted.run_id) == ("stage", 2, None)
    with pytest.raises(NotFound):
        await db.read(experiments.get, run.experiment_id)
    await scene.removed()
    assert scene.tables_with(run.id) == {"attempt_usage"}
    assert scene.tables_with(run.experiment_id) == {"attempt_usage", "deletion"}
    assert scene.tables_with(hook_id) == set()
    assert scene.files_with(run.id) == []
    assert (await db.read(deletion.get, deleted.id)).finished_at is not None
    assert (await other.get(kept)).status == "succeeded"
    assert len(await other.checkpoints(kept)) == 1


async def test_an_empty_experiment_is_deleted_at_once(db: Database) -> None:
    stage = await Stage.open(db)
    deleted = await db.write(deletion.delete_experiment, stage.experiment)
    assert deleted.finished_at is not None
    with pytest.raises(NotFound):
        await db.write(deletion.delete_experiment, "exp_none")


async def test_files_that_cannot_be_removed_do_not_keep_those_of_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await scene.trained(), await scene.trained()
    monkeypatch.setattr("app.supervisor.deleting.PAUSE_SECONDS", 0)
    remove = scene.state.storage.remove_run

    def refuse(experiment_id: str, run_id: str) -> None:
        if run_id == first.id:
            raise PermissionError(1, "not permitted")
        remove(experiment_id, run_id)

    with monkeypatch.context() as patched:
        patched.setattr(scene.state.storage, "remove_run", refuse)
        for run in (first, second):
            await scene.db.write(deletion.delete_run, run.id)
        await scene.removed()
        assert scene.files_with(second.id) == [] and scene.files_with(first.id)
        assert "removal" in scene.tables_with(first.id)
    await scene.removed()
    assert scene.files_with(first.id) == []


async def test_a_data_directory_that_is_away_still_has_its_files(scene: Scene) -> None:
    run = await scene.trained()
    scene.state.data_dir = "another"
    await scene.db.write(deletion.delete_run, run.id)
    await remove_deleted(scene.state)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("app.supervisor.deleting.PAUSE_SECONDS", 0)
        await jobs(scene.state)
    assert scene.files_with(run.id)
    assert "removal" in scene.tables_with(run.id)


async def test_a_link_in_the_place_of_a_runs_directory_leads_nowhere(
    scene: Scene, tmp_path: Path
) -> None:
    run = await scene.trained()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "precious").write_text("mine")
    folder = scene.place / "runs" / run.id
    folder.rename(scene.place / "elsewhere")
    folder.symlink_to(foreign)
    await scene.db.write(deletion.delete_run, run.id)
    await scene.removed()
    assert not folder.is_symlink()
    assert (foreign / "precious").read_text() == "mine"
