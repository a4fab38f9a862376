"""/graphql, loaded when it is first asked for: it is a third of a start, and of what it holds."""

import asyncio
import gc

from fastapi import APIRouter
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.settings import Settings


class _WhenAsked:
    """Stands for the GraphQL app until the first request makes it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._lock:
            if self._app is None:
                self._app = await asyncio.to_thread(self._load)
        await self._app(scope, receive, send)

    def _load(self) -> ASGIApp:
        from app.graphql.router import GraphQLApp

        app: ASGIApp = GraphQLApp(self._settings)
        gc.freeze()  # it stays for good
        return app


def graphql_router(settings: Settings) -> APIRouter:
    """Return the router of the GraphQL API."""
    app = _WhenAsked(settings)
    return APIRouter(routes=[Route("/graphql", app), WebSocketRoute("/graphql", app)])
