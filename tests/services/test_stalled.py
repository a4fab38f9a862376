"""A trainer that lives and makes no progress, and one that cannot be seen, are told of and stopped.

Seen red: a heartbeat from a side thread was taken for training; an address that a full disk
refused kept cancels and time limits from being acted on; an attempt directory that could not be
read gave two tracebacks a second, and the run said nothing.
"""

import errno
import logging
from pathlib import Path
from typing import Any

import pytest

from app.agent.mailbox import ExitRecord
from app.db.database import Database
from app.db.tables import Run
from app.domain.recipe_file import parse_recipes
from app.domain.recipes import Recipe, RecipeError, StallAction
from app.domain.webhooks import EventType, WebhookRequest
from app.errors import Unavailable
from app.launchers.base import JobState, JobStatus
from app.services import deliveries, endings, progress, runs, webhooks
from app.supervisor.reconcile import reconcile
from app.supervisor.state import SupervisorState
from tests.support.database import postgresql_heavy
from tests.support.stage import Stage
from tests.support.supervisor import Seen, open_state

pytestmark = [pytest.mark.anyio, postgresql_heavy]


RUNNING = JobStatus(JobState.RUNNING, pid=1)
GONE = JobStatus(JobState.ENDED, record=ExitRecord(signal=15, stop_sent=True))


async def open_stalled(
    db: Database, data_dir: Path, recipe: Recipe
) -> tuple[Stage, SupervisorState, Seen, Run]:
    """A run that took five of ten steps, of which nothing but heartbeats came for two minutes."""
    launcher = Seen(RUNNING)
    stage, state = await Stage.open(db), open_state(db, data_dir, launcher, recipe)
    run = await stage.run("running")
    state.run_dir(run.id).mkdir(parents=True)
    await stage.report(run, step=6)
    await reconcile(state)
    state.listening_seconds += 119
    await stage.report(run)
    await reconcile(state)
    assert (await stage.get(run)).status_reason is None
    state.listening_seconds += 2
    await stage.report(run)
    return stage, state, launcher, run


async def types(stage: Stage, run: Run) -> list[str]:
    return [each.type for each in await stage.events() if each.run_id == run.id]


async def test_a_run_that_takes_no_further_step_is_stalled_until_it_goes_on(
    db: Database, tmp_path: Path
) -> None:
    recipe = Recipe("tiny", ("true",), heartbeat_seconds=1000, stall_seconds=120)
    stage, state, launcher, run = await open_stalled(db, tmp_path, recipe)
    hook = WebhookRequest(url="https://a.example.com", types=[EventType.RUN_STALLED])
    told = await db.write(webhooks.create, hook)
    for _ in range(2):
        await reconcile(state)
    (message,) = await db.read(deliveries.list_deliveries, told.id, None, 10)
    assert message.type == "run.stalled" and run.id in message.body
    stalled = await stage.get(run)
    assert (stalled.status, stalled.status_reason) == ("running", "stalled")
    assert stalled.status_detail == "No further step than 6 for 120 seconds."
    assert progress.eta_seconds(stalled) is None
    assert (await types(stage, run))[-1] == "run.stalled"
    # Another server knows it from the record, and does not call it recovered.
    other = open_state(db, tmp_path, launcher, recipe)
    for _ in range(2):
        await reconcile(other)
    assert (await stage.get(run)).status_reason == "stalled"
    await stage.report(run, step=7)
    for _ in range(2):
        await reconcile(other)
    goes_on = await stage.get(run)
    assert (goes_on.status, goes_on.status_reason, goes_on.status_detail) == ("running", None, None)
    assert (await types(stage, run))[-2:] == ["run.stalled", "run.recovered"]
    assert launcher.stopped == []


@pytest.mark.parametrize(
    ("action", "status", "reason"),
    [(StallAction.STOP, "failed", "stalled"), (StallAction.RETRY, "queued", "retrying")],
)
async def test_a_recipe_may_have_a_stalled_run_stopped_or_tried_again(
    db: Database, tmp_path: Path, action: StallAction, status: str, reason: str
) -> None:
    recipe = Recipe(
        "tiny",
        ("true",),
        heartbeat_seconds=1000,
        stall_seconds=120,
        on_stall=action,
        max_attempts=2,
    )
    stage, state, launcher, run = await open_stalled(db, tmp_path, recipe)
    await reconcile(state)
    assert launcher.stopped == [run.id]
    launcher.status = GONE
    for _ in range(2):
        await reconcile(state)
    ended = await stage.get(run)
    assert (ended.status, ended.status_reason) == (status, reason)
    assert "No further step than 6 for 120 seconds." in (ended.status_detail or "")


