"""Who starts when, who waits for what, and that no run holds up others."""

import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from app.db.database import Database
from app.db.sql import Statement
from app.db.tables import Run
from app.domain.evidence import Evidence
from app.domain.ids import seconds_between, timestamp
from app.domain.lifecycle import RunStatus
from app.domain.recipe_file import parse_recipes
from app.domain.recipes import Recipe, RecipeError
from app.domain.requests import RunRequest
from app.services import endings, runs
from app.supervisor import retrying
from app.supervisor.reconcile import reconcile
from tests.support.stage import Stage
from tests.support.supervisor import Recorder, launch, open_state

pytestmark = pytest.mark.anyio

_RESOURCES = Statement[Any](update(Run).values(resources='{"gpu_type": " "}'))


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_gpu_type_is_refused_in_a_request_as_in_a_recipe(blank: str) -> None:
    with pytest.raises(ValueError, match="gpu_type"):
        RunRequest.model_validate({"model": "m", "resources": {"gpu_type": blank}})
    recipe = f'[recipes.a]\ncommand = ["a"]\nresources = {{ gpu_type = {blank!r} }}'
    with pytest.raises(RecipeError, match="resources: gpu_type"):
        parse_recipes(recipe.replace("'", '"'), "recipes.toml")


async def test_a_run_that_cannot_be_looked_at_waits_with_a_reason_and_the_others_start(
    db: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An older version stored what this one cannot read."""
    launcher = Recorder()
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher)
    broken = await stage.submit()
    await db.write(lambda tx: tx.run(_RESOURCES))
    fine = await stage.submit()
    for _ in range(3):
        await launch(state)
    assert launcher.launched == [fine.id]
    waits = await stage.get(broken)
    assert (waits.status, waits.status_reason) == ("queued", "service_error")
    assert waits.status_detail is not None and "gpu_type" in waits.status_detail
    told = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert len(told) == 1 and broken.id in told[0].getMessage()
    events = [each.type for each in await stage.events() if each.run_id == broken.id]
    assert events == ["run.queued", "run.waiting"]


async def count_waiting(stage: Stage) -> int:
    return sum(each.type == "run.waiting" for each in await stage.events())


async def test_a_waiting_run_is_told_a_new_reason_and_not_each_new_number(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 runs wait while ten others end, one after the other."""
    launcher = Recorder(("A100",) * 12)
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher, places=100)
    running = [await stage.submit(resources={"count": 1}) for _ in range(12)]
    await launch(state)
    assert sorted(launcher.launched) == [each.id for each in running]
    for _ in range(200):
        await stage.submit(resources={"count": 12})
    write, transactions = db.write, 0

    async def counted(use_case: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal transactions
        transactions += 1
        return await write(use_case, *args, **kwargs)

    monkeypatch.setattr(db, "write", counted)
    await launch(state)
    assert (await count_waiting(stage), transactions) == (200, 1)
    for run in running[:10]:
        await write(
            endings.finish_attempt, run.id, 1, Evidence(False, exit_code=1), None, frozenset()
        )
        await launch(state)
    assert (await count_waiting(stage), transactions) == (200, 1)


async def test_attempts_that_fail_at_once_are_tried_again_after_longer_and_longer_pauses(
    db: Database, tmp_path: Path
) -> None:
    recipe = Recipe("tiny", ("false",), max_attempts=4, retry_seconds=10)
    launcher = Recorder()
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher, recipe)
    run = await stage.submit()
    clock = time.monotonic()
    state.clock = lambda: clock
    for attempt, pause in enumerate((10, 20, 40), start=1):
        await launch(state)
        assert len(launcher.launched) == attempt
        crash = Evidence(False, exit_code=1)
        await db.write(endings.finish_attempt, run.id, attempt, crash, recipe, frozenset())
        waits = await stage.get(run)
        assert (waits.status, waits.status_reason) == ("queued", "retrying")
        assert waits.next_attempt_at is not None
        ended = (await stage.events())[-1]
        assert abs(seconds_between(ended.at, waits.next_attempt_at) - pause) < 1
        await launch(state)
        clock += pause - 2
        await launch(state)
        assert len(launcher.launched) == attempt
        assert (await stage.get(run)).status_reason == "retrying"
        clock += 2
    await launch(state)
    started = await stage.get(run)
    assert (started.status, started.next_attempt_at) == ("starting", None)


@pytest.mark.parametrize("clock_moved", [-7200, 7200])
async def test_a_clock_that_is_set_moves_no_attempt_that_is_waited_for(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock_moved: float
) -> None:
    recipe = Recipe("tiny", ("false",), max_attempts=2, retry_seconds=10)
    launcher = Recorder()
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher, recipe)
    run = await stage.submit()
    await launch(state)
    await db.write(
        endings.finish_attempt, run.id, 1, Evidence(False, exit_code=1), recipe, frozenset()
    )
    await launch(state)
    now = time.time()
    monkeypatch.setattr(retrying, "timestamp", lambda: timestamp(moment(now + clock_moved)))
    await launch(state)
    assert len(launcher.launched) == 1
    state.clock = lambda: time.monotonic() + 11
    await launch(state)
    assert len(launcher.launched) == 2


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


