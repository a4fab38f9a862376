"""Webhook, AlertRule, Alert: who receives what, whether it arrived, and what was found."""

from functools import partial
from typing import Annotated, Any

import strawberry

from app.db.sql import Tx, load
from app.domain.alerts import AlertKind, Direction
from app.domain.webhooks import DeliveryState, EventType, Format
from app.errors import InvalidInput
from app.graphql.describe import Info, attribute, each, edge, field, output
from app.graphql.filters import check_text
from app.graphql.scalars import DateTime, Json, Long
from app.services import alerts, deliveries, webhooks

MAX_DELIVERIES = 1_000

strawberry.enum(EventType, name="WebhookEvent", description="An event of which a webhook tells.")
strawberry.enum(Format, name="WebhookFormat", description="The shape of a message's body.")
strawberry.enum(DeliveryState, description="The state of one message to one webhook.")
strawberry.enum(AlertKind, description="The condition of an alert rule.")
strawberry.enum(
    Direction, name="AlertDirection", description="The side on which a metric should not be."
)


@output
class WebhookDelivery:
    """One message to one webhook."""

    id: strawberry.ID = attribute("Its id, also `webhook-id` of each attempt.")
    webhook_id: strawberry.ID = attribute("The webhook.")
    type: str = attribute("The event's type, or `webhook.test`.")
    state: DeliveryState = attribute("State of the delivery.")
    attempts: int = attribute("Number of attempts.")
    last_attempt_at: DateTime | None = attribute("Time of the last attempt.")
    last_status: int | None = attribute("HTTP status of the last answer.")
    last_error: str | None = attribute("Reason it was not received.")
    created_at: DateTime = attribute("Time of the event.")

    @field
    def next_attempt_at(self) -> DateTime | None:
        """Time of the next attempt; null if there is none."""
        row: Any = self
        return row.next_attempt_at if row.state == DeliveryState.PENDING else None

    @field
    def message(self) -> Json:
        """Body of the message."""
        row: Any = self
        body: Json = row.body
        return body


@output
class Webhook:
    """A URL that receives events."""

    id: strawberry.ID = attribute("Its id.")
    url: str = attribute("The URL (its host, for who may not change it), or `mailto:` addresses.")
    name: str | None = attribute("Name for people.")
    experiment_id: strawberry.ID | None = attribute("Only the events of this experiment.")
    project_id: strawberry.ID | None = attribute("Only the events of this project.")
    format: Format = attribute("The shape of its messages.")
    created_at: DateTime = attribute("Time of creation.")
    paused_at: DateTime | None = attribute("Nothing is sent while it is paused.")
    paused_reason: str | None = attribute("Reason for the pause.")
    failing_since: DateTime | None = attribute("Start of the failures.")

    @field
    def types(self) -> list[EventType]:
        """The events that it receives; empty: all."""
        row: Any = self
        return [EventType(type) for type in load(row.types)]

    @field
    async def deliveries(
        self, info: Info,
        first: Annotated[
            int, strawberry.argument(description="At most so many, 1 to 1,000.")
        ] = 50,
        after: Annotated[
            strawberry.ID | None,
            strawberry.argument(description="Id of the last message of the page before."),
        ] = None,
    ) -> list[WebhookDelivery]:  # fmt: skip
        """Its messages, newest first."""
        if not 1 <= first <= MAX_DELIVERIES:
            raise InvalidInput(f"`first` must be 1 to {MAX_DELIVERIES:,}.")
        before = None if after is None else check_text(after)
        read = partial(_deliveries, before, first)
        rows: Any = await info.context.load(("deliveries", before, first), [self.id], read)
        return list(rows[0])

    @edge
    async def may_change(self, info: Info) -> bool:
        """True if you may change it, test it and send its messages again."""
        may: bool = await each(self, partial(_load_may_change, info))
        return may


def _deliveries(before: str | None, most: int, tx: Tx, ids: list[str]) -> list[Any]:
    return [deliveries.list_deliveries(tx, id, before, most) for id in ids]


async def _load_may_change(info: Info, rows: list[Any]) -> list[bool]:
    keys = [(row.experiment_id, row.project_id) for row in rows]
    return await info.context.load("may_change", keys, _may_change)


def _may_change(tx: Tx, keys: list[tuple[str | None, str | None]]) -> list[bool]:
    return [webhooks.may_change(tx, *key) for key in keys]


@output
class AlertRule:
    """Rule that raises an alert, once for each run until it recovers."""

    id: strawberry.ID = attribute("Its id.")
    project_id: strawberry.ID = attribute("The project.")
    name: str | None = attribute("Name for people.")
    kind: AlertKind = attribute("Kind of condition.")
    metric: str | None = attribute("The metric that it is about.")
    direction: Direction | None = attribute("Of a threshold: the side that it should not be on.")
    value: float | None = attribute("The bound; of a spike, its size.")
    points: int = attribute("For how many points in a row, before it fires or recovers.")
    created_at: DateTime = attribute("Time of creation.")
    paused_at: DateTime | None = attribute("Start of the pause.")


@output
class Alert:
    """The last firing of a rule for one run, or for one released checkpoint."""

    rule_id: strawberry.ID = attribute("The rule.")
    experiment_id: strawberry.ID = attribute("The experiment.")
    run_id: strawberry.ID = attribute("The run.")
    attempt: int = attribute("The attempt in which it fired.")
    step: Long | None = attribute("The step at which it fired, or recovered.")
    value: float | None = attribute("The value of the metric there.")
    fired_at: DateTime = attribute("Time of firing.")
    recovered_at: DateTime | None = attribute("Time of recovery; null while it is firing.")

    @field
    def ckpt_path(self) -> str | None:
        """The checkpoint that was released."""
        row: Any = self
        return alerts.released_path(row)


@output
class NotificationQueries:
    """Webhooks, alert rules and alerts."""

    @field
    async def webhooks(self, info: Info) -> list[Webhook]:
        """The webhooks, oldest first."""
        rows: Any = await info.context.db.scan(webhooks.list_all)
        return list(rows)

    @field
    async def webhook(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="Its id.")]
    ) -> Webhook | None:
        """The webhook with this id."""
        row: Any = await info.context.db.read(webhooks.find, check_text(id))
        webhook: Webhook | None = row
        return webhook

    @field
    async def alert_rules(self, info: Info) -> list[AlertRule]:
        """The alert rules of the projects that you are in, oldest first."""
        rows: Any = await info.context.db.scan(alerts.list_rules)
        return list(rows)

    @field
    async def alerts(
        self, info: Info,
        run_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="Of this run alone.")
        ] = None,
        rule_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="Of this rule alone.")
        ] = None,
        firing: Annotated[
            bool, strawberry.argument(description="Only those that have not recovered.")
        ] = False,
        first: Annotated[
            int, strawberry.argument(description="At most so many, 1 to 1,000.")
        ] = 100,
    ) -> list[Alert]:  # fmt: skip
        """The newest alerts."""
        if not 1 <= first <= alerts.MAX_LISTED:
            raise InvalidInput(f"`first` must be 1 to {alerts.MAX_LISTED:,}.")
        conditions = {"run_id": run_id, "rule_id": rule_id}
        filters = {
            name: check_text(value) for name, value in conditions.items() if value is not None
        }
        rows: Any = await info.context.db.scan(alerts.list_alerts, filters, firing, first)
        return list(rows)
