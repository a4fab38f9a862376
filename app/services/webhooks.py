"""Webhooks and their messages: written in the transaction of the event, sent by the supervisor.

    event → `enqueue` (same transaction) → `list_due` → sent outside of any → `record`

A message is on record from its event to its end, so that it is sent at least once, whichever
server dies in between.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import and_, bindparam, delete, func, insert, or_, select

from app.db.changes import SUPERVISOR
from app.db.sql import Statement, Tx, by_id, changing, columns, dump, load, replace, select_all
from app.db.tables import Experiment, Webhook, WebhookDelivery
from app.domain import webhooks
from app.domain.ids import new_id, seconds_between, timestamp_after
from app.domain.permissions import Permission
from app.domain.webhooks import DeliveryState, WebhookRequest, WebhookUpdate
from app.errors import Conflict, InvalidInput, NotFound

KEPT_SECONDS = 30 * 24 * 3600
"""How long ended messages stay on record."""
_PAUSED_BY_HAND = "Paused by hand."

_webhook = columns(Webhook)
_delivery = columns(WebhookDelivery)
_experiment = columns(Experiment)

_BY_ID = by_id(Webhook)
_DELIVERY_BY_ID = by_id(WebhookDelivery)
_NAME = Statement[tuple[str]](
    select(_experiment.name).where(_experiment.id == bindparam("experiment"))
)
_ALL = Statement(select_all(Webhook).order_by(_webhook.id), Webhook)
_COUNT = Statement[tuple[int]](select(func.count(_webhook.id)))
_INSERT = Statement[Any](insert(Webhook))
_INSERT_DELIVERY = Statement[Any](insert(WebhookDelivery))
_MATCHING = Statement[tuple[str]](
    select(_webhook.id).where(
        or_(_webhook.experiment_id.is_(None), _webhook.experiment_id == bindparam("experiment")),
        or_(_webhook.types == "[]", _webhook.types.like(bindparam("type"))),
    )
)
_DUE = and_(
    _delivery.webhook_id == bindparam("webhook"),
    _delivery.state == DeliveryState.PENDING.value,
    _delivery.next_attempt_at <= bindparam("now"),
)
_WITH_DUE = Statement[tuple[str]](
    select(_webhook.id).where(
        _webhook.paused_at.is_(None),
        select(_delivery.id)
        .where(
            _delivery.webhook_id == _webhook.id,
            _delivery.state == DeliveryState.PENDING.value,
            _delivery.next_attempt_at <= bindparam("now"),
        )
        .exists(),
    )
)
_DUE_OF = Statement(
    select_all(WebhookDelivery)
    .where(_DUE)
    .order_by(_delivery.next_attempt_at, _delivery.id)
    .limit(bindparam("most")),
    WebhookDelivery,
)
_DELIVERIES = Statement(
    select_all(WebhookDelivery)
    .where(_delivery.webhook_id == bindparam("webhook"), _delivery.id < bindparam("before"))
    .order_by(_delivery.id.desc())
    .limit(bindparam("most")),
    WebhookDelivery,
)
_DELETE = Statement[Any](delete(Webhook).where(_webhook.id == bindparam("webhook")))
_DELETE_DELIVERIES = Statement[Any](
    delete(WebhookDelivery).where(_delivery.webhook_id == bindparam("webhook"))
)
_EXPIRE = Statement[Any](
    delete(WebhookDelivery).where(
        _delivery.state != DeliveryState.PENDING.value, _delivery.created_at < bindparam("before")
    )
)


def create(tx: Tx, request: WebhookRequest) -> Webhook:
    """Create a webhook. Raises InvalidInput for its experiment, Conflict if there are too many."""
    experiment_id = request.experiment_id
    if experiment_id is not None and tx.first(_NAME, experiment=experiment_id) is None:
        raise InvalidInput(
            f"There is no experiment {experiment_id}.",
            errors=[{"pointer": "/experiment_id", "detail": "there is none"}],
        )
    _require(tx, experiment_id)
    count = tx.first(_COUNT)
    if count is not None and count[0] >= webhooks.MAX_WEBHOOKS:
        raise Conflict(f"There are {webhooks.MAX_WEBHOOKS} webhooks; delete one first.")
    values: dict[str, Any] = {
        "id": new_id("whk"),
        "url": request.url,
        "name": request.name,
        "types": dump(request.types),
        "experiment_id": experiment_id,
        "format": request.format.value,
        "created_at": tx.now,
        "paused_at": None,
        "paused_reason": None,
        "failing_since": None,
    }
    tx.run(_INSERT, **values)
    return get(tx, values["id"])


def _require(tx: Tx, experiment_id: str | None) -> None:
    """Raise NotPermitted for somebody who may not be told of an experiment's, or of all, events."""
    if experiment_id is None:
        tx.require_admin()
    else:
        tx.require(Permission.MAINTAIN, experiment_id)


