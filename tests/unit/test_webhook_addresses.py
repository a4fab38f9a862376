"""No spelling of an address, and no name that changes its mind, leads a message to a private place.

Seen red: connecting to the name instead of to the address that was checked, a message followed a
name that was looked up again.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import pytest

from app.domain import webhooks
from app.domain.webhooks import Network
from app.notifications.webhook import Answer, Message, send

pytestmark = pytest.mark.anyio

OWN = [
    "127.0.0.1", "localhost", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1",
    "0177.0.0.1", "017700000001", "0", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:1]", "[64:ff9b::7f00:1]", "[::127.0.0.1]", "[::]",
]  # fmt: skip
"""Ways to say this machine, of which the system's resolver takes more than one would think."""
METADATA = ["169.254.169.254", "2852039166", "0xa9fea9fe", "[::ffff:169.254.169.254]"]
NAME = "rebinding.example.com"
ALLOWED: list[Network] = [ip_network("127.0.0.2/32")]


class Place:
    """What listens at an address of this machine."""

    def __init__(self) -> None:
        self.messages = 0
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.messages += 1
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()


@asynccontextmanager
async def listening(address: str, port: int = 0) -> AsyncIterator[Place]:
    place = Place()
    server = await asyncio.start_server(place.answer, address, port)
    place.port = server.sockets[0].getsockname()[1]
    async with server:
        yield place


async def told(host: str, port: int, allowed: list[Network]) -> Answer:
    secret = webhooks.signing_secret("s" * 32, "whk_1")
    return await send(Message("dlv_1", f"http://{host}:{port}/", secret, b"{}"), allowed)


@pytest.mark.parametrize("host", [*OWN, *METADATA])
async def test_no_spelling_of_a_private_address_is_reached(host: str) -> None:
    async with listening("127.0.0.1") as place:
        answer = await told(host, place.port, [])
        assert answer.status is None and answer.error
        assert place.messages == 0


class Names:
    """A name server for one name: a list of addresses for each look-up, the last one for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
        self.asked = 0
        known = socket.getaddrinfo

        def look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            if host != NAME:
                return known(host, port, *args, **kwargs)
            found = answers[min(self.asked, len(answers) - 1)]
            self.asked += 1
            kind = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
            return [(*kind, (address, port)) for address in found]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.fixture
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patched:
        yield patched


async def test_a_name_that_is_another_address_a_moment_later_is_looked_up_once(
    patched: pytest.MonkeyPatch,
) -> None:
    names = Names(patched, ["127.0.0.2"], ["127.0.0.1"])
    async with listening("127.0.0.1") as private, listening("127.0.0.2", private.port) as public:
        answer = await told(NAME, private.port, ALLOWED)
        assert (answer.status, private.messages, public.messages) == (204, 0, 1)
        assert names.asked == 1
        # At the next message it is looked up again, and refused.
        answer = await told(NAME, private.port, ALLOWED)
        assert answer.status is None and "no public address" in str(answer.error)
        assert (private.messages, public.messages) == (0, 1)


async def test_of_several_addresses_of_a_name_a_private_one_is_passed_over(
    patched: pytest.MonkeyPatch,
) -> None:
    Names(patched, ["127.0.0.1", "127.0.0.2"])
    async with listening("127.0.0.1") as private, listening("127.0.0.2", private.port) as public:
        assert (await told(NAME, private.port, ALLOWED)).status == 204
        assert (private.messages, public.messages) == (0, 1)
