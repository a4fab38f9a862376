"""Mutations of webhooks and alert rules."""

from typing import Annotated

import strawberry

from app.db.sql import Tx
from app.domain.alerts import AlertKind, AlertRuleRequest, AlertRuleUpdate, Direction
from app.domain.webhooks import EventType, Format, WebhookRequest, WebhookUpdate, signing_secret
from app.graphql.describe import Info, attribute, input, mutation, optional, output
from app.graphql.mutations.payloads import KEY, Payload, Rows, perform, request_of
from app.graphql.notifications import AlertRule, Webhook, WebhookDelivery
from app.services import alerts, deliveries, webhooks


@input
class CreateWebhookInput:
    """A URL to tell of events."""

    url: str = attribute("The URL, or `mailto:` and up to ten addresses.")
    name: str | None = optional("Name for people.")
    types: list[EventType] | None = optional("The events to tell of; left out: all.")
    experiment_id: strawberry.ID | None = optional("Only the events of this experiment.")
    project_id: strawberry.ID | None = optional("Only the events of this project.")
    format: Format | None = optional("The shape of its messages; STANDARD if left out.")
    idempotency_key: str | None = optional(KEY)


@input
class UpdateWebhookInput:
    """A webhook, and what to change. What is left out stays."""

    webhook_id: strawberry.ID = attribute("The webhook.")
    url: str | None = optional("The URL, or `mailto:` and up to ten addresses.")
    name: str | None = optional("Name for people.")
    types: list[EventType] | None = optional("The events to tell of; empty: all.")
    format: Format | None = optional("The shape of its messages.")
    paused: bool | None = optional("Nothing is sent while it is paused.")
    idempotency_key: str | None = optional(KEY)


@input
class DeleteWebhookInput:
    """A webhook to delete."""

    webhook_id: strawberry.ID = attribute("The webhook.")
    idempotency_key: str | None = optional(KEY)


@input
class TestWebhookInput:
    """A webhook to try."""

    webhook_id: strawberry.ID = attribute("The webhook.")
    idempotency_key: str | None = optional(KEY)


@input
class RedeliverInput:
    """A message that is to be sent once more."""

    webhook_id: strawberry.ID = attribute("The webhook.")
    delivery_id: strawberry.ID = attribute("The message.")
    idempotency_key: str | None = optional(KEY)


@input
class CreateAlertRuleInput:
    """Rule that raises an alert."""

    project: str | None = optional("Name of the project; left out: your only one, or the default.")
    name: str | None = optional("Name for people.")
    kind: AlertKind = attribute("Kind of condition.")
    metric: str | None = optional("Of a threshold or a spike; of a NaN, left out: every metric.")
    direction: Direction | None = optional("Of a threshold.")
    value: float | None = optional("The bound; of a spike, how many times the usual spread it is.")
    points: int | None = optional("For how many points in a row; 1 if left out.")
    idempotency_key: str | None = optional(KEY)


@input
class UpdateAlertRuleInput:
    """An alert rule, and what to change. What is left out stays."""

    rule_id: strawberry.ID = attribute("The rule.")
    name: str | None = optional("Name for people.")
    value: float | None = optional("The bound; of a spike, its size.")
    points: int | None = optional("For how many points in a row.")
    paused: bool | None = optional("Nothing fires while it is paused.")
    idempotency_key: str | None = optional(KEY)


@input
class DeleteAlertRuleInput:
    """An alert rule to delete."""

    rule_id: strawberry.ID = attribute("The rule.")
    idempotency_key: str | None = optional(KEY)


@output
class CreateWebhookPayload(Payload):
    """The new webhook."""

    webhook: Webhook | None = optional("The webhook.")
    signing_secret: str | None = optional("Key that signs its messages; shown only here.")


@output
class WebhookPayload(Payload):
    """The webhook."""

    webhook: Webhook | None = optional("The webhook; null once it is deleted.")


@output
class DeliveryPayload(Payload):
    """The message."""

    delivery: WebhookDelivery | None = optional("The message.")


