"""What a project wants to be told of is told once for each run, also after a restart.

Seen red: without the look at what is on record, a new leader fired what had fired before.
"""

from pathlib import Path
from typing import Any

import pytest

from app.db.database import Database
from app.db.sql import dump, load
from app.db.tables import AlertRule, Run
from app.domain.alerts import AlertRuleRequest, AlertRuleUpdate
from app.domain.lifecycle import Reason
from app.domain.requests import MarkRequest, RedactRequest
from app.domain.webhooks import EventType, WebhookRequest
from app.errors import Unavailable
from app.services import alerts, deletion, deliveries, marks, metric_alerts, redaction, webhooks
from app.supervisor.alerts import check_alerts
from app.supervisor.state import SupervisorState
from tests.support.stage import Stage
from tests.support.supervisor import Recorder, jobs, open_state

pytestmark = pytest.mark.anyio


async def rule(db: Database, **body: Any) -> AlertRule:
    return await db.write(alerts.create, AlertRuleRequest.model_validate_json(dump(body)))


async def told(stage: Stage, run: Run) -> list[tuple[str, str]]:
    """Each alert of a run: what happened, and the kind of its rule."""
    found = [event for event in await stage.events() if event.type.startswith("alert.")]
    return [(e.type[6:], load(e.data)["kind"]) for e in found if e.run_id == run.id]


async def look(db: Database, data_dir: Path) -> SupervisorState:
    """Return what a leader that has just begun finds."""
    state = open_state(db, data_dir, Recorder())
    await check_alerts(state)
    await jobs(state)
    return state


async def again(state: SupervisorState) -> None:
    state.alert_watches.looked_at = float("-inf")
    await check_alerts(state)
    await jobs(state)


def losses(first: int, *values: float) -> dict[str, Any]:
    steps = list(range(first, first + len(values)))
    return {"metrics": {"loss": {"steps": steps, "values": list(values)}}}


async def test_a_threshold_fires_once_until_it_recovers_whoever_looks(
    db: Database, tmp_path: Path
) -> None:
    stage = await Stage.open(db)
    made = await rule(
        db, kind="metric_threshold", metric="loss", direction="above", value=3, points=2
    )
    run = await stage.run("running")
    await stage.report(run, **losses(1, 4, 2, 4))
    state = await look(db, tmp_path)
    assert await told(stage, run) == []
    await stage.report(run, **losses(4, 4, 5))
    await again(state)
    await look(db, tmp_path)  # another leader reads everything once more
    assert await told(stage, run) == [("fired", "metric_threshold")]
    (alert,) = await db.read(alerts.list_alerts, {"run_id": run.id}, True)
    assert (alert.rule_id, alert.step, alert.value, alert.recovered_at) == (made.id, 4, 4.0, None)
    await stage.report(run, **losses(6, 1, 1))
    await again(state)
    await look(db, tmp_path)
    assert [each[0] for each in await told(stage, run)] == ["fired", "recovered"]
    assert await db.read(alerts.list_alerts, {}, True) == []
    await stage.report(run, **losses(8, 9, 9))
    await look(db, tmp_path)
    assert [each[0] for each in await told(stage, run)] == ["fired", "recovered", "fired"]


async def test_the_last_points_of_a_run_that_has_ended_are_looked_at(
    db: Database, tmp_path: Path
) -> None:
    stage = await Stage.open(db)
    await rule(db, kind="metric_threshold", metric="loss", direction="below", value=0.5)
    run = await stage.run("running")
    await stage.report(run, **losses(6, 1, 0.1))
    await stage.ends(run, is_lost=True, ended_by_service=Reason.LOST)
    late = await rule(db, kind="metric_threshold", metric="loss", direction="below", value=0.6)
    await look(db, tmp_path)
    assert await told(stage, run) == [("fired", "metric_threshold")]
    assert await db.read(alerts.list_alerts, {"rule_id": late.id}, False) == []


async def test_events_fire_the_rules_of_their_project_in_their_own_transaction(
    db: Database,
) -> None:
    stage = await Stage.open(db)
    hook = await db.write(
        webhooks.create, WebhookRequest(url="https://a.example", types=[EventType.ALERT_FIRED])
    )
    for kind in ("run_failed", "run_finished", "metric_nan", "checkpoint_released"):
        await rule(db, kind=kind)
    paused = await rule(db, kind="run_failed", name="paused")
    await db.write(alerts.update, paused.id, AlertRuleUpdate(paused=True))
    await rule(db, kind="metric_nan", metric="other")
    run = await stage.run("running", saved=True)
    await stage.report(run, metrics={"loss": {"steps": [6, 7], "values": ["NaN", "NaN"]}})
    assert await told(stage, run) == [("fired", "metric_nan")]
    (path,) = [each.ckpt_path for each in await stage.checkpoints(run)]
    for tag, where in (("v1", path), ("v1", path), ("v2", path + "-b")):
        await db.write(
            marks.mark, stage.experiment,
            MarkRequest(run_id=run.id, ckpt_path=where, tag_type="release", release_tag=tag),
        )  # fmt: skip
    await stage.ends(run, is_lost=True, ended_by_service=Reason.LOST)
    kinds = [kind for _, kind in await told(stage, run)]
    assert kinds == [
        "metric_nan", "checkpoint_released", "checkpoint_released", "run_failed", "run_finished",
    ]  # fmt: skip
    sent = await db.read(deliveries.list_deliveries, hook.id, None, 100)
    assert [load(each.body)["data"]["kind"] for each in reversed(sent)] == kinds
    seqs = [event.seq for event in await stage.events()]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_a_new_attempt_lets_a_nan_recover(db: Database) -> None:
    stage = await Stage.open(db)
    await rule(db, kind="metric_nan", metric="loss")
    run = await stage.run("running", saved=True)
    await stage.report(run, metrics={"loss": {"steps": [6], "values": ["NaN"]}})
    run = await stage.claim(await stage.retries(run, is_lost=True))
    await stage.report(run, step=6)
    assert [each[0] for each in await told(stage, run)] == ["fired", "recovered"]


