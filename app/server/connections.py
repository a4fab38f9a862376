"""Connections: bounds on what a client holds before its request is complete.

uvicorn bounds neither the head of a request nor the time that a client may take, and asyncio
accepts until no descriptor is left: a few hundred idle clients would stop the service and every
launch. So

* a head is at most `MAX_HEAD` bytes, and so are the chunk sizes and trailers between bodies;
* a client has `HEAD_SECONDS` for a head, `BODY_SECONDS` for a body (for a file that is uploaded as
  much more as it takes at `UPLOAD_RATE`), `STALL_SECONDS` to go on reading an answer;
* with `most_connections()` open, the one that has kept the service waiting longest is closed.

HttpConnection  uvicorn's protocol with these bounds
make_websocket  the same of a websocket (`websockets`)
close_late      to be called every second
"""

import resource
from asyncio import BaseTransport, Protocol
from collections.abc import Iterable
from math import inf
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from app.errors import HeadTooLarge, RequestTimeout, ServiceError, Unavailable
from app.server import exchange

MAX_HEAD = 64 * 1024
HEAD_SECONDS = 10.0
BODY_SECONDS = 60.0
STALL_SECONDS = 60.0
UPLOAD_RATE = 64 * 1024
"""Bytes a second at which a file must arrive, beyond the first minute."""
WEBSOCKET_BYTES = 1024 * 1024
"""The largest message of a websocket: a query and its variables."""
BACKLOG = 256
"""Connections that may be accepted in one go, before any can be closed."""
_OWN_DESCRIPTORS = 128
_MOST = 4096


def most_connections() -> int:
    """Return how many connections may be open, so that descriptors are left for the service."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = _MOST if soft == resource.RLIM_INFINITY else soft - BACKLOG - _OWN_DESCRIPTORS
    return max(32, min(_MOST, room))


class HttpConnection(HttpToolsProtocol):
    """An HTTP connection. `deadline`: when the client must have gone on, on the loop's clock."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: Any = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.deadline = inf
        self._stalled_at = inf
        self._now = 0.0
        self._between = True  # no byte of the next request has come
        self._was_late = False
        self._advanced = False
        self._head_bytes = 0
        self._most = most_connections()

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.deadline = self.loop.time() + HEAD_SECONDS
        if len(self.connections) > self._most:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        self._now = self.loop.time()
        self._was_late = False
        if self._between:
            self._between = False
            self.deadline = self._now + HEAD_SECONDS
        self._advanced = False
        super().data_received(data)
        # Without progress, these bytes are of a head, or between two pieces of a body.
        self._head_bytes = 0 if self._advanced else self._head_bytes + len(data)
        if self._head_bytes > MAX_HEAD:
            self.refuse(HeadTooLarge(f"The head of a request may have at most {MAX_HEAD} bytes."))

    def on_headers_complete(self) -> None:
        self._advanced = True
        self.deadline = self._now + BODY_SECONDS
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._advanced = True
        if self.parser.get_method() == b"PUT":
            self.deadline += len(body) / UPLOAD_RATE
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._advanced = self._between = True
        answered = self.cycle is not None and self.cycle.response_complete
        self.deadline = self._now + self.timeout_keep_alive if answered else inf
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._between:
            self.deadline = self.loop.time() + self.timeout_keep_alive

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled_at = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled_at = inf

    def handle_websocket_upgrade(self) -> None:
        websockets = sum(not isinstance(other, HttpConnection) for other in self.connections)
        if websockets >= self._most // 2:
            self.refuse(Unavailable("Too many websockets are open; try again later."))
        else:
            super().handle_websocket_upgrade()

    def timeout_keep_alive_handler(self) -> None:
        """Leave idle connections to `close_if_late`."""

    def close_if_late(self, now: float) -> None:
        """Close a connection whose client has not gone on in time."""
        if now > self._stalled_at + STALL_SECONDS:
            self.transport.abort()
        elif now > self.deadline:
            if self.flow.read_paused:  # this service is the one that waits
                self.deadline = now + BODY_SECONDS
            elif self._between and not self._was_late:
                # After a pause of this process uvloop runs timers before it reads: a request may
                # have arrived, which would be reset. It is read before the next look.
                self._was_late = True
            elif self._head_bytes:
                self.refuse(RequestTimeout("The head of the request took too long; send it again."))
            else:
                self.transport.abort()

    def refuse(self, error: ServiceError) -> None:
        """Answer in place of the app, and close the connection."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            body = exchange.problem(error)
            head = f"content-type: application/problem+json\r\ncontent-length: {len(body)}\r\n"
            answer = [STATUS_LINE[error.status], head.encode(), b"connection: close\r\n\r\n", body]
            self.transport.write(b"".join(answer))
        self.transport.close()

    def _make_room(self) -> None:
        """Close the connection that has been waited for longest, or else this one."""
        waited = [other for other in cast(Any, self.connections) if other.deadline < inf]
        longest = min(waited, key=lambda connection: connection.deadline)
        longest.transport.abort()
        longest.deadline = inf  # it is open until the next round, and would be closed for others


def make_websocket(**arguments: Any) -> Protocol:
    """Return the protocol of a connection that becomes a websocket.

    The first one loads it, a fiftieth of a start: a service without a dashboard needs none.
    """
    from app.server.websockets import WebSocketConnection

    return WebSocketConnection(**arguments)


def close_late(connections: Iterable[Any], now: float) -> None:
    """Close every connection whose client has not gone on in time."""
    for connection in list(connections):
        connection.close_if_late(now)
