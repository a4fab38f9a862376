"""A run again: all that it was submitted with, and what its trainer ran, recorded and compared."""

import pytest

from app.db.database import Database
from app.db.sql import load
from app.domain.comparison import Section
from app.domain.recipes import Recipe
from app.domain.requests import ResumeRequest
from app.errors import CheckpointLost, InvalidInput, UnknownRecipe
from app.services import checkpoints, overviews, resuming
from tests.support.stage import RECIPES, Stage

pytestmark = pytest.mark.anyio
HYPERPARAMS = {"learning_rate": 0.1, "nested": {"a": [1]}}


async def test_a_rerun_has_all_that_the_run_was_submitted_with(db: Database) -> None:
    stage = await Stage.open(db)
    dataset, resources = {"name": "d"}, {"cpus": 2}
    run = await stage.submit(
        hyperparams=HYPERPARAMS, dataset=dataset, notes="n", resources=resources
    )
    again = await db.write(resuming.rerun, run.id, RECIPES)
    assert again.id != run.id == run.root_run_id and again.root_run_id == again.id
    assert (again.status, again.attempt, again.step) == ("queued", 0, 0)
    for name in (
        "experiment_id",
        "model",
        "recipe",
        "dataset",
        "hyperparams",
        "resources",
        "notes",
    ):
        assert getattr(again, name) == getattr(run, name), name
    assert (again.notes, again.parent_run_id, again.source) == ("n", None, None)
    assert [e.type for e in await stage.events()] == ["experiment.created", *["run.queued"] * 2]


async def test_a_rerun_of_a_resumed_run_starts_from_the_same_checkpoint(db: Database) -> None:
    stage = await Stage.open(db)
    parent = await stage.run("cancelled", saved=True)
    request = ResumeRequest(override_hyperparams={"learning_rate": 1})
    child = await db.write(resuming.resume, parent.id, request, RECIPES)
    again = await db.write(resuming.rerun, child.id, RECIPES)
    for name in ("parent_run_id", "root_run_id", "source_checkpoint_id", "start_step",
                 "settled_step", "override_hyperparams", "hyperparams"):  # fmt: skip
        assert getattr(again, name) == getattr(child, name), name
    source = await db.read(checkpoints.get, child.source_checkpoint_id or "")
    await db.write(checkpoints.mark_lost, source, "It is gone.")
    with pytest.raises(CheckpointLost, match="It is gone"):
        await db.write(resuming.rerun, child.id, RECIPES)


async def test_what_a_recipe_no_longer_takes_is_refused(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.submit(hyperparams={"lr": "$(id)"})
    before = await stage.events()
    with pytest.raises(UnknownRecipe):
        await db.write(resuming.rerun, run.id, {})
    changed = {"tiny": Recipe("tiny", ("x", "{hyperparams.lr}"))}
    with pytest.raises(InvalidInput, match="'lr'"):
        await db.write(resuming.rerun, run.id, changed)
    assert await stage.events() == before


async def test_what_a_trainer_runs_is_kept_and_compared(db: Database) -> None:
    stage = await Stage.open(db)
    one, other = await stage.run("running"), await stage.run("running")
    await stage.report(one, source={"git": {"commit": "a"}, "host": "h"})
    await stage.report(other, source={"git": {"commit": "b"}, "host": "h"})
    await stage.report(other, source={"git": {"commit": "c"}, "host": "h"})
    assert load((await stage.get(other)).source or "") == {"git": {"commit": "c"}, "host": "h"}
    rows = await db.read(lambda tx: list(overviews.compare(tx, [one.id, other.id])))
    found = {row.key: (row.values, row.differs) for row in rows if row.section is Section.SOURCE}
    assert found == {"git.commit": (["a", "c"], True), "host": (["h", "h"], False)}
