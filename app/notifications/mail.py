"""Send one message as e-mail: connect, encrypt where the server offers it, hand it over."""

import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from email.policy import SMTP
from typing import NamedTuple

from app.domain.mail import SmtpServer
from app.notifications.webhook import SEND_SECONDS, Answer


class Mail(NamedTuple):
    """One mail to be sent. `id` is the same in every attempt, and in the header `Message-ID`."""

    id: str
    sender: str
    recipients: Sequence[str]
    subject: str
    text: str


def send(mail: Mail, server: SmtpServer) -> Answer:
    """Hand a mail over to the server. Blocks, for SEND_SECONDS at each step; never raises."""
    try:
        with _connect(server) as smtp:
            refused = smtp.send_message(_render(mail), mail.sender, list(mail.recipients))
    except smtplib.SMTPRecipientsRefused as error:
        return Answer(None, _refusal(error.recipients))
    except smtplib.SMTPResponseException as error:
        said = error.smtp_error
        words = said.decode(errors="replace") if isinstance(said, bytes) else said
        return Answer(error.smtp_code, f"{error.smtp_code} {words}"[:500])
    except (smtplib.SMTPException, OSError, UnicodeError) as error:
        return Answer(None, str(getattr(error, "strerror", None) or error)[:500])
    # Some of several: the others have it, and a second attempt would send it to them again.
    return Answer(250, None) if len(refused) < len(mail.recipients) else Answer(None, "refused")


def _connect(server: SmtpServer) -> smtplib.SMTP:
    address = (server.host, server.port)
    if server.is_tls:
        context = ssl.create_default_context()
        smtp: smtplib.SMTP = smtplib.SMTP_SSL(*address, timeout=SEND_SECONDS, context=context)
    else:
        smtp = smtplib.SMTP(*address, timeout=SEND_SECONDS)
    try:
        smtp.ehlo()
        encrypted = server.is_tls
        if not encrypted and smtp.has_extn("starttls"):
            smtp.starttls(context=ssl.create_default_context())
            smtp.ehlo()
            encrypted = True
        if server.user is not None:
            if not (encrypted or server.is_local):
                raise smtplib.SMTPException("the server offers no encryption: no password is sent")
            smtp.login(server.user, server.password or "")
    except BaseException:
        smtp.close()
        raise
    return smtp


def _render(mail: Mail) -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["Subject"] = mail.subject
    message["From"] = mail.sender
    message["To"] = ", ".join(mail.recipients)
    message["Message-ID"] = f"<{mail.id}@{mail.sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text)
    return message


def _refusal(recipients: dict[str, tuple[int, bytes]]) -> str:
    return "; ".join(
        f"{address}: {code} {said.decode(errors='replace')}"
        for address, (code, said) in recipients.items()
    )[:500]
