"""A run has reached its end when its trainer said so, or at exactly its last step. Nothing else.

Each story is told in one report and in many: how a trainer batches its points changes nothing.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.db.database import Database
from app.domain.lifecycle import Reason
from app.errors import RunFinished
from app.services import endings
from tests.support.database import postgresql_heavy
from tests.support.stage import Stage

pytestmark = [pytest.mark.anyio, postgresql_heavy]

LOOP = [({"loss": step}, 1000) for step in range(1, 51)]
STORIES: dict[str, tuple[list[tuple[dict[str, int], int | None]], tuple[int, int | None]]] = {
    "one value at an absurd step": ([*LOOP, ({"tokens": 999_999}, None)], (50, 1000)),
    "an absurd step in the middle": (
        [*LOOP[:20], ({"tokens": 999_999}, None), *LOOP[20:]], (50, 1000),
    ),
    "an absurd step, before the total is known": (
        [({"tokens": 999_999}, None), *LOOP], (50, 1000),
    ),
    "an axis of tokens": ([({"loss": 50 * 4096}, 1000)], (0, 1000)),
    "a total of nothing": ([({"loss": 0}, 0)], (0, None)),
    "a step beyond the total": ([({"loss": 51}, 40)], (0, 40)),
    "a step back": ([({"loss": 39}, 40), ({"eval": 38}, 40)], (39, 40)),
}  # fmt: skip


def batches(story: list[tuple[dict[str, int], int | None]], size: int) -> list[dict[str, Any]]:
    """Reports of the story's log calls, so many in each, as rows. The last known total is told."""
    reports = []
    for begin in range(0, len(story), size):
        part = story[begin : begin + size]
        points = [
            {"key": key, "step": step, "value": 1.0}
            for logged, _ in part
            for key, step in logged.items()
        ]
        totals = [total for _, total in part if total is not None]
        reports.append({"points": points, **({"total_steps": totals[-1]} if totals else {})})
    return reports


@pytest.fixture
async def stage(db: Database) -> AsyncIterator[Stage]:
    yield await Stage.open(db)


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("name", [*STORIES])
async def test_a_trainer_that_exits_with_0_before_its_last_step_has_not_finished(
    stage: Stage, name: str, size: int
) -> None:
    story, (step, total) = STORIES[name]
    run = await stage.claim(await stage.submit())
    for report in batches(story, size):
        await stage.report(run, **report)
    run = await stage.get(run)
    assert (run.step, run.total_steps) == (step, total)
    ended = await stage.ends(run, exit_code=0)
    assert (ended.status, ended.status_reason) == ("failed", "unfinished")


@pytest.mark.parametrize("name", [*STORIES])
async def test_an_external_trainer_that_falls_silent_before_its_last_step_has_not_finished(
    stage: Stage, name: str
) -> None:
    run = await stage.submit(None)
    for report in batches(STORIES[name][0], 1):
        await stage.report(run, **report)
    run = await stage.get(run)
    await stage.db.write(endings.request_termination, run, Reason.HEARTBEAT_LOST, "Silence.")
    ended = await stage.ends(run)
    assert (ended.status, ended.status_reason) == ("failed", "heartbeat_lost")


async def test_a_trainer_at_its_last_step_has_finished_whatever_else_it_reported(
    stage: Stage,
) -> None:
    run = await stage.claim(await stage.submit())
    await stage.report(run, step=40, total_steps=40, points=[
        {"key": "tokens", "step": 999_999, "value": 1.0}, {"key": "loss", "step": 40, "value": 1.0},
    ])  # fmt: skip
    await stage.report(run, step=41)  # an evaluation on the next number
    run = await stage.get(run)
    assert (run.step, run.total_steps) == (40, 40)
    assert (await stage.ends(run, exit_code=0)).status == "succeeded"


async def test_a_second_stage_that_counts_from_1_again_has_not_reached_its_end(
    stage: Stage,
) -> None:
    run = await stage.claim(await stage.submit())
    await stage.report(run, step=40, total_steps=40)
    await stage.report(run, step=1, total_steps=30)
    run = await stage.get(run)
    assert (run.step, run.total_steps) == (1, 30)
    assert (await stage.ends(run, exit_code=0)).status_reason == "unfinished"


async def test_a_process_that_attaches_after_the_end_does_not_undo_it(stage: Stage) -> None:
    run = await stage.submit(None)
    await stage.report(run, session="trainer", batch=1, step=40, finished=True, closing=True)
    with pytest.raises(RunFinished):  # a worker that has waited for the trainer to go
        await stage.report(run, session="worker", attempt=None, take_over=True)
    run = await stage.get(run)
    assert (await stage.ends(run)).status == "succeeded"
