"""What a recipe's rule finds in the metrics is on record, also after a write that failed."""

from pathlib import Path

import pytest

from app.db.database import Database
from app.domain.health import HealthRule, Rule
from app.domain.recipes import Recipe
from app.errors import Unavailable
from app.services import health, live_runs
from app.supervisor.health import check_health
from tests.support.stage import Stage
from tests.support.supervisor import Recorder, open_state

pytestmark = pytest.mark.anyio


async def test_a_finding_that_could_not_be_recorded_is_found_again(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the detectors went on after a write that the database refused."""
    stage = await Stage.open(db)
    recipe = Recipe("tiny", ("true",), health=(Rule(HealthRule.ABOVE, "loss", 3),))
    run = await stage.run("running")
    state = open_state(db, tmp_path, Recorder())

    async def check() -> list[int]:
        (live,) = await db.read(live_runs.list_launched)
        await check_health(state, live, recipe)
        return [finding.step for finding in await db.read(health.list_of_run, run.id)]

    def refuse(*_: object) -> None:
        raise Unavailable("The disk is full.")

    await stage.report(run, metrics={"loss": {"steps": [6], "values": [1]}})
    assert await check() == []
    await stage.report(run, metrics={"loss": {"steps": [7], "values": [4]}})
    with monkeypatch.context() as full, pytest.raises(Unavailable):
        full.setattr(health, "record", refuse)
        await check()
    assert await check() == [7]
