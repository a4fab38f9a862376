"""Messages to webhooks: written in the transaction of the event, sent by the supervisor.

    event → `enqueue` (same transaction) → `list_due` → sent outside of any → `record`

A message is on record from its event to its end, so that it is sent at least once, whichever
server dies in between.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

from sqlalchemy import ColumnElement, Executable, and_, delete, or_, select

from app.db.changes import SUPERVISOR
from app.db.objects import replace
from app.db.rows import WebhookChanges, WebhookDeliveryChanges
from app.db.sql import Tx, by_id, changing, columns, dump, load, query, select_all, statement
from app.db.tables import Experiment, Webhook, WebhookDelivery
from app.domain import webhooks
from app.domain.ids import new_id, seconds_between, timestamp_after
from app.domain.webhooks import DeliveryState
from app.errors import NotFound
from app.services.webhooks import change, get, own

KEPT_SECONDS = 30 * 24 * 3600
"""The time for which ended messages are kept."""

_webhook, _delivery = columns(Webhook), columns(WebhookDelivery)
_experiment = columns(Experiment)

_by_id = by_id(WebhookDelivery)
_webhook_by_id = by_id(Webhook)


@query(tuple[str])
def _name(*, experiment: str) -> Executable:
    return select(_experiment.name).where(_experiment.id == experiment)


@query(tuple[str])
def _matching(*, experiment: str, type: str) -> Executable:
    project = select(_experiment.project_id).where(_experiment.id == experiment)
    return select(_webhook.id).where(
        or_(_webhook.experiment_id.is_(None), _webhook.experiment_id == experiment),
        or_(_webhook.project_id.is_(None), _webhook.project_id == project.scalar_subquery()),
        or_(_webhook.types == "[]", _webhook.types.like(type)),
    )


def _due(webhook: Any, now: str) -> ColumnElement[bool]:
    return and_(
        _delivery.webhook_id == webhook,
        _delivery.state == DeliveryState.PENDING.value,
        _delivery.next_attempt_at <= now,
    )


@query(tuple[str])
def _with_due(now: str) -> Executable:
    has_due = select(_delivery.id).where(_due(_webhook.id, now)).exists()
    return select(_webhook.id).where(_webhook.paused_at.is_(None), has_due)


@query(WebhookDelivery)
def _due_of(*, most: int, webhook: str, now: str) -> Executable:
    return (
        select_all(WebhookDelivery)
        .where(_due(webhook, now))
        .order_by(_delivery.next_attempt_at, _delivery.id)
        .limit(most)
    )


@query(WebhookDelivery)
def _deliveries(*, webhook: str, before: str, most: int) -> Executable:
    return (
        select_all(WebhookDelivery)
        .where(_delivery.webhook_id == webhook, _delivery.id < before)
        .order_by(_delivery.id.desc())
        .limit(most)
    )


@statement
def _expire(*, before: str) -> Executable:
    return delete(WebhookDelivery).where(
        _delivery.state != DeliveryState.PENDING.value, _delivery.created_at < before
    )


def enqueue(
    tx: Tx, experiment_id: str, type: str, run_id: str | None, seq: int, data: dict[str, Any]
) -> None:
    """Write a message for every webhook that is told of an event, in the event's transaction."""
    matching = tx.all(_matching, experiment=experiment_id, type=f'%"{type}"%')
    if not matching:
        return
    name = tx.first(_name, experiment=experiment_id)
    about = {
        "experiment_id": experiment_id,
        "experiment": name[0] if name else None,
        "seq": seq,
        "run_id": run_id,
        **data,
    }
    body = dump(webhooks.message(type, tx.now, about))
    for (webhook_id,) in matching:
        _add(tx, webhook_id, type, body)


def _add(tx: Tx, webhook_id: str, type: str, body: str) -> str:
    delivery_id = new_id("dlv")
    tx.insert(WebhookDelivery(
        id=delivery_id, webhook_id=webhook_id, type=type, body=body,
        state=DeliveryState.PENDING.value, attempts=0, next_attempt_at=tx.now, last_attempt_at=None,
        last_status=None, last_error=None, created_at=tx.now,
    ))  # fmt: skip
    tx.notify(SUPERVISOR)
    return delivery_id


def send_test(tx: Tx, webhook_id: str) -> WebhookDelivery:
    """Write a message of the type `webhook.test` to one webhook. Raises NotFound."""
    own(tx, webhook_id)
    body = dump(webhooks.message(webhooks.TEST, tx.now, {"webhook_id": webhook_id}))
    return get_delivery(tx, webhook_id, _add(tx, webhook_id, webhooks.TEST, body))


