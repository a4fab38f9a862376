"""Extensions around every operation: parse and validate once, refuse one that costs too much, end
one that takes too long, give every error a code, and hide internals that a bug would disclose.

Codes of top-level errors are those that GraphQL clients know (BAD_USER_INPUT, …); the
lower-case codes of REST appear in `userErrors`.
"""

import logging
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from typing import Any

from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    GraphQLSyntaxError,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    OperationType,
)
from strawberry.exceptions import MissingQueryError
from strawberry.extensions import MaskErrors
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.schema.schema import validate_document

from app.errors import Busy, InvalidInput, ServiceError, Timeout
from app.graphql import limits
from app.graphql.context import Context
from app.graphql.executor import FastExecutor

log = logging.getLogger(__name__)


class LimitedExecutor(FastExecutor):
    """Bounds the time and the memory of every operation on every transport, and of every single
    answer of a subscription, which itself lives on."""

    def spend(self, size: int) -> None:
        self.context_value.budget.charge(size)

    def execute_operation(self, serially: bool | None = None) -> Any:
        self.context_value = context = self.context_value.for_operation(limits.SECONDS)
        result = super().execute_operation(serially)
        return self._run_limited(context, result) if self.is_awaitable(result) else result

    async def _run_limited(
        self, context: Context, result: Awaitable[ExecutionResult]
    ) -> ExecutionResult:
        try:
            async with context.limit:
                answer = await result
            if context.budget.refused is None:
                return answer
            error = context.budget.refused
            return ExecutionResult(None, [GraphQLError(error.detail, original_error=error)])
        except TimeoutError:
            late = Timeout(f"The operation took longer than {limits.SECONDS:g} s.")
            return ExecutionResult(None, [GraphQLError(late.detail, original_error=late)])
        finally:
            context.cancel()


class Operation(MaskErrors):
    """The one extension of the schema, fresh for each operation."""

    def __init__(self) -> None:
        super().__init__(lambda error: "code" not in (error.extensions or {}))
        self.cost: int | None = None

    def on_operation(self) -> Iterator[None]:
        execution = self.execution_context
        if execution.context.shared:
            execution.context = execution.context.copy_for_operation()
        context, self.watched = execution.context, 0
        try:
            yield from super().on_operation()
        finally:
            context.memory.unwatch(self.watched)
            if context.shared:
                context.release()

    def on_stream_result(self, result: Any) -> Iterator[None]:
        try:
            yield from super().on_stream_result(result)
        finally:
            self.execution_context.context.release()  # it is sent

    def on_parse(self) -> Iterator[None]:
        context = self.execution_context
        context.parse_options["max_tokens"] = limits.TOKENS
        # Where it does not parse, Strawberry tries again and knows what to do with the error.
        with suppress(GraphQLError, RecursionError):
            context.graphql_document = context.context.documents.parse(context.query or "")
        yield

    def on_validate(self) -> Iterator[None]:
        context = self.execution_context
        document = context.graphql_document
        assert document is not None
        schema = context.schema._schema
        name = context._provided_operation_name
        operations = [
            definition
            for definition in document.definitions
            if isinstance(definition, OperationDefinitionNode)
        ]
        if name is None and len(operations) > 1:
            context.pre_execution_errors = [
                GraphQLError("The document has several operations: say which in operationName.")
            ]
        else:
            chosen = next(
                operation
                for operation in operations
                if name in (None, operation.name and operation.name.value)
            )
            try:
                self.cost = limits.check(schema, document, chosen, context.variables or {})
                context.pre_execution_errors = self._validate(document)
                if chosen.operation is OperationType.SUBSCRIPTION:
                    context.context.memory.watch(1 + self.cost)
                    self.watched = 1 + self.cost
            except Busy as busy:
                context.pre_execution_errors = [GraphQLError(busy.detail, original_error=busy)]
            except GraphQLError as error:
                context.pre_execution_errors = [error]
        yield

    def _validate(self, document: DocumentNode) -> list[GraphQLError]:
        context = self.execution_context
        query, documents = context.query or "", context.context.documents
        if documents.is_valid(query):
            return []
        limits.check_repetitions(document)
        errors = validate_document(context.schema._schema, document, context.validation_rules)
        if not errors:
            documents.add(query, document)
        return errors

    def get_results(self) -> dict[str, Any]:
        if self.cost is None:
            return {}
        return {"cost": {"nodes": self.cost, "maximum": limits.NODES}}

    def anonymise_error(self, error: GraphQLError) -> GraphQLError:
        original = error.original_error
        message, extensions = error.message, dict[str, Any]()
        if isinstance(original, ServiceError):
            message = original.detail
            wrong = isinstance(original, InvalidInput)
            extensions["code"] = "BAD_USER_INPUT" if wrong else original.code.upper()
            if original.retry_after is not None:
                extensions["retryAfter"] = original.retry_after
        elif is_bug(error):
            message = "A bug in the service; its log has the details."
            extensions["code"] = "INTERNAL_SERVER_ERROR"
        elif isinstance(error, GraphQLSyntaxError):
            extensions["code"] = "GRAPHQL_PARSE_FAILED"
        else:
            extensions["code"] = "GRAPHQL_VALIDATION_FAILED" if error.nodes else "BAD_REQUEST"
        return GraphQLError(
            message, error.nodes, error.source, error.positions, error.path, None, extensions
        )


class Closed(Operation):
    """The extension with introspection off."""

    def on_validate(self) -> Iterator[None]:
        self.execution_context.validation_rules += (NoSchemaIntrospectionCustomRule,)
        yield from super().on_validate()


_CLIENTS = (
    ServiceError, GraphQLError, CannotGetOperationTypeError, InvalidOperationTypeError,
    MissingQueryError,
)  # fmt: skip


def is_bug(error: GraphQLError) -> bool:
    """Return True if the service is at fault, and not the client."""
    original = error.original_error
    if original is None or isinstance(original, _CLIENTS):
        return False
    # What has a place in the document and none in the answer is a value that was refused.
    return error.path is not None or not error.nodes


def log_bugs(errors: list[GraphQLError]) -> None:
    """Log the errors that are faults of the service, not those of clients."""
    for error in errors:
        if is_bug(error):
            log.error("%s", error, exc_info=error.original_error)
