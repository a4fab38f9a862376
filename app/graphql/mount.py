"""/graphql, loaded when it is first asked for: it is a third of a start, and of what it holds."""

from fastapi import APIRouter
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from app.server.when_asked import WhenAsked
from app.settings import Settings


def graphql_router(settings: Settings) -> APIRouter:
    """Return the router of the GraphQL API."""

    def make() -> ASGIApp:
        from app.graphql.router import GraphQLApp

        return GraphQLApp(settings)

    app = WhenAsked(make)
    http = Route("/graphql", app, include_in_schema=False)
    return APIRouter(routes=[http, WebSocketRoute("/graphql", app)])
