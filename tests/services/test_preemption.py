"""Runs that yield to those of a higher priority, and quotas, through the supervisor's own steps."""

from pathlib import Path

import pytest

from app.db.database import Database
from app.db.sql import changing, load
from app.db.tables import Checkpoint
from app.domain.evidence import Evidence
from app.domain.permissions import DEFAULT_PROJECT
from app.domain.priority import Priority
from app.domain.recipes import Recipe
from app.domain.requests import ExperimentRequest
from app.domain.team import ProjectRequest, ProjectUpdate
from app.launchers.base import JobState, JobStatus
from app.services import endings, experiments, live_runs, projects, quotas, runs
from app.supervisor.reconcile import reconcile
from app.supervisor.state import SupervisorState
from tests.support.database import postgresql_heavy
from tests.support.stage import Stage
from tests.support.supervisor import TINY, Recorder, Seen, launch, open_state

pytestmark = [pytest.mark.anyio, postgresql_heavy]

HELD = {"count": 2}


async def train(stage: Stage, state: SupervisorState) -> str:
    """A run of low priority that trains on both GPUs of the machine, and has saved."""
    run = await stage.submit(priority=Priority.LOW, resources=HELD)
    await launch(state)
    claimed = await stage.get(run)
    assert claimed.status == "starting"
    await stage.report(claimed, batch=1, step=5, total_steps=10)
    await stage.saves(claimed, "step-000005", 5)
    return run.id


async def reasons(stage: Stage, run_id: str) -> list[tuple[str, object]]:
    return [(each.type, load(each.data).get("reason")) for each in await stage.events()
            if each.run_id == run_id]  # fmt: skip


async def test_a_lower_run_yields_with_its_checkpoint_and_goes_on_by_itself(
    db: Database, tmp_path: Path
) -> None:
    launcher = Seen(JobStatus(JobState.RUNNING))
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher)
    low = await train(stage, state)
    high = await stage.submit(priority=Priority.HIGH, resources=HELD)
    await launch(state)
    told = await db.read(runs.get, low)
    assert (told.status, told.status_reason) == ("running", "preempted")
    assert told.status_detail == f"Makes room for {high.id}, whose priority is high."
    await reconcile(state)
    assert launcher.stopped == [low]  # as by hand: it may save
    await launch(state)
    assert (await stage.get(high)).status == "queued"  # until the other has gone

    # The recipe retries nothing; that it saved and left with 0 is no success and no failure.
    end = Evidence(cancel_asked=False, exit_code=0, stop_sent=True)
    assert await db.write(endings.finish_attempt, low, 1, end, TINY, frozenset())
    waits = await db.read(runs.get, low)
    assert (waits.status, waits.status_reason, waits.preemptions) == ("queued", "preempted", 1)
    await launch(state)
    assert (await stage.get(high)).status == "starting"
    assert (await db.read(runs.get, low)).status == "queued"

    await stage.ends(await stage.get(high))
    await launch(state)
    again = await db.read(runs.get, low)
    assert (again.status, again.attempt) == ("starting", 2)
    assert [pair for pair in await reasons(stage, low) if pair[1] == "preempted"] == [
        ("run.stopping", "preempted"), ("run.queued", "preempted"),
    ]  # fmt: skip


@pytest.mark.parametrize("why", ["not saved", "not allowed", "same priority", "too often"])
async def test_who_may_not_be_preempted_goes_on(db: Database, tmp_path: Path, why: str) -> None:
    recipe = Recipe("tiny", ("true",), preemptible=why != "not allowed")
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder(), recipe)
    priority = Priority.HIGH if why == "same priority" else Priority.LOW
    run = await stage.submit(priority=priority, resources=HELD)
    await launch(state)
    claimed = await stage.get(run)
    await stage.report(claimed, batch=1, step=5, total_steps=10)
    if why != "not saved":
        await stage.saves(claimed, "step-000005", 5)
    if why == "too often":
        now = await stage.get(run)
        await db.write(lambda tx: runs.change(tx, now, preemptions=3))
    high = await stage.submit(priority=Priority.HIGH, resources=HELD)
    await launch(state)
    assert (await stage.get(run)).status_reason is None
    assert (await stage.get(high)).status_reason == "waiting_for_resources"


async def test_a_run_may_yield_as_soon_as_it_has_saved(db: Database, tmp_path: Path) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    run = await stage.submit(priority=Priority.LOW, resources=HELD)
    await launch(state)
    claimed = await stage.get(run)
    await stage.report(claimed, batch=1, step=5, total_steps=10)
    await stage.submit(priority=Priority.HIGH, resources=HELD)
    await launch(state)
    assert (await stage.get(run)).status_reason is None
    assert await db.read(live_runs.list_saved) == set()
    await stage.saves(claimed, "step-000005", 5)
    assert await db.read(live_runs.list_saved) == {run.id}
    await launch(state)
    assert (await stage.get(run)).status_reason == "preempted"


