"""Send the messages of webhooks: a job for each webhook, so that no step waits for a receiver."""

import asyncio

from app.domain.webhooks import signing_secret
from app.notifications import webhook as sender
from app.notifications.webhook import Message
from app.services import webhooks
from app.services.webhooks import Attempt, Due
from app.supervisor.state import SupervisorState

AT_ONCE = 8
"""Messages to one webhook at a time: a slow receiver keeps only its own waiting."""


async def deliver(state: SupervisorState) -> None:
    """Start a job for each webhook to which something is to be sent."""
    for webhook_id in await state.db.read(webhooks.list_with_due):
        about = f"webhook {webhook_id}"
        if about not in state.jobs:
            state.start_job(about, _send_due(state, webhook_id))


async def _send_due(state: SupervisorState, webhook_id: str) -> None:
    """Send what is due to one webhook, until nothing is."""
    while state.leads and (due := await state.db.read(webhooks.list_due, webhook_id, AT_ONCE)):
        attempts = await asyncio.gather(*_attempts(state, due))
        await state.db.write(webhooks.record, webhook_id, attempts)


def _attempts(state: SupervisorState, due: Due) -> list[asyncio.Task[Attempt]]:
    secret = signing_secret(state.secret, due.webhook.id)

    async def send(delivery_id: str, body: bytes) -> Attempt:
        message = Message(delivery_id, due.webhook.url, secret, body)
        answer = await sender.send(message, state.settings.webhook_networks)
        return Attempt(delivery_id, answer.status, answer.error, answer.is_gone)

    return [
        asyncio.create_task(send(delivery.id, webhooks.body_of(due.webhook, delivery)))
        for delivery in due.deliveries
    ]
