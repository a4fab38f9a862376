"""When a message is tried again and given up, and how its webhook is paused: the clock is put on.

Seen red: no pause after a failure, a message sent again by hand that has no attempts left, a
webhook that is never paused, one that is paused and sends all the same, and events of which no
message is on record.
"""

import pytest

from app.db.database import Database
from app.db.sql import Tx
from app.db.tables import Webhook, WebhookDelivery
from app.domain.webhooks import BACK_OFF_SECONDS, WebhookRequest, WebhookUpdate
from app.services import deliveries, events, webhooks
from app.services.deliveries import Attempt
from tests.support.clock import WallClock
from tests.support.stage import Stage

pytestmark = pytest.mark.anyio


class Scene:
    """A webhook, and a clock."""

    def __init__(self, db: Database, hook: Webhook, wall: WallClock) -> None:
        self.db, self.id, self.wall = db, hook.id, wall

    async def due(self) -> list[WebhookDelivery]:
        found = await self.db.read(deliveries.list_due, self.id, 100)
        listed = await self.db.read(deliveries.list_with_due)
        assert listed == ([self.id] if found else []), "both look at the same"
        return found.deliveries if found else []

    async def record(self, delivery: WebhookDelivery, status: int = 500) -> None:
        error = None if status < 300 else f"answered {status}"
        attempt = Attempt(delivery.id, status, error, is_gone=status == 410)
        await self.db.write(deliveries.record, self.id, [attempt])

    async def hook(self) -> Webhook:
        return await self.db.read(webhooks.get, self.id)

    async def delivery(self) -> WebhookDelivery:
        (found,) = await self.db.read(deliveries.list_deliveries, self.id, None, 100)
        return found


@pytest.fixture
async def scene(db: Database, monkeypatch: pytest.MonkeyPatch) -> Scene:
    hook = await db.write(webhooks.create, WebhookRequest(url="https://a.example.com"))
    return Scene(db, hook, WallClock(monkeypatch))


async def test_a_message_comes_again_after_each_pause_with_its_id_and_is_given_up_at_last(
    scene: Scene,
) -> None:
    sent = await scene.db.write(deliveries.send_test, scene.id)
    for pause in (*BACK_OFF_SECONDS, None):
        (due,) = await scene.due()
        assert (due.id, due.body) == (sent.id, sent.body), "the same message each time"
        await scene.record(due)
        assert await scene.due() == [], "not at once"
        if pause is not None:
            assert (await scene.delivery()).state == "pending"
            await scene.db.write(webhooks.update, scene.id, WebhookUpdate(paused=False))
            scene.wall.shift(hours=(pause - 2) / 3600)
            assert await scene.due() == [], "nor before its pause is over"
            scene.wall.shift(hours=2.5 / 3600)
    given_up = await scene.delivery()
    assert (given_up.state, given_up.attempts) == ("failed", len(BACK_OFF_SECONDS) + 1)
    scene.wall.shift(hours=1000)
    assert await scene.due() == []
    await scene.db.write(deliveries.redeliver, scene.id, sent.id)
    (again,) = await scene.due()
    assert again.id == sent.id, "once more, by hand"
    await scene.record(again)
    after = await scene.delivery()
    assert (after.state, after.attempts) == ("pending", 1), "with all its attempts"


async def test_what_is_paused_sends_nothing_and_loses_nothing(scene: Scene) -> None:
    sent = [await scene.db.write(deliveries.send_test, scene.id) for _ in range(3)]
    await scene.db.write(webhooks.update, scene.id, WebhookUpdate(paused=True))
    assert await scene.due() == []
    scene.wall.shift(hours=24 * 40)
    assert await scene.due() == []
    await scene.db.write(deliveries.expire)
    await scene.db.write(webhooks.update, scene.id, WebhookUpdate(paused=False))
    assert {each.id for each in await scene.due()} == {each.id for each in sent}


async def test_a_webhook_of_which_nothing_was_received_for_three_days_is_paused(
    scene: Scene,
) -> None:
    first = await scene.db.write(deliveries.send_test, scene.id)
    await scene.record(first)
    assert (await scene.hook()).failing_since is not None
    scene.wall.shift(hours=3 * 24 - 1)
    await scene.record(await scene.db.write(deliveries.send_test, scene.id))
    assert (await scene.hook()).paused_at is None
    # One that arrives begins the time anew.
    await scene.record(await scene.db.write(deliveries.send_test, scene.id), 204)
    assert (await scene.hook()).failing_since is None
    scene.wall.shift(hours=2)
    await scene.record(await scene.db.write(deliveries.send_test, scene.id))
    assert (await scene.hook()).paused_at is None
    scene.wall.shift(hours=3 * 24 + 1)
    last = await scene.db.write(deliveries.send_test, scene.id)
    await scene.record(last)
    paused = await scene.hook()
    assert paused.paused_at is not None and "answered 500" in (paused.paused_reason or "")
    assert await scene.due() == []
    await scene.db.write(webhooks.update, scene.id, WebhookUpdate(paused=False))
    assert (await scene.hook()).failing_since is None, "it has three days again"


async def test_gone_pauses_at_once(scene: Scene) -> None:
    await scene.record(await scene.db.write(deliveries.send_test, scene.id), 410)
    assert "410" in ((await scene.hook()).paused_reason or "")
    await scene.db.write(deliveries.send_test, scene.id)
    assert await scene.due() == []


async def test_a_message_is_on_record_with_its_event_or_neither_is(scene: Scene) -> None:
    stage = await Stage.open(scene.db)
    run = await stage.submit()
    before = await stage.events()

    class Dies(Exception):
        pass

    def fails(tx: Tx) -> None:
        events.append(tx, run.experiment_id, "run.failed", run_id=run.id)
        raise Dies

    with pytest.raises(Dies):
        await scene.db.write(fails)
    assert await stage.events() == before
    assert await scene.due() == []
    await scene.db.write(
        lambda tx: events.append(tx, run.experiment_id, "run.failed", run_id=run.id)
    )
    (due,) = await scene.due()
    assert due.type == "run.failed"
    assert [event.type for event in await stage.events()][len(before) :] == ["run.failed"]
