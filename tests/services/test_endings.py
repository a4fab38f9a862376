"""What is on record of a run's end: why the service ended it, and what its cancel left behind.

Seen red: a cancelled external trainer that had reported a failure was waited for its whole grace.
"""

from pathlib import Path

import pytest

from app.db.database import Database
from app.domain.lifecycle import Reason
from app.services import endings, runs
from app.supervisor.reconcile import reconcile
from tests.support.stage import Stage
from tests.support.supervisor import Recorder, open_state

pytestmark = pytest.mark.anyio


async def test_a_decision_to_end_a_trainer_outlives_the_reports_that_come_after_it(
    db: Database,
) -> None:
    """The first report moves the run to running, and later ones tell of its hyperparameters."""
    stage = await Stage.open(db)
    starting = await stage.run("starting")
    over = "The time limit of 1 minutes is over."
    assert await db.write(endings.request_termination, starting, Reason.TIME_LIMIT, over)
    await stage.report(starting, batch=1, step=5, total_steps=10)
    shown = await stage.get(starting)
    assert (shown.status, shown.status_reason) == ("running", "time_limit")
    await stage.report(starting, batch=2, effective_hyperparams={"lr": 0.1})
    ended = await stage.ends(starting, exit_code=0, stop_sent=True)
    assert (ended.status, ended.status_reason) == ("failed", "time_limit")
    assert ended.status_detail == f"{over} Exited with code 0 after the stop signal."


async def test_a_retry_does_not_inherit_the_reason_for_which_the_last_attempt_was_ended(
    db: Database,
) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running")
    await db.write(
        endings.request_termination, run, Reason.HEARTBEAT_LOST, "No report for 60 seconds."
    )
    again = await stage.claim(await stage.retries(run, signal=9))
    await stage.report(again, batch=1, step=7)
    ended = await stage.ends(again, exit_code=3)
    assert (ended.status, ended.status_reason) == ("failed", "exit_code")


async def test_a_run_cancelled_between_two_attempts_does_not_blame_a_trainer(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.retries(await stage.run("running"), exit_code=3)
    cancelled = await db.write(runs.cancel, run.id)
    assert cancelled.checkpoint.reason == (
        "No trainer ran when it was cancelled. "
        "It was at step 5, and there is no earlier checkpoint."
    )


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        ({"exit_code": 0, "stop_sent": True}, "The trainer saved nothing when it was stopped."),
        ({"signal": 9, "killed": True}, "The trainer was killed before it had saved."),
        ({"is_lost": True}, "The trainer was gone before it had saved."),
        ({"signal": 11}, "The trainer was gone before it had saved."),
        ({"launch_error": "No such file."}, "The trainer never began."),
    ],
)
async def test_a_cancel_that_left_nothing_says_the_true_reason(
    db: Database, evidence: dict[str, object], reason: str
) -> None:
    stage = await Stage.open(db)
    run = await stage.run("cancelling")
    ended = await stage.ends(run, **evidence)
    promised = await stage.named(ended, "cancel-1")
    assert promised.reason == f"{reason} It was at step 5, and there is no earlier checkpoint."


@pytest.mark.parametrize("first", ["cancel", "report"])
@pytest.mark.parametrize(
    ("report", "detail"),
    [({"failed": "The disk is full."}, "The disk is full."), ({"finished": True}, None)],
)
async def test_a_cancelled_external_trainer_that_tells_its_end_is_not_waited_for(
    db: Database, tmp_path: Path, first: str, report: dict[str, object], detail: object
) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    run = await stage.run("running", recipe=None, saved=True)
    if first == "report":
        await stage.report(run, **report)
        await db.write(runs.cancel, run.id)
    else:
        await db.write(runs.cancel, run.id)
        await reconcile(state)
        assert (await stage.get(run)).status == "cancelling", "it may still save"
        await stage.report(run, **report)
    await reconcile(state)
    ended = await stage.get(run)
    assert (ended.status, ended.status_reason) == ("cancelled", "cancel_requested")
    assert ended.status_detail == detail
    promised = await stage.named(ended, "cancel-1")
    assert (promised.state, promised.step) == ("declared", 5)