async def test_what_a_run_on_another_machine_holds_is_free_on_ours(
    db: Database, tmp_path: Path
) -> None:
    """After a take-over the runs of the old machine go on there."""
    there, here = Recorder(("A100",)), Recorder(("A100",))
    there.host = "another machine"
    stage = await Stage.open(db)
    state = open_state(db, tmp_path, there, places=1)
    old = await stage.submit(resources={"count": 1})
    await launch(state)
    assert (await stage.get(old)).host == "another machine"
    state = open_state(db, tmp_path, here, places=1)
    new = await stage.submit(resources={"count": 1})
    third = await stage.submit(resources={"count": 1})
    await launch(state)
    assert here.launched == [new.id]
    assert ((await stage.get(new)).host, (await stage.get(new)).gpus) == (here.host, '["0"]')
    assert (await stage.get(third)).status == "queued"
    await stage.ends(await stage.get(new))
    assert (await stage.get(new)).host is None


async def test_a_claim_of_a_machine_that_died_is_made_anew_with_gpus_of_ours(
    db: Database, tmp_path: Path
) -> None:
    there, here = Recorder(("A100",)), Recorder(("A100",))
    there.host = "another machine"
    stage = await Stage.open(db)
    holds = await stage.submit(resources={"count": 1})
    await launch(open_state(db, tmp_path, here))
    claimed = await stage.submit(resources={"count": 1})
    await launch(open_state(db, tmp_path, there))
    assert there.launched == [claimed.id]  # and never began
    state = open_state(db, tmp_path, here)
    await reconcile(state)
    await launch(state)
    assert claimed.id not in here.launched
    assert (await stage.get(claimed)).status == "queued"
    await stage.ends(await stage.get(holds))
    await launch(state)
    assert here.launched[-1] == claimed.id
    assert (await stage.get(claimed)).attempt == 2


async def test_a_run_that_waits_for_one_kind_of_gpu_does_not_hold_up_another_kind(
    db: Database, tmp_path: Path
) -> None:
    launcher = Recorder(("H100", "T4", "T4"))
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher)
    first = await stage.submit(resources={"gpu_type": "H100"})
    waits = await stage.submit(resources={"gpu_type": "H100"})
    behind = await stage.submit(resources={"gpu_type": "H100"})
    small = await stage.submit(resources={"gpu_type": "T4"})
    any_kind = await stage.submit(resources={"count": 1})
    await launch(state)
    assert sorted(launcher.launched) == [first.id, small.id, any_kind.id]
    await launch(state)
    detail = (await stage.get(waits)).status_detail
    assert detail == "Needs 1 × H100; other runs hold too many of the 1 here."
    said = (await stage.get(behind)).status_detail
    assert said == "Waits behind an older run that needs GPUs. It is number 2 in the queue."


async def test_small_runs_do_not_overtake_one_that_needs_every_cpu_for_ever(
    db: Database, tmp_path: Path
) -> None:
    launcher = Recorder()
    cpus = launcher.offer().cpus
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher, places=100)
    running = await stage.submit(resources={"cpus": cpus / 2})
    await launch(state)
    large = await stage.submit(resources={"cpus": cpus})
    small = await stage.submit(resources={"cpus": cpus / 2})
    gpu = await stage.submit(resources={"count": 1})
    free = await stage.submit()
    await launch(state)
    assert sorted(launcher.launched) == [running.id, gpu.id, free.id]
    said = (await stage.get(small)).status_detail
    assert said == "Waits behind an older run that needs CPUs. It is number 2 in the queue."
    await stage.ends(await stage.get(running))
    await launch(state)
    assert launcher.launched[3:] == [large.id]


async def test_a_runs_place_in_the_queue_is_told_and_its_change_alone_is_no_event(
    db: Database, tmp_path: Path
) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder(), places=1)
    first, *waiting = [await stage.submit() for _ in range(4)]

    async def told() -> list[str]:
        await launch(state)
        return [(await stage.get(run)).status_detail or "" for run in waiting]

    plain, *others = await told()
    assert "queue" not in plain and plain
    assert others == [f"{plain} It is number {place} in the queue." for place in (2, 3)]
    events = [event.type for event in await stage.events() if event.run_id == waiting[2].id]
    assert events == ["run.queued", "run.waiting"]
    await db.write(runs.move, await stage.get(first), RunStatus.FAILED)
    assert (await told())[1:] == [plain, f"{plain} It is number 2 in the queue."]
    events = [event.type for event in await stage.events() if event.run_id == waiting[2].id]
    assert events == ["run.queued", "run.waiting"]


async def test_a_place_far_behind_is_a_round_number(db: Database, tmp_path: Path) -> None:
    """Else each start would change every row of a long queue."""
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder(), places=1)
    await stage.submit()
    waiting = [await stage.submit() for _ in range(102)]
    await launch(state)
    for index, place in ((99, "number 100"), (100, "about number 200"), (101, "about number 200")):
        assert f"It is {place} in the queue." in (
            (await stage.get(waiting[index])).status_detail or ""
        )
