"""Webhooks: what is told to whom, how a message is signed, and when it is tried again.

Messages follow Standard Webhooks: a JSON body with `type`, `timestamp` and `data`, and three
headers, of which `webhook-signature` proves the sender and `webhook-id` is the same for every
attempt, so that a receiver recognises what it has already.
"""

import base64
import hashlib
import hmac
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from app.domain.ids import PATTERN
from app.domain.mail import MAILTO, parse_recipients
from app.domain.requests import EXPERIMENT_ID, Name, Request
from app.domain.text import on_one_line

Network = IPv4Network | IPv6Network

_TRANSLATED = tuple(map(IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))
"""Gateways lead from these to any IPv4 address, a private one as well."""

MAX_WEBHOOKS = 100
"""Of a service: each event that is told is compared with all of them."""
TEST = "webhook.test"

BACK_OFF_SECONDS = (5, 30, 2 * 60, 10 * 60, 3600, 4 * 3600, 12 * 3600, 24 * 3600)
"""The pause after each failed attempt; after one more, a message is given up."""
PAUSE_AFTER_SECONDS = 3 * 24 * 3600
"""A webhook of which nothing was received for so long is paused."""


class EventType(StrEnum):
    """The events of which a webhook can tell."""

    RUN_RUNNING = "run.running"
    RUN_SUCCEEDED = "run.succeeded"
    RUN_FAILED = "run.failed"
    RUN_CANCELLED = "run.cancelled"
    RUN_STALLED = "run.stalled"
    RUN_RECOVERED = "run.recovered"
    RUN_STOPPING = "run.stopping"
    RUN_UNHEALTHY = "run.unhealthy"
    RUN_DELETED = "run.deleted"
    CHECKPOINT_MARKED = "checkpoint.marked"
    CHECKPOINT_RELEASED = "checkpoint.released"
    CHECKPOINT_LOST = "checkpoint.lost"
    ALERT_FIRED = "alert.fired"
    ALERT_RECOVERED = "alert.recovered"


EVENT_TYPES = frozenset(EventType)


class Format(StrEnum):
    """The shape of a message's body."""

    STANDARD = "standard"
    SLACK = "slack"


class DeliveryState(StrEnum):
    """The state of one message to one webhook."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


def _check_url(url: str) -> str:
    if url.startswith(MAILTO):
        parse_recipients(url)
        return url
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL like https://hooks.example.com/path")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user or a password")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must be printable ASCII: encode other characters with %")
    try:
        parts.hostname.encode("idna")
        assert parts.port is None or parts.port
    except (AssertionError, UnicodeError, ValueError):
        raise ValueError("has no valid host or port") from None
    return url


def hide_path(url: str) -> str:
    """Return a URL without its path, which for a chat's is a password; e-mail addresses stay."""
    if url.startswith(MAILTO):
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…"


Url = Annotated[str, StringConstraints(max_length=2_000), AfterValidator(_check_url)]
Types = Annotated[
    list[EventType], Field(max_length=50, description="The events to tell of; all if left out.")
]


class WebhookRequest(Request):
    """Tell a URL of events."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "url": "https://hooks.example.com/training",
                    "types": ["run.failed", "run.stalled"],
                    "experiment_id": EXPERIMENT_ID,
                },
                {"url": "https://hooks.slack.com/services/T0/B0/x", "format": "slack"},
                {"url": "mailto:team@example.com", "types": ["run.failed", "run.unhealthy"]},
            ]
        }
    )

    url: Url
    name: Name | None = None
    types: Types = Field(default_factory=list)
    experiment_id: Annotated[str, StringConstraints(pattern=PATTERN.format("exp"))] | None = None
    project_id: Annotated[str, StringConstraints(pattern=PATTERN.format("prj"))] | None = Field(
        default=None, description="Only the events of this project's experiments."
    )
    format: Format = Format.STANDARD


class WebhookUpdate(Request):
    """Change a webhook, or pause it. Fields that are left out stay."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"paused": False}]})

    url: Url | None = None
    name: Name | None = None
    types: Types | None = None
    format: Format | None = None
    paused: bool | None = None


def signing_secret(secret: str, webhook_id: str) -> str:
    """Return the secret that a webhook's messages are signed with: derived, never stored."""
    key = hmac.digest(secret.encode(), f"webhook:{webhook_id}".encode(), hashlib.sha256)
    return f"whsec_{base64.b64encode(key).decode()}"


def sign(signing_secret: str, message_id: str, at: int, body: bytes) -> str:
    """Return the value of `webhook-signature`. `at`: unix seconds, as in `webhook-timestamp`."""
    key = base64.b64decode(signing_secret.removeprefix("whsec_"))
    signature = hmac.digest(key, f"{message_id}.{at}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(signature).decode()}"


def pause_after(attempts: int) -> int | None:
    """Return the seconds until the next attempt after so many; None: there is none."""
    return BACK_OFF_SECONDS[attempts - 1] if attempts <= len(BACK_OFF_SECONDS) else None


def is_reachable(address: IPv4Address | IPv6Address, allowed: list[Network]) -> bool:
    """Return True if messages may be sent to this address.

    Private addresses are refused unless the operator allows them: a URL from a client must not
    make the service knock at doors that only it can reach.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    translated = any(address in network for network in _TRANSLATED)
    public = address.is_global and not address.is_multicast and not translated
    return public or any(
        address in network for network in allowed if network.version == address.version
    )


def message(type: str, at: str, data: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a message, as Standard Webhooks has it."""
    return {"type": type, "timestamp": at, "data": data}


def slack(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message in the shape that Slack's incoming webhooks read."""
    data = message["data"]
    subject = data.get("run_id") or data.get("ckpt_path") or ""
    what = message["type"].partition(".")[2].replace("_", " ")
    where = f" ({data['experiment']})" if data.get("experiment") else ""
    detail = f"\n> {_escape(data['detail'])}" if data.get("detail") else ""
    kind = message["type"].partition(".")[0].capitalize()
    return {"text": f"{kind} `{subject}`{_escape(where)}: *{what}*{detail}"}


def _escape(text: str) -> str:
    """Return a text in which nothing is a link, a mention or a quotation of Slack's."""
    text = on_one_line(text).replace("&", "&amp;")
    return text.replace("<", "&lt;").replace(">", "&gt;")