async def test_who_is_cancelled_while_it_yields_is_cancelled(db: Database, tmp_path: Path) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    low = await train(stage, state)
    await stage.submit(priority=Priority.HIGH, resources=HELD)
    await launch(state)
    await db.write(runs.cancel, low)
    ended = await stage.ends(await db.read(runs.get, low), exit_code=0, stop_sent=True)
    assert ended.status == "cancelled"


async def test_a_run_that_came_to_its_end_while_it_was_to_yield_has_succeeded(
    db: Database, tmp_path: Path
) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    low = await train(stage, state)
    await stage.submit(priority=Priority.HIGH, resources=HELD)
    await launch(state)
    await stage.report(await db.read(runs.get, low), batch=2, step=10, finished=True)
    end = Evidence(cancel_asked=False, exit_code=0, stop_sent=True)
    await db.write(endings.finish_attempt, low, 1, end, TINY, frozenset())
    assert (await db.read(runs.get, low)).status == "succeeded"


async def other_stage(db: Database, project: str) -> Stage:
    """Another project, and an experiment in it."""
    await db.write(projects.create, ProjectRequest(name=project))
    request = ExperimentRequest(name="other", task_type="test", project=project)
    return Stage(db, (await db.write(experiments.create, request)).id)


async def test_who_yields_to_another_project_is_not_told_to_which_run(
    db: Database, tmp_path: Path
) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    low, other = await train(stage, state), await other_stage(db, "other")
    high = await other.submit(priority=Priority.HIGH, resources=HELD)
    await launch(state)
    told = await db.read(runs.get, low)
    expected = "Makes room for a run of another project, whose priority is high."
    assert (told.status_reason, told.status_detail) == ("preempted", expected)
    assert not [event for event in await stage.events() if high.id in event.data]


async def test_a_quota_holds_up_its_project_alone_and_ends_when_it_is_raised(
    db: Database, tmp_path: Path
) -> None:
    launcher = Recorder(("A100",) * 4)
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher, places=100)
    other = await other_stage(db, "other")
    await db.write(projects.update, DEFAULT_PROJECT, ProjectUpdate(max_runs=1, max_gpus=2))
    first = await stage.submit(resources={"count": 1})
    second = await stage.submit(resources={"count": 1})
    foreign = await other.submit(resources={"count": 1})
    await launch(state)
    assert sorted(launcher.launched) == sorted([first.id, foreign.id])
    waits = await stage.get(second)
    assert (waits.status_reason, waits.status_detail) == (
        "waiting_for_quota", "Its project may have 1 at a time.",
    )  # fmt: skip
    use = await db.read(quotas.find_use, DEFAULT_PROJECT)
    assert (use.runs, use.gpus, use.bytes) == (1, 1, 0)
    await db.write(projects.update, DEFAULT_PROJECT, ProjectUpdate(max_runs=2))
    await launch(state)
    assert (await stage.get(second)).status == "starting"
    third = await stage.submit()
    await db.write(projects.update, DEFAULT_PROJECT, ProjectUpdate(max_runs=None))
    more = await stage.submit(resources={"count": 1})
    await launch(state)
    assert (await stage.get(third)).status == "starting"  # it needs no GPU
    assert (await stage.get(more)).status_reason == "waiting_for_quota"


async def test_a_project_whose_checkpoints_are_too_large_starts_no_more(
    db: Database, tmp_path: Path
) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    (saved,) = await stage.checkpoints(await stage.run("succeeded", saved=True))
    grow = changing(Checkpoint, frozenset({"size_bytes"}))
    await db.write(lambda tx: tx.run(grow, key=saved.id, size_bytes=10))
    await db.write(projects.update, DEFAULT_PROJECT, ProjectUpdate(max_bytes=10))
    run = await stage.submit()
    await launch(state)
    assert (await stage.get(run)).status_reason == "waiting_for_quota"
    use = await db.read(quotas.find_use, DEFAULT_PROJECT)
    assert (use.bytes, use.quota.max_bytes) == (10, 10)
    await db.write(projects.update, DEFAULT_PROJECT, ProjectUpdate(max_bytes=11))
    await launch(state)
    assert (await stage.get(run)).status == "starting"


async def test_the_project_with_the_smaller_share_is_next(db: Database, tmp_path: Path) -> None:
    launcher = Recorder(("A100",) * 3)
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher, places=100)
    other = await other_stage(db, "other")
    flood = [await stage.submit(resources={"count": 1}) for _ in range(6)]
    late = [await other.submit(resources={"count": 1}) for _ in range(2)]
    await launch(state)
    assert sorted(launcher.launched) == [flood[0].id, flood[1].id, late[0].id]
    await stage.ends(await stage.get(late[0]))
    await launch(state)
    assert launcher.launched[3:] == [late[1].id]
    assert (await stage.get(flood[2])).status == "queued"
