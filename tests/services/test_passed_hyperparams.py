"""Hyperparameters that a recipe's command takes are checked before a run is there."""

import pytest

from app.db.database import Database
from app.domain.recipes import Recipe
from app.domain.requests import ResumeRequest, RunRequest
from app.errors import InvalidInput
from app.services import resuming, runs
from tests.support.stage import Stage

RECIPES = {"tiny": Recipe("tiny", ("train", "--x={hyperparams.a/b}"))}
HOSTILE = ["--output_dir=/etc", "1 --steps=2", "$(id)", ["--x"], {"a": 1}]


@pytest.mark.parametrize("value", HOSTILE)
async def test_a_hostile_value_is_refused_with_its_pointer_and_changes_nothing(
    db: Database, value: object
) -> None:
    stage = await Stage.open(db)
    parent = await stage.run("cancelled", saved=True)
    before = await stage.events()
    request = RunRequest(model="m", recipe="tiny", hyperparams={"a/b": value})
    with pytest.raises(InvalidInput, match="'a/b'") as refused:
        await db.write(runs.submit, stage.experiment, request, RECIPES)
    assert refused.value.errors[0]["pointer"] == "/hyperparams/a~1b"
    resume = ResumeRequest(override_hyperparams={"a/b": value})
    with pytest.raises(InvalidInput, match="'a/b'") as refused:
        await db.write(resuming.resume, parent.id, resume, RECIPES)
    assert refused.value.errors[0]["pointer"] == "/override_hyperparams/a~1b"
    assert await stage.events() == before


async def test_what_the_command_does_not_take_may_be_anything(db: Database) -> None:
    stage = await Stage.open(db)
    hyperparams = {"other": HOSTILE, "a/b": "plain"}
    request = RunRequest(model="m", recipe="tiny", hyperparams=hyperparams)
    assert (await db.write(runs.submit, stage.experiment, request, RECIPES)).recipe == "tiny"
