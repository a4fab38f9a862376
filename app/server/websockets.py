"""WebSocketConnection: uvicorn's protocol of a websocket, with the bounds of `connections`."""

from math import inf
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from app.server.connections import HEAD_SECONDS, MAX_HEAD


class WebSocketConnection(WebSocketsSansIOProtocol):
    """A websocket, bounded until the service's first message: to a client that is known."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: Any = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.deadline = self.loop.time() + HEAD_SECONDS
        self._bytes_before = 0

    def data_received(self, data: bytes) -> None:
        if self.deadline < inf:
            self._bytes_before += len(data)
            if self._bytes_before > MAX_HEAD:
                self.transport.abort()
                return
        super().data_received(data)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.send":
            self.deadline = inf
        elif message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # it was answered; uvicorn would log an error

    def close_if_late(self, now: float) -> None:
        """Close a websocket whose client was never let in."""
        if now > self.deadline:
            self.transport.abort()
