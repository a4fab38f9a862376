"""The socket that a server listens on, and uvicorn's server for it."""

import asyncio
import socket
import sys
from typing import cast

import uvicorn
from fastapi import FastAPI

from app.server import connections
from app.settings import Settings

ACCEPTED_AT_ONCE = 16


def listen(settings: Settings) -> socket.socket:
    """Return a listening socket. Raises SystemExit with one line that says what to do."""
    host = settings.host
    try:
        return socket.create_server(
            (host, settings.port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            # `::` is every address of the machine, IPv4 as well.
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
            backlog=connections.BACKLOG,
        )
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (")[0].lower()
        sys.exit(
            f"llm-train: cannot listen on {host}:{settings.port}: {why}; "
            "choose another place with LLM_TRAIN_PORT or LLM_TRAIN_HOST"
        )


def run(server: uvicorn.Server, sock: socket.socket) -> None:
    """Serve a socket that listens until SIGINT or SIGTERM, and close it.

    libuv accepts one connection in a round of the loop, whatever waits. Where a round takes 20 ms,
    as while a hundred trainers report, the fiftieth of fifty new clients waits a second for its
    first answer. So it watches `ACCEPTED_AT_ONCE` descriptors of the one socket.
    """
    server.run(sockets=[sock, *(sock.dup() for _ in range(ACCEPTED_AT_ONCE - 1))])


def make_server(app: FastAPI, settings: Settings, sock: socket.socket) -> uvicorn.Server:
    """Return a server for a socket that listens; its address becomes `app.state.api_url`."""
    app.state.api_url = local_url(settings.host, sock.getsockname()[1])
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=connections.HttpConnection,
        ws=cast("type[asyncio.Protocol]", connections.make_websocket),
        ws_max_size=min(settings.max_body_bytes, connections.WEBSOCKET_BYTES),
        ws_per_message_deflate=False,
        backlog=connections.BACKLOG,
        timeout_graceful_shutdown=1,
        timeout_notify=0,
    )
    server = uvicorn.Server(config)

    async def every_second() -> None:
        now = asyncio.get_running_loop().time()
        connections.close_late(server.server_state.connections, now)

    config.callback_notify = every_second
    return server


def local_url(host: str, port: int) -> str:
    """Return the URL at which this machine's own trainers reach the service."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
