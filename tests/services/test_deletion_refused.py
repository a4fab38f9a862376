"""Deletion takes no run that trains, no release, and nothing that a resumed run begins with."""

import pytest

from app.db.database import Database
from app.domain.lifecycle import TERMINAL, RunStatus
from app.domain.requests import MarkRequest, ResumeRequest
from app.errors import StillNeeded
from app.services import deletion, marks, removals, resuming, runs
from tests.support.stage import RECIPES, SAVED, Stage

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stage(db: Database) -> Stage:
    return await Stage.open(db)


@pytest.mark.parametrize("status", [each.value for each in RunStatus if each not in TERMINAL])
async def test_a_run_that_has_not_ended_is_refused(stage: Stage, status: str) -> None:
    run = await stage.run(status)
    for call in (
        lambda tx: deletion.delete_run(tx, run.id),
        lambda tx: deletion.delete_experiment(tx, run.experiment_id),
    ):
        with pytest.raises(StillNeeded, match="has not ended") as refused:
            await stage.db.write(call)
        assert refused.value.extra == {"needed_for": "run_not_ended", "needed_by": [run.id]}
    assert (await stage.get(run)).status == status


@pytest.mark.parametrize(("tag_type", "release"), [("final", "v1"), ("release", None)])
async def test_a_release_is_refused(stage: Stage, tag_type: str, release: str | None) -> None:
    run = await stage.run("succeeded", saved=True)
    path = f"/ckpts/{run.experiment_id}/{run.id}/{SAVED}"
    mark = MarkRequest(run_id=run.id, ckpt_path=path, tag_type=tag_type, release_tag=release)
    await stage.db.write(marks.mark, run.experiment_id, mark)
    for call in (
        lambda tx: deletion.delete_run(tx, run.id),
        lambda tx: deletion.delete_experiment(tx, run.experiment_id),
    ):
        with pytest.raises(StillNeeded, match="release") as refused:
            await stage.db.write(call)
        assert refused.value.extra == {"needed_for": "release", "needed_by": [path]}
    assert await stage.db.read(removals.list_removals, 10) == []


async def test_what_a_resumed_run_begins_with_is_refused_while_that_run_stays(stage: Stage) -> None:
    run = await stage.run("succeeded", saved=True)
    child = await stage.db.write(resuming.resume, run.id, ResumeRequest(), RECIPES)
    await stage.db.write(runs.cancel, child.id)
    with pytest.raises(StillNeeded, match="resumed") as refused:
        await stage.db.write(deletion.delete_run, run.id)
    assert refused.value.extra == {"needed_for": "resumed_run", "needed_by": [child.id]}
    await stage.db.write(deletion.delete_run, child.id)
    await stage.db.write(deletion.delete_run, run.id)
