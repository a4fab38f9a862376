"""Send the messages of webhooks: a job for each webhook, so that no step waits for a receiver."""

import asyncio
from typing import TYPE_CHECKING

from app.db.sql import load
from app.db.tables import WebhookDelivery
from app.domain.mail import MAILTO, SmtpServer, compose, parse_recipients
from app.domain.webhooks import signing_secret
from app.services import deliveries
from app.services.deliveries import Attempt, Due
from app.supervisor.state import SupervisorState

# Loaded by the first message: most servers send none, and need neither h11 nor smtplib.
if TYPE_CHECKING:
    from app.notifications.webhook import Answer

AT_ONCE = 8
"""Messages to one webhook at a time: a slow receiver keeps only its own waiting."""


async def deliver(state: SupervisorState) -> None:
    """Start a job for each webhook to which something is to be sent."""
    for webhook_id in await state.db.read(deliveries.list_with_due):
        about = f"webhook {webhook_id}"
        if about not in state.jobs:
            state.start_job(about, _send_due(state, webhook_id))


async def _send_due(state: SupervisorState, webhook_id: str) -> None:
    """Send what is due to one webhook, until nothing is."""
    while state.leads and (due := await state.db.read(deliveries.list_due, webhook_id, AT_ONCE)):
        attempts = await asyncio.gather(*_attempts(state, due))
        state.sent.update("failed" if attempt.error else "delivered" for attempt in attempts)
        await state.db.write(deliveries.record, webhook_id, attempts)


def _attempts(state: SupervisorState, due: Due) -> list[asyncio.Task[Attempt]]:
    secret = signing_secret(state.secret, due.webhook.id)

    async def send(delivery: WebhookDelivery) -> Attempt:
        if due.webhook.url.startswith(MAILTO):
            answer = await _send_mail(state, due.webhook.url, delivery)
        else:
            body = deliveries.body_of(due.webhook, delivery)
            answer = await _post(state, delivery.id, due.webhook.url, secret, body)
        return Attempt(delivery.id, answer.status, answer.error, answer.is_gone)

    return [asyncio.create_task(send(delivery)) for delivery in due.deliveries]


async def _post(state: SupervisorState, id: str, url: str, secret: str, body: bytes) -> "Answer":
    from app.notifications.webhook import Message, send

    return await send(Message(id, url, secret, body), state.settings.webhook_networks)


async def _send_mail(state: SupervisorState, url: str, delivery: WebhookDelivery) -> "Answer":
    from app.notifications import mail
    from app.notifications.webhook import Answer

    settings = state.settings
    if settings.smtp_url is None:
        return Answer(None, "The operator has set no LLM_TRAIN_SMTP_URL.")
    subject, text = compose(load(delivery.body))
    composed = mail.Mail(delivery.id, settings.mail_from, parse_recipients(url), subject, text)
    return await state.mailers.run(mail.send, composed, SmtpServer.parse(settings.smtp_url))