def get_delivery(tx: Tx, webhook_id: str, delivery_id: str) -> WebhookDelivery:
    """Return a message of a webhook. Raises NotFound."""
    delivery = tx.first(_by_id, delivery_id)
    if delivery is None or delivery.webhook_id != webhook_id:
        raise NotFound(f"Webhook {webhook_id!a} has no delivery {delivery_id!a}.")
    return delivery


def list_deliveries(
    tx: Tx, webhook_id: str, before: str | None, most: int
) -> list[WebhookDelivery]:
    """Return messages of a webhook, newest first, those before an id. Raises NotFound."""
    get(tx, webhook_id)
    return tx.all(_deliveries, webhook=webhook_id, before=before or "e", most=most)


def redeliver(tx: Tx, webhook_id: str, delivery_id: str) -> WebhookDelivery:
    """Have a message sent once more, from now on with all attempts. Raises NotFound."""
    own(tx, webhook_id)
    delivery = get_delivery(tx, webhook_id, delivery_id)
    tx.notify(SUPERVISOR)
    return _change_delivery(
        tx, delivery, state=DeliveryState.PENDING.value, attempts=0, next_attempt_at=tx.now
    )


def _change_delivery(
    tx: Tx, delivery: WebhookDelivery, **changes: Unpack[WebhookDeliveryChanges]
) -> WebhookDelivery:
    tx.run(changing(WebhookDelivery, frozenset(changes)), key=delivery.id, **changes)
    return replace(delivery, **changes)


def list_with_due(tx: Tx) -> list[str]:
    """Return the ids of webhooks to which something is to be sent now."""
    return [webhook_id for (webhook_id,) in tx.all(_with_due, tx.now)]


class Due(NamedTuple):
    """A webhook, and the messages that are to be sent to it now."""

    webhook: Webhook
    deliveries: list[WebhookDelivery]


def list_due(tx: Tx, webhook_id: str, most: int) -> Due | None:
    """Return what is to be sent to a webhook now, oldest first; None if there is nothing."""
    webhook = tx.first(_webhook_by_id, webhook_id)
    if webhook is None or webhook.paused_at is not None:
        return None
    deliveries = tx.all(_due_of, webhook=webhook_id, now=tx.now, most=most)
    return Due(webhook, deliveries) if deliveries else None


class Attempt(NamedTuple):
    """The result of one attempt to send a message."""

    delivery_id: str
    status: int | None
    error: str | None
    is_gone: bool


def record(tx: Tx, webhook_id: str, attempts: Sequence[Attempt]) -> None:
    """Record attempts: delivered, to be tried again, or given up; pause what fails for days."""
    webhook = tx.first(_webhook_by_id, webhook_id)
    if webhook is None:
        return  # deleted meanwhile
    for attempt in attempts:
        delivery = tx.first(_by_id, attempt.delivery_id)
        if delivery is not None:
            _record_one(tx, delivery, attempt)
    if any(attempt.error is None for attempt in attempts):
        change(tx, webhook, failing_since=None)
        return
    since = webhook.failing_since or tx.now
    changes: WebhookChanges = {"failing_since": since}
    if any(attempt.is_gone for attempt in attempts):
        changes |= {"paused_at": tx.now, "paused_reason": "The receiver answered 410: gone."}
    elif seconds_between(since, tx.now) >= webhooks.PAUSE_AFTER_SECONDS:
        reason = f"Nothing was received since {since}; the last error: {attempts[-1].error}."
        changes |= {"paused_at": tx.now, "paused_reason": reason}
    change(tx, webhook, **changes)


def _record_one(tx: Tx, delivery: WebhookDelivery, attempt: Attempt) -> None:
    number = delivery.attempts + 1
    changes: WebhookDeliveryChanges = {
        "attempts": number,
        "last_attempt_at": tx.now,
        "last_status": attempt.status,
        "last_error": attempt.error,
    }
    pause = webhooks.pause_after(number)
    if attempt.error is None:
        changes["state"] = DeliveryState.DELIVERED.value
    elif pause is None:
        changes["state"] = DeliveryState.FAILED.value
    else:
        changes["next_attempt_at"] = timestamp_after(tx.now, pause)
    _change_delivery(tx, delivery, **changes)


def expire(tx: Tx) -> int:
    """Delete ended messages past their time; return their number."""
    return tx.run(_expire, before=timestamp_after(tx.now, -KEPT_SECONDS))


def body_of(webhook: Webhook, delivery: WebhookDelivery) -> bytes:
    """Return the bytes that are sent, in the webhook's format."""
    if webhook.format == webhooks.Format.SLACK:
        return dump(webhooks.slack(load(delivery.body))).encode()
    return delivery.body.encode()