async def test_a_second_nan_of_a_run_is_not_told_while_the_first_one_stands(db: Database) -> None:
    """Seen red: with an alert that is recorded again while it fires."""
    stage = await Stage.open(db)
    await rule(db, kind="metric_nan")
    run = await stage.run("running", saved=True)
    for step, key in ((6, "loss"), (7, "grad_norm")):
        await stage.report(run, metrics={key: {"steps": [step], "values": ["NaN"]}})
    findings = [e for e in await stage.events() if e.run_id == run.id and '"nan"' in e.data]
    assert len([e for e in findings if not e.type.startswith("alert.")]) == 2
    assert await told(stage, run) == [("fired", "metric_nan")]


async def test_what_is_redacted_or_deleted_leaves_no_alert(db: Database, tmp_path: Path) -> None:
    stage = await Stage.open(db)
    made = await rule(db, kind="metric_threshold", metric="loss", direction="above", value=1)
    await rule(db, kind="run_failed")
    run = await stage.run("running")
    await stage.report(run, **losses(6, 4))
    await look(db, tmp_path)
    await stage.ends(run, is_lost=True, ended_by_service=Reason.LOST)
    await db.write(redaction.redact, run.id, RedactRequest(metrics=["loss"]))
    kept = await db.read(alerts.list_alerts, {}, False)
    assert [each.rule_id == made.id for each in kept] == [False]
    await db.write(deletion.delete_run, run.id)
    assert await db.read(alerts.list_alerts, {}, False) == []
    await db.write(alerts.remove, made.id)
    assert [each.kind for each in await db.read(alerts.list_rules)] == ["run_failed"]


async def test_an_alert_of_an_earlier_attempt_ends_with_the_first_good_value_of_the_next(
    db: Database, tmp_path: Path
) -> None:
    """Seen red: a watch of the new attempt had never fired, so that nothing recovered."""
    stage = await Stage.open(db)
    await rule(db, kind="metric_threshold", metric="loss", direction="above", value=3, points=2)
    run = await stage.run("running", saved=True)
    await stage.report(run, **losses(6, 4, 4))
    state = await look(db, tmp_path)
    run = await stage.claim(await stage.retries(run, is_lost=True))
    await again(state)
    assert await told(stage, run) == [("fired", "metric_threshold")]
    await stage.report(run, **losses(6, 9))
    await again(state)
    assert await told(stage, run) == [("fired", "metric_threshold")], "not for a bad one"
    await stage.report(run, **losses(7, 1))
    await again(state)
    assert [each[0] for each in await told(stage, run)] == ["fired", "recovered"]
    await stage.report(run, **losses(8, 4, 4))
    await again(state)
    assert [each[0] for each in await told(stage, run)] == ["fired", "recovered", "fired"]


async def test_an_alert_ends_when_its_bound_is_changed_to_one_that_holds(
    db: Database, tmp_path: Path
) -> None:
    stage = await Stage.open(db)
    made = await rule(db, kind="metric_threshold", metric="loss", direction="above", value=3)
    run = await stage.run("running")
    await stage.report(run, **losses(1, 4))
    state = await look(db, tmp_path)
    assert await told(stage, run) == [("fired", "metric_threshold")]
    await db.write(alerts.update, made.id, AlertRuleUpdate(value=5))
    await again(state)
    assert [each[0] for each in await told(stage, run)] == ["fired", "recovered"]


async def test_what_could_not_be_recorded_is_found_again(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the watch went on after a write that the database refused, and told nobody."""
    stage = await Stage.open(db)
    await rule(db, kind="metric_threshold", metric="loss", direction="above", value=3)
    run = await stage.run("running")
    await stage.report(run, **losses(1, 1))
    state = await look(db, tmp_path)
    await stage.report(run, **losses(2, 4))

    def refuse(*_: object) -> None:
        raise Unavailable("The disk is full.")

    with monkeypatch.context() as full:
        full.setattr(metric_alerts, "record", refuse)
        await again(state)
    assert await told(stage, run) == []
    await again(state)
    assert await told(stage, run) == [("fired", "metric_threshold")]
