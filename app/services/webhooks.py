"""Webhooks: the URLs to which events of an experiment, of a project or of all are sent.

Their messages are in `deliveries`.
"""

from typing import Any, Unpack

from sqlalchemy import Executable, delete, func, select

from app.db.changes import SUPERVISOR
from app.db.objects import replace
from app.db.rows import WebhookChanges
from app.db.sql import Tx, by_id, changing, columns, dump, query, select_all, statement
from app.db.tables import Experiment, Project, Webhook, WebhookDelivery
from app.domain import webhooks
from app.domain.ids import new_id
from app.domain.permissions import Permission
from app.domain.webhooks import WebhookRequest, WebhookUpdate
from app.errors import Conflict, InvalidInput, NotFound, NotPermitted

_PAUSED_BY_HAND = "Paused by hand."

_webhook = columns(Webhook)
_delivery = columns(WebhookDelivery)
_experiment, _project = columns(Experiment), columns(Project)

_by_id = by_id(Webhook)


@query(tuple[str])
def _experiment_of(*, key: str) -> Executable:
    return select(_experiment.id).where(_experiment.id == key)


@query(tuple[str])
def _project_of(*, key: str) -> Executable:
    return select(_project.id).where(_project.id == key)


@query(Webhook)
def _all() -> Executable:
    return select_all(Webhook).order_by(_webhook.id)


@query(tuple[int])
def _count() -> Executable:
    return select(func.count(_webhook.id))


@statement
def _delete(*, webhook: str) -> Executable:
    return delete(Webhook).where(_webhook.id == webhook)


@statement
def _delete_deliveries(*, webhook: str) -> Executable:
    return delete(WebhookDelivery).where(_delivery.webhook_id == webhook)


def create(tx: Tx, request: WebhookRequest) -> Webhook:
    """Create a webhook. Raises InvalidInput for what it names, Conflict if there are too many."""
    experiment_id, project_id = request.experiment_id, request.project_id
    for field, key, find_key in (
        ("experiment", experiment_id, _experiment_of),
        ("project", project_id, _project_of),
    ):
        if key is not None and tx.first(find_key, key=key) is None:
            raise InvalidInput(
                f"There is no {field} {key}.",
                errors=[{"pointer": f"/{field}_id", "detail": "there is none"}],
            )
    _require(tx, experiment_id, project_id)
    count = tx.first(_count)
    if count is not None and count[0] >= webhooks.MAX_WEBHOOKS:
        raise Conflict(f"There are {webhooks.MAX_WEBHOOKS} webhooks; delete one first.")
    values: dict[str, Any] = {
        "id": new_id("whk"),
        "url": request.url,
        "name": request.name,
        "types": dump(request.types),
        "experiment_id": experiment_id,
        "project_id": project_id,
        "format": request.format.value,
        "created_at": tx.now,
        "paused_at": None,
        "paused_reason": None,
        "failing_since": None,
    }
    tx.insert(Webhook(**values))
    return get(tx, values["id"])


def _require(tx: Tx, experiment_id: str | None, project_id: str | None) -> None:
    """Raise NotPermitted for somebody who may not be told of these, or of all, events."""
    if experiment_id is not None:
        tx.require(Permission.MAINTAIN, experiment_id)
    if project_id is not None:
        tx.require_project(Permission.MAINTAIN, project_id)
    if experiment_id is None and project_id is None:
        tx.require_admin()


def own(tx: Tx, webhook_id: str) -> Webhook:
    """Return a webhook that the principal may change. Raises NotFound, NotPermitted."""
    webhook = get(tx, webhook_id)
    _require(tx, webhook.experiment_id, webhook.project_id)
    return webhook


def find(tx: Tx, webhook_id: str) -> Webhook | None:
    """Return a webhook, or None if there is none with this id."""
    webhook = tx.first(_by_id, webhook_id)
    return None if webhook is None else _hide_secret(tx, webhook)


def _hide_secret(tx: Tx, webhook: Webhook) -> Webhook:
    """Return a webhook; who may not change it sees only the host of its URL, often a secret."""
    if may_change(tx, webhook.experiment_id, webhook.project_id):
        return webhook
    return replace(webhook, url=webhooks.hide_path(webhook.url))


def may_change(tx: Tx, experiment_id: str | None, project_id: str | None) -> bool:
    """Return True if the principal may change a webhook of an experiment, a project, or all."""
    try:
        _require(tx, experiment_id, project_id)
    except NotPermitted:
        return False
    return True


def get(tx: Tx, webhook_id: str) -> Webhook:
    """Return a webhook. Raises NotFound."""
    webhook = find(tx, webhook_id)
    if webhook is None:
        raise NotFound(f"There is no webhook {webhook_id!a}.")
    return webhook


def list_all(tx: Tx) -> list[Webhook]:
    """Return every webhook, oldest first."""
    return [_hide_secret(tx, webhook) for webhook in tx.all(_all)]


def update(tx: Tx, webhook_id: str, request: WebhookUpdate) -> Webhook:
    """Change a webhook, or pause it or let it go on. Raises NotFound."""
    webhook = own(tx, webhook_id)
    fields = request.model_dump(exclude_unset=True, exclude_none=True, mode="json")
    paused = fields.pop("paused", None)
    if "types" in fields:
        fields["types"] = dump(fields["types"])
    if paused is True:
        fields |= {"paused_at": tx.now, "paused_reason": _PAUSED_BY_HAND}
    if paused is False:
        fields |= {"paused_at": None, "paused_reason": None, "failing_since": None}
        tx.notify(SUPERVISOR)
    return change(tx, webhook, **fields)


def change(tx: Tx, webhook: Webhook, **changes: Unpack[WebhookChanges]) -> Webhook:
    if not changes:
        return webhook
    tx.run(changing(Webhook, frozenset(changes)), key=webhook.id, **changes)
    return replace(webhook, **changes)


def remove(tx: Tx, webhook_id: str) -> None:
    """Delete a webhook and its messages. Raises NotFound."""
    own(tx, webhook_id)
    tx.run(_delete_deliveries, webhook=webhook_id)
    tx.run(_delete, webhook=webhook_id)