@pytest.mark.parametrize("change", [{"stall_seconds": 0}, {"finished": True}, {"external": True}])
async def test_silence_of_progress_is_no_stall_where_none_is_to_be_expected(
    db: Database, tmp_path: Path, change: dict[str, Any]
) -> None:
    seconds = change.get("stall_seconds", 120)
    recipe = Recipe("tiny", ("true",), heartbeat_seconds=1000, stall_seconds=seconds)
    launcher = Seen(RUNNING)
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher, recipe)
    state.settings = state.settings.model_copy(update={"external_heartbeat_seconds": 1000.0})
    run = await stage.run("running", recipe=None if "external" in change else "tiny")
    state.run_dir(run.id).mkdir(parents=True)
    if "finished" in change:
        await stage.report(run, finished=True)
    await reconcile(state)
    state.listening_seconds += 500
    await reconcile(state)
    assert (await stage.get(run)).status_reason is None


def test_a_recipe_that_retries_what_stalls_has_attempts_left() -> None:
    text = '[recipes.a]\ncommand = ["a"]\non_stall = "{}"'
    with pytest.raises(RecipeError, match="on_stall: must be one of tell, stop, retry"):
        parse_recipes(text.format("kill"), "file")
    with pytest.raises(RecipeError, match="on_stall: 'retry' needs max_attempts of 2 or more"):
        parse_recipes(text.format("retry"), "file")


async def test_a_disk_that_takes_no_address_keeps_no_trainer_from_being_stopped(
    db: Database, tmp_path: Path
) -> None:
    launcher = Seen(RUNNING)
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher)
    run = await stage.run("running")
    (tmp_path / "runs").touch()  # nothing can be written below it
    await db.write(runs.cancel, run.id)
    await reconcile(state)
    assert launcher.stopped == [run.id]


@pytest.mark.parametrize("left", ["a link", "nothing"])
async def test_a_trainer_that_takes_its_directory_away_is_no_error_of_the_service(
    db: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture, left: str
) -> None:
    launcher = Seen(RUNNING)
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher)
    run = await stage.run("running")
    (tmp_path / "runs").mkdir()
    (tmp_path / "moved").mkdir()
    if left == "a link":
        state.run_dir(run.id).symlink_to(tmp_path / "moved")
    await reconcile(state)
    assert "could not be reconciled" not in caplog.text
    assert not [*(tmp_path / "moved").iterdir()], "nothing is written where a link leads"
    state.run_dir(run.id).unlink(missing_ok=True)
    state.run_dir(run.id).mkdir()
    await reconcile(state)
    assert (state.run_dir(run.id) / "api_url").exists(), "it is tried again"


async def test_a_time_limit_holds_while_the_database_can_record_nothing(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = Seen(RUNNING)
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher)
    run = await stage.submit(resources={"time_limit_minutes": 1})
    run = await stage.claim(run)
    await stage.report(run, step=1)
    state.run_dir(run.id).mkdir(parents=True)
    await reconcile(state)
    start = state.clock()
    state.clock = lambda: start + 61
    write = db.write

    async def full(use_case: Any, *args: Any, **kwargs: Any) -> Any:
        if use_case is endings.request_termination:
            raise Unavailable("The disk is full.")
        return await write(use_case, *args, **kwargs)

    monkeypatch.setattr(db, "write", full)
    await reconcile(state)
    assert launcher.stopped == [run.id]
    monkeypatch.setattr(db, "write", write)
    launcher.status = GONE
    for _ in range(2):
        await reconcile(state)
    ended = await stage.get(run)
    assert (ended.status, ended.status_reason) == ("failed", "time_limit")


async def test_an_attempt_that_cannot_be_read_says_so_once_and_is_stopped_when_that_is_due(
    db: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launcher = Seen(RUNNING)
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher)
    run, other = await stage.run("running"), await stage.run("running")
    for each in (run, other):
        state.run_dir(each.id).mkdir(parents=True)
    launcher.status = JobStatus(JobState.UNKNOWN, error=OSError(errno.EIO, "Input/output error"))
    for _ in range(3):
        await reconcile(state)
    troubled = await stage.get(run)
    assert (troubled.status, troubled.status_reason) == ("running", "service_error")
    assert "Input/output error" in (troubled.status_detail or "")
    told = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    assert len(told) == 2 and run.id in told[0] and other.id in told[1]
    assert (await types(stage, run))[-1] == "run.service_error"
    await db.write(runs.cancel, run.id)
    await reconcile(state)
    assert launcher.stopped == [run.id]
    launcher.status = RUNNING
    await reconcile(state)
    assert (await stage.get(other)).status_reason is None
    assert (await types(stage, other))[-1] == "run.recovered"
