"""The GraphQL face, mounted at /graphql."""

import strawberry
from fastapi import APIRouter
from strawberry.fastapi import GraphQLRouter

from app.settings import Settings


@strawberry.type
class Query:
    """Everything that can be asked."""

    @strawberry.field
    def ping(self) -> bool:
        """The service answers."""
        return True


def graphql_router(settings: Settings) -> APIRouter:
    """The router of the GraphQL face."""
    return GraphQLRouter(strawberry.Schema(query=Query), path="/graphql")