@output
class AlertRulePayload(Payload):
    """The alert rule."""

    alert_rule: AlertRule | None = optional("The rule; null once it is deleted.")


NewWebhook = Annotated[CreateWebhookInput, strawberry.argument(description="The new webhook.")]
Changed = Annotated[UpdateWebhookInput, strawberry.argument(description="The changes.")]
OldWebhook = Annotated[DeleteWebhookInput, strawberry.argument(description="The webhook.")]
Tried = Annotated[TestWebhookInput, strawberry.argument(description="The webhook.")]
Again = Annotated[RedeliverInput, strawberry.argument(description="The message.")]
NewRule = Annotated[CreateAlertRuleInput, strawberry.argument(description="The new rule.")]
ChangedRule = Annotated[UpdateAlertRuleInput, strawberry.argument(description="The changes.")]
OldRule = Annotated[DeleteAlertRuleInput, strawberry.argument(description="The rule.")]


@output
class NotificationMutations:
    """Mutations of webhooks and alert rules."""

    @mutation
    async def create_webhook(self, info: Info, input: NewWebhook) -> CreateWebhookPayload:
        """Tell a URL of events."""

        def work(tx: Tx) -> Rows:
            return {"webhook": webhooks.create(tx, request_of(WebhookRequest, input))}

        payload = await perform(info, input, CreateWebhookPayload, work)
        if payload.webhook is not None:
            payload.signing_secret = signing_secret(info.context.secret, payload.webhook.id)
        return payload

    @mutation
    async def update_webhook(self, info: Info, input: Changed) -> WebhookPayload:
        """Change a webhook, pause it, or let it go on with what waits."""

        def work(tx: Tx) -> Rows:
            request = request_of(WebhookUpdate, input, "webhook_id")
            return {"webhook": webhooks.update(tx, input.webhook_id, request)}

        return await perform(info, input, WebhookPayload, work)

    @mutation
    async def delete_webhook(self, info: Info, input: OldWebhook) -> WebhookPayload:
        """Delete a webhook, and its messages with it."""

        def work(tx: Tx) -> Rows:
            webhooks.remove(tx, input.webhook_id)
            return {}

        return await perform(info, input, WebhookPayload, work)

    @mutation
    async def test_webhook(self, info: Info, input: Tried) -> DeliveryPayload:
        """Send a message of the type `webhook.test`."""
        return await perform(
            info, input, DeliveryPayload,
            lambda tx: {"delivery": deliveries.send_test(tx, input.webhook_id)},
        )  # fmt: skip

    @mutation
    async def redeliver(self, info: Info, input: Again) -> DeliveryPayload:
        """Send a message once more, under its own id."""
        return await perform(
            info, input, DeliveryPayload,
            lambda tx: {"delivery": deliveries.redeliver(tx, input.webhook_id, input.delivery_id)},
        )  # fmt: skip

    @mutation
    async def create_alert_rule(self, info: Info, input: NewRule) -> AlertRulePayload:
        """Create a rule that raises an alert, once for each run until it recovers."""

        def work(tx: Tx) -> Rows:
            return {"alert_rule": alerts.create(tx, request_of(AlertRuleRequest, input))}

        return await perform(info, input, AlertRulePayload, work)

    @mutation
    async def update_alert_rule(self, info: Info, input: ChangedRule) -> AlertRulePayload:
        """Change an alert rule, pause it, or let it go on."""

        def work(tx: Tx) -> Rows:
            request = request_of(AlertRuleUpdate, input, "rule_id")
            return {"alert_rule": alerts.update(tx, input.rule_id, request)}

        return await perform(info, input, AlertRulePayload, work)

    @mutation
    async def delete_alert_rule(self, info: Info, input: OldRule) -> AlertRulePayload:
        """Delete an alert rule, and what it has found."""

        def work(tx: Tx) -> Rows:
            alerts.remove(tx, input.rule_id)
            return {}

        return await perform(info, input, AlertRulePayload, work)