def get(tx: Tx, webhook_id: str) -> Webhook:
    """Return a webhook. Raises NotFound."""
    webhook = tx.first(_BY_ID, id=webhook_id)
    if webhook is None:
        raise NotFound(f"There is no webhook {webhook_id!a}.")
    return webhook


def list_all(tx: Tx) -> list[Webhook]:
    """Return every webhook, oldest first."""
    return tx.all(_ALL)


def update(tx: Tx, webhook_id: str, request: WebhookUpdate) -> Webhook:
    """Change a webhook, or pause it or let it go on. Raises NotFound."""
    webhook = get(tx, webhook_id)
    _require(tx, webhook.experiment_id)
    given = request.model_dump(exclude_unset=True, exclude_none=True, mode="json")
    paused = given.pop("paused", None)
    if "types" in given:
        given["types"] = dump(given["types"])
    if paused is True:
        given |= {"paused_at": tx.now, "paused_reason": _PAUSED_BY_HAND}
    if paused is False:
        given |= {"paused_at": None, "paused_reason": None, "failing_since": None}
        tx.notify(SUPERVISOR)
    return _change(tx, webhook, **given)


def _change(tx: Tx, webhook: Webhook, **changes: Any) -> Webhook:
    if not changes:
        return webhook
    tx.run(changing(Webhook, frozenset(changes)), key=webhook.id, **changes)
    return replace(webhook, **changes)


def remove(tx: Tx, webhook_id: str) -> None:
    """Delete a webhook and its messages. Raises NotFound."""
    _require(tx, get(tx, webhook_id).experiment_id)
    tx.run(_DELETE_DELIVERIES, webhook=webhook_id)
    tx.run(_DELETE, webhook=webhook_id)


def enqueue(
    tx: Tx, experiment_id: str, type: str, run_id: str | None, seq: int, data: dict[str, Any]
) -> None:
    """Write a message for every webhook that is told of an event, in the event's transaction."""
    matching = tx.all(_MATCHING, experiment=experiment_id, type=f'%"{type}"%')
    if not matching:
        return
    name = tx.first(_NAME, experiment=experiment_id)
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
    tx.send(
        _INSERT_DELIVERY, id=delivery_id, webhook_id=webhook_id, type=type, body=body,
        state=DeliveryState.PENDING.value, attempts=0, next_attempt_at=tx.now, last_attempt_at=None,
        last_status=None, last_error=None, created_at=tx.now,
    )  # fmt: skip
    tx.notify(SUPERVISOR)
    return delivery_id


def send_test(tx: Tx, webhook_id: str) -> WebhookDelivery:
    """Write a message of the type `webhook.test` to one webhook. Raises NotFound."""
    _require(tx, get(tx, webhook_id).experiment_id)
    body = dump(webhooks.message(webhooks.TEST, tx.now, {"webhook_id": webhook_id}))
    return get_delivery(tx, webhook_id, _add(tx, webhook_id, webhooks.TEST, body))


