"""The schema, assembled."""

from collections.abc import Iterable
from typing import Any

import strawberry
from graphql import (
    GraphQLArgument,
    GraphQLError,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    Undefined,
)
from strawberry.schema.config import StrawberryConfig

from app.graphql.mutations import Mutation
from app.graphql.operation import Closed, LimitedExecutor, Operation, log_bugs
from app.graphql.queries import Query
from app.graphql.scalars import SCALARS
from app.graphql.subscriptions import Subscription
from app.graphql.types import Checkpoint, Event, Experiment, Run


class Schema(strawberry.Schema):
    """Rows stand for objects, so an object's type is told by its row's class."""

    def __init__(self, *, introspection: bool = True) -> None:
        super().__init__(
            query=Query,
            mutation=Mutation,
            subscription=Subscription,
            types=[Experiment, Run, Checkpoint, Event],
            extensions=[Operation if introspection else Closed],
            execution_context_class=LimitedExecutor,
            config=StrawberryConfig(
                scalar_map=SCALARS, disable_field_suggestions=not introspection
            ),
        )
        for named_type in self._schema.type_map.values():
            if isinstance(named_type, GraphQLObjectType):
                named_type.is_type_of = None
                for field in named_type.fields.values():
                    _drop_null_defaults(field.args.values())
            elif isinstance(named_type, GraphQLInputObjectType):
                _drop_null_defaults(named_type.fields.values())
        node = self._schema.type_map["Node"]
        assert isinstance(node, GraphQLInterfaceType)
        # An object of a table, or its light row (`RunRow`).
        node.resolve_type = lambda row, info, abstract: type(row).__name__.removesuffix("Row")

    def process_errors(self, errors: list[GraphQLError], execution_context: Any = None) -> None:
        log_bugs(errors)


def _drop_null_defaults(values: Iterable[GraphQLArgument | GraphQLInputField]) -> None:
    """Omit defaults of null: `= null` says nothing, and generators of client types mishandle it."""
    for value in values:
        if value.default_value is None:
            value.default_value = Undefined


def sdl() -> str:
    """Return the schema definition, for `schema.graphql`, with a final newline."""
    return Schema().as_str() + "\n"
