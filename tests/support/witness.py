"""A gate that writes down what each of its clients asked, and the status of the answer."""

import re
import socket
import time
from typing import NamedTuple

from tests.support.ministack import Gate

_REQUEST = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE) (\S+) HTTP/1")
_STATUS = re.compile(rb"HTTP/1\.\d (\d{3})")


class Answer(NamedTuple):
    """What a client has been told."""

    client: str
    """Its address."""
    path: str
    status: int


class Witness(Gate):
    """Each connection carries one request after the other, as those of trainers and agents do.

    `held`: a client's address, and a word; its requests for paths with this word wait meanwhile.
    """

    def __init__(self, target: str, address: str = "127.0.0.1") -> None:
        self.answers: list[Answer] = []
        self.held: tuple[str, str] | None = None
        self._last: dict[socket.socket, tuple[str, str]] = {}
        super().__init__(target, address)

    def _asked(self, client: socket.socket, content: bytes) -> bytes:
        if found := _REQUEST.match(content):
            asked = client.getpeername()[0], found[1].decode()
            self._last[client] = asked
            while self.held and self.held[0] == asked[0] and self.held[1] in asked[1]:
                time.sleep(0.05)
        return super()._asked(client, content)

    def _answered(self, client: socket.socket, content: bytes) -> bytes:
        if (asked := self._last.get(client)) and (found := _STATUS.match(content)):
            self.answers.append(Answer(*asked, int(found[1])))
        return super()._answered(client, content)
