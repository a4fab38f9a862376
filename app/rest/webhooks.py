"""`/v1/webhooks`: URLs that receive events, and the messages that are sent to them."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from orjson import Fragment
from pydantic import Field
from typing_extensions import TypedDict

from app.db.sql import load
from app.db.tables import Webhook, WebhookDelivery
from app.domain.ids import PATTERN
from app.domain.requests import EmptyRequest
from app.domain.webhooks import EventType, WebhookRequest, WebhookUpdate, signing_secret
from app.rest import responses, schemas
from app.rest.body import read
from app.rest.parameters import DocumentedRoute, Parameters, accepts_json
from app.rest.problems import describe_errors
from app.services import deliveries, webhooks

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=DocumentedRoute)

WEBHOOK_ID = "whk_0cc4q1zt8b3k5m7p9s1v3x5z7a"
DELIVERY_ID = "dlv_0cc4q20a4c6e8g0j2m4p6r8t0v"
WebhookId = Annotated[str, Path(pattern=PATTERN.format("whk"), examples=[WEBHOOK_ID])]
DeliveryId = Annotated[str, Path(pattern=PATTERN.format("dlv"), examples=[DELIVERY_ID])]


class WebhookAnswer(TypedDict):
    """A URL that receives events."""

    webhook_id: str
    url: str
    name: str | None
    types: Annotated[list[str], Field(description="The events to tell of; empty: all.")]
    experiment_id: Annotated[str | None, Field(description="Only its events; null: those of all.")]
    project_id: Annotated[str | None, Field(description="Only the events of this project.")]
    format: str
    created_at: schemas.Time
    paused_at: Annotated[
        schemas.Time | None, Field(description="Nothing is sent while it is paused.")
    ]
    paused_reason: str | None
    failing_since: Annotated[
        schemas.Time | None,
        Field(description="Start of the failures; null while all is well."),
    ]


class NewWebhookAnswer(WebhookAnswer):
    """A new webhook, with the secret that its messages are signed with."""

    signing_secret: str


class WebhooksAnswer(TypedDict):
    """All webhooks."""

    webhooks: list[WebhookAnswer]
    event_types: Annotated[list[str], Field(description="Every event that one may tell of.")]


class DeliveryAnswer(TypedDict):
    """One message to one webhook."""

    delivery_id: Annotated[str, Field(description="Also `webhook-id` of each attempt.")]
    webhook_id: str
    type: str
    state: str
    attempts: int
    next_attempt_at: schemas.Time | None
    last_attempt_at: schemas.Time | None
    last_status: Annotated[int | None, Field(description="HTTP status of the last answer.")]
    last_error: Annotated[str | None, Field(description="Reason it was not received.")]
    created_at: schemas.Time
    message: schemas.Json


class DeliveriesAnswer(TypedDict):
    """One page of messages, newest first."""

    deliveries: list[DeliveryAnswer]
    next: Annotated[str | None, Field(description="`after` of the next page.")]


def view(webhook: Webhook) -> WebhookAnswer:
    """Return `WebhookAnswer`."""
    return {
        "webhook_id": webhook.id,
        "url": webhook.url,
        "name": webhook.name,
        "types": load(webhook.types),
        "experiment_id": webhook.experiment_id,
        "project_id": webhook.project_id,
        "format": webhook.format,
        "created_at": webhook.created_at,
        "paused_at": webhook.paused_at,
        "paused_reason": webhook.paused_reason,
        "failing_since": webhook.failing_since,
    }


def view_delivery(delivery: WebhookDelivery) -> DeliveryAnswer:
    """Return `DeliveryAnswer`."""
    return {
        "delivery_id": delivery.id,
        "webhook_id": delivery.webhook_id,
        "type": delivery.type,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "next_attempt_at": delivery.next_attempt_at if delivery.state == "pending" else None,
        "last_attempt_at": delivery.last_attempt_at,
        "last_status": delivery.last_status,
        "last_error": delivery.last_error,
        "created_at": delivery.created_at,
        "message": Fragment(delivery.body),
    }


@router.post(
    "", status_code=201, response_model=NewWebhookAnswer,
    **accepts_json(WebhookRequest),
)  # fmt: skip
async def create_webhook(request: Request) -> Response:
    """Tell a URL of events. The answer alone shows the secret that its messages are signed with."""
    body = await read(request, WebhookRequest)
    stored = await responses.perform(request, lambda tx: webhooks.create(tx, body), view, 201)
    secret = request.app.state.secret
    return responses.respond(
        stored,
        secrets=lambda made: {"signing_secret": signing_secret(secret, made["webhook_id"])},
    )


@router.get("", response_model=WebhooksAnswer, responses=describe_errors())
async def list_webhooks(request: Request) -> Response:
    """List the webhooks, oldest first."""
    rows = await request.app.state.db.read(webhooks.list_all)
    return responses.json({"webhooks": list(map(view, rows)), "event_types": list(EventType)})


@router.get("/{webhook_id}", response_model=WebhookAnswer, responses=describe_errors(404))
async def get_webhook(request: Request, webhook_id: WebhookId) -> Response:
    """Return a webhook."""
    return responses.json(view(await request.app.state.db.read(webhooks.get, webhook_id)))


@router.patch("/{webhook_id}", response_model=WebhookAnswer, **accepts_json(WebhookUpdate, 404))
async def update_webhook(request: Request, webhook_id: WebhookId) -> Response:
    """Change a webhook, pause it, or let it go on with what waits."""
    body = await read(request, WebhookUpdate)
    return responses.respond(
        await responses.perform(request, lambda tx: webhooks.update(tx, webhook_id, body), view)
    )


@router.delete("/{webhook_id}", status_code=204, responses=describe_errors(404))
async def delete_webhook(request: Request, webhook_id: WebhookId) -> Response:
    """Delete a webhook, and its messages with it."""
    await responses.write(request, lambda tx: webhooks.remove(tx, webhook_id))
    return Response(status_code=204)


@router.post(
    "/{webhook_id}/test", status_code=202, response_model=DeliveryAnswer,
    **accepts_json(EmptyRequest, 404),
)  # fmt: skip
async def test_webhook(request: Request, webhook_id: WebhookId) -> Response:
    """Send a message of the type `webhook.test`."""
    await read(request, EmptyRequest)
    stored = await responses.perform(
        request, lambda tx: deliveries.send_test(tx, webhook_id), view_delivery, 202
    )
    return responses.respond(stored)


class DeliveriesQuery(Parameters):
    """One page of messages."""

    limit: Annotated[int, Field(ge=1, le=1_000, description="Messages in a page.")] = 50
    after: Annotated[str | None, Field(pattern=PATTERN.format("dlv"))] = None


@router.get(
    "/{webhook_id}/deliveries", response_model=DeliveriesAnswer,
    responses=describe_errors(404, 422),
)  # fmt: skip
async def list_deliveries(
    request: Request, webhook_id: WebhookId, query: Annotated[DeliveriesQuery, Query()]
) -> Response:
    """List the messages of a webhook, newest first. `next` is the next `after`."""
    rows = await request.app.state.db.scan(
        deliveries.list_deliveries, webhook_id, query.after, query.limit + 1
    )
    page: dict[str, Any] = {
        "deliveries": list(map(view_delivery, rows[: query.limit])),
        "next": rows[query.limit - 1].id if len(rows) > query.limit else None,
    }
    return responses.json(page)


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver", status_code=202,
    response_model=DeliveryAnswer, **accepts_json(EmptyRequest, 404),
)  # fmt: skip
async def redeliver(request: Request, webhook_id: WebhookId, delivery_id: DeliveryId) -> Response:
    """Send a message once more, under its own id."""
    await read(request, EmptyRequest)
    stored = await responses.perform(
        request, lambda tx: deliveries.redeliver(tx, webhook_id, delivery_id), view_delivery, 202
    )
    return responses.respond(stored)