def get_delivery(tx: Tx, webhook_id: str, delivery_id: str) -> WebhookDelivery:
    """Return a message of a webhook. Raises NotFound."""
    delivery = tx.first(_DELIVERY_BY_ID, id=delivery_id)
    if delivery is None or delivery.webhook_id != webhook_id:
        raise NotFound(f"Webhook {webhook_id!a} has no delivery {delivery_id!a}.")
    return delivery


def list_deliveries(
    tx: Tx, webhook_id: str, before: str | None, most: int
) -> list[WebhookDelivery]:
    """Return messages of a webhook, newest first, those before an id. Raises NotFound."""
    get(tx, webhook_id)
    return tx.all(_DELIVERIES, webhook=webhook_id, before=before or "e", most=most)


def redeliver(tx: Tx, webhook_id: str, delivery_id: str) -> WebhookDelivery:
    """Have a message sent once more, from now on with all attempts. Raises NotFound."""
    _require(tx, get(tx, webhook_id).experiment_id)
    delivery = get_delivery(tx, webhook_id, delivery_id)
    tx.notify(SUPERVISOR)
    return _change_delivery(
        tx, delivery, state=DeliveryState.PENDING.value, attempts=0, next_attempt_at=tx.now
    )


def _change_delivery(tx: Tx, delivery: WebhookDelivery, **changes: Any) -> WebhookDelivery:
    tx.run(changing(WebhookDelivery, frozenset(changes)), key=delivery.id, **changes)
    return replace(delivery, **changes)


def list_with_due(tx: Tx) -> list[str]:
    """Return the ids of webhooks to which something is to be sent now."""
    return [webhook_id for (webhook_id,) in tx.all(_WITH_DUE, now=tx.now)]


class Due(NamedTuple):
    """A webhook, and the messages that are to be sent to it now."""

    webhook: Webhook
    deliveries: list[WebhookDelivery]


def list_due(tx: Tx, webhook_id: str, most: int) -> Due | None:
    """Return what is to be sent to a webhook now, oldest first; None if there is nothing."""
    webhook = tx.first(_BY_ID, id=webhook_id)
    if webhook is None or webhook.paused_at is not None:
        return None
    deliveries = tx.all(_DUE_OF, webhook=webhook_id, now=tx.now, most=most)
    return Due(webhook, deliveries) if deliveries else None


class Attempt(NamedTuple):
    """How one attempt to send a message ended."""

    delivery_id: str
    status: int | None
    error: str | None
    is_gone: bool


def record(tx: Tx, webhook_id: str, attempts: Sequence[Attempt]) -> None:
    """Record attempts: delivered, to be tried again, or given up; pause what fails for days."""
    webhook = tx.first(_BY_ID, id=webhook_id)
    if webhook is None:
        return  # deleted meanwhile
    for attempt in attempts:
        delivery = tx.first(_DELIVERY_BY_ID, id=attempt.delivery_id)
        if delivery is not None:
            _record_one(tx, delivery, attempt)
    if any(attempt.error is None for attempt in attempts):
        _change(tx, webhook, failing_since=None)
        return
    since = webhook.failing_since or tx.now
    changes: dict[str, Any] = {"failing_since": since}
    if any(attempt.is_gone for attempt in attempts):
        changes |= {"paused_at": tx.now, "paused_reason": "The receiver answered 410: gone."}
    elif seconds_between(since, tx.now) >= webhooks.PAUSE_AFTER_SECONDS:
        reason = f"Nothing was received since {since}; the last error: {attempts[-1].error}."
        changes |= {"paused_at": tx.now, "paused_reason": reason}
    _change(tx, webhook, **changes)


def _record_one(tx: Tx, delivery: WebhookDelivery, attempt: Attempt) -> None:
    number = delivery.attempts + 1
    changes: dict[str, Any] = {
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
    return tx.run(_EXPIRE, before=timestamp_after(tx.now, -KEPT_SECONDS))


def body_of(webhook: Webhook, delivery: WebhookDelivery) -> bytes:
    """Return the bytes that are sent, in the webhook's format."""
    if webhook.format == webhooks.Format.SLACK:
        return dump(webhooks.slack(load(delivery.body))).encode()
    return delivery.body.encode()
