"""Send one message to one URL: resolve, check the address, POST, read the status."""

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence
from functools import cache
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

import h11

from app.domain import webhooks
from app.domain.webhooks import Network
from app.version import VERSION

SEND_SECONDS = 10.0
"""From the look-up of the name to the status: a receiver that drips ends here."""
_BLOCK = 16_384
_GONE = 410


class Answer(NamedTuple):
    """The answer of a receiver."""

    status: int | None
    """None: there was no answer."""
    error: str | None
    """Why it was not received; None if it was."""

    @property
    def is_gone(self) -> bool:
        """Return True if the receiver wants no more."""
        return self.status == _GONE


class Message(NamedTuple):
    """One message to be sent. `id` is the same in every attempt."""

    id: str
    url: str
    signing_secret: str
    body: bytes


async def send(message: Message, allowed: Sequence[Network]) -> Answer:
    """POST a message. Redirects are not followed. Never raises but for a cancellation."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            status = await _post(message, allowed)
    except TimeoutError:
        return Answer(None, f"no answer within {SEND_SECONDS:g} s")
    except (OSError, _Refused, h11.RemoteProtocolError) as error:
        return Answer(None, str(getattr(error, "strerror", None) or error)[:500])
    if 200 <= status < 300:
        return Answer(status, None)
    return Answer(status, f"answered {status}")


class _Refused(Exception):
    """An address to which nothing is sent."""


async def _post(message: Message, allowed: Sequence[Network]) -> int:
    parts = urlsplit(message.url)
    assert parts.hostname is not None
    is_tls = parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    address = await _resolve(parts.hostname, port, allowed)
    # To the address that was checked: a second look-up of the name might give another one.
    reader, writer = await asyncio.open_connection(
        address, port,
        ssl=_tls() if is_tls else None,
        server_hostname=parts.hostname if is_tls else None,
    )  # fmt: skip
    try:
        return await _exchange(message, reader, writer)
    finally:
        writer.close()


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


async def _resolve(host: str, port: int, allowed: Sequence[Network]) -> str:
    """Return the first address of a host to which messages may be sent."""
    loop = asyncio.get_running_loop()
    resolved = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(info[4][0]).partition("%")[0] for info in resolved]
    for address in addresses:
        if webhooks.is_reachable(ip_address(address), list(allowed)):
            return address
    raise _Refused(
        f"{host} is at {addresses[0]}, which is no public address; the operator can allow it with "
        "LLM_TRAIN_WEBHOOK_NETWORKS"
    )


async def _exchange(
    message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> int:
    """Send the request and return the status; the answer's body is not read."""
    at = int(time.time())
    parts = urlsplit(message.url)
    signature = webhooks.sign(message.signing_secret, message.id, at, message.body)
    connection = h11.Connection(h11.CLIENT)
    request = h11.Request(
        method="POST",
        target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        headers=[
            ("Host", parts.netloc),
            ("User-Agent", f"llm-train/{VERSION}"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(message.body))),
            ("Connection", "close"),
            ("webhook-id", message.id),
            ("webhook-timestamp", str(at)),
            ("webhook-signature", signature),
        ],
    )
    for part in (request, h11.Data(message.body), h11.EndOfMessage()):
        writer.write(connection.send(part) or b"")
    await writer.drain()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_BLOCK))
        elif isinstance(event, h11.Response):
            return event.status_code
