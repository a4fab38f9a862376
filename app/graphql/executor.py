"""Lists of objects, completed a column at a time instead of a value at a time.

The reference executor spends some ten microseconds on every value: a path, an info object, a
resolver, a completion. Here a field of all rows is one column: a plain attribute is read
from every row at once, an edge is resolved for every row at once (`Rows`), the objects of all
of them are one longer list, and so on downwards. Where a column holds something unusual (a null
that must not be, a value of another type, an error of a resolver) this module raises
`NotEligible`, and the whole list is left to the reference executor, whose answers and errors are
the definition. Any other exception is a bug of this module, and is not covered up by slowness.
"""

import logging
import math
from collections.abc import Callable
from itertools import repeat
from operator import attrgetter
from types import NoneType
from typing import Any, NamedTuple

from graphql import (
    GraphQLEnumType,
    GraphQLError,
    GraphQLField,
    GraphQLObjectType,
    Undefined,
    is_leaf_type,
    is_list_type,
    is_non_null_type,
    is_object_type,
)
from graphql.execution.values import get_argument_values
from graphql.pyutils import Path, gather_with_cancel
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.types.scalar import identity

from app.errors import ServiceError
from app.graphql.budget import OBJECT, VALUE
from app.graphql.describe import Rows

Column = list[Any]


log = logging.getLogger(__name__)


class NotEligible(Exception):
    """The reference executor must complete this list. The cause, if any, is a resolver's error."""


class Step(NamedTuple):
    """Turns one column into another; `late`: `run` answers when it is awaited."""

    run: Callable[[Column], Any]
    late: bool = False


class FastExecutor(StrawberryGraphQLCoreExecutionContext):
    """The reference executor, but for lists of objects."""

    def spend(self, size: int) -> None:
        """Count bytes of the answer; a subclass may raise what ends the operation."""

    def complete_leaf_value(self, return_type: Any, result: Any) -> Any:  # type: ignore[override]
        self.spend(VALUE + (len(result) if isinstance(result, str) else 0))
        return super().complete_leaf_value(return_type, result)

    def complete_object_value(self, *args: Any) -> Any:
        self.spend(OBJECT)
        return super().complete_object_value(*args)

    def execute_operation(self, serially: bool | None = None) -> Any:
        # Anew for each answer of a subscription: a plan knows the context that it was made in.
        # The list of nodes is kept with its plan, so that its id stays its own.
        self._plans: dict[tuple[Any, int], tuple[Any, Step | None]] = {}
        return super().execute_operation(serially)

    def complete_list_value(
        self, return_type: Any, field_details_list: Any, info: Any, path: Any, result: Any,
        position_context: Any,
    ) -> Any:  # fmt: skip
        def reference() -> Any:
            self.spend(0)  # where nothing may be spent any more, this need not be tried
            return super(FastExecutor, self).complete_list_value(
                return_type, field_details_list, info, path, result, position_context
            )

        async def later(step: Step) -> Any:
            try:
                return await step.run(result)
            except NotEligible as reason:
                _log_bug(reason)
                value = reference()
                return await value if self.is_awaitable(value) else value

        if type(result) is not list or not result or position_context is not None:
            return reference()
        key = (return_type, id(field_details_list))
        if key not in self._plans:
            plan = _value(self, return_type.of_type, field_details_list)
            self._plans[key] = field_details_list, plan
        step = self._plans[key][1]
        if step is None:
            return reference()
        if step.late:
            return later(step)
        try:
            return step.run(result)
        except NotEligible as reason:
            _log_bug(reason)
            return reference()


def _log_bug(reason: NotEligible) -> None:
    """Log what a resolver raised that is no message to the client.

    It may fail only where it is asked for a whole column, and then nobody else would tell.
    """
    cause = reason.__cause__
    if cause is not None and not isinstance(cause, ServiceError | GraphQLError):
        log.error("a resolver failed for a column", exc_info=cause)


def _wrap(
    step: Step | None,
    before: Callable[[Column], Column],
    after: Callable[[Column, Column], Column] = lambda values, results: results,
) -> Step | None:
    """Return a step with `before` applied to its column and `after` to its result."""
    if step is None:
        return None
    run = step.run

    async def later(values: Column) -> Column:
        return after(values, await run(before(values)))

    if step.late:
        return Step(later, late=True)
    return Step(lambda values: after(values, run(before(values))))


def _value(executor: FastExecutor, kind: Any, details: Any) -> Step | None:
    """Return the step that completes values of a type; None: the reference executor must."""
    if is_non_null_type(kind):
        return _wrap(_non_null(executor, kind.of_type, details), _drop_nulls)
    return _wrap(_non_null(executor, kind, details), _check_non_null, _with_nulls)


def _has_nulls(values: Column) -> bool:
    """Return True if a value is None. Raises NotEligible for an exception or an awaitable."""
    kinds = set(map(type, values))
    if any(issubclass(kind, Exception) or hasattr(kind, "__await__") for kind in kinds):
        raise NotEligible
    return NoneType in kinds


def _drop_nulls(values: Column) -> Column:
    if _has_nulls(values):
        raise NotEligible
    return values


def _check_non_null(values: Column) -> Column:
    return [value for value in values if value is not None] if _has_nulls(values) else values


def _with_nulls(values: Column, results: Column) -> Column:
    if len(results) == len(values):
        return results
    rest = iter(results)
    return [None if value is None else next(rest) for value in values]


def _non_null(executor: FastExecutor, kind: Any, details: Any) -> Step | None:
    """Return the step that completes values of a type, none of which is None."""
    if is_leaf_type(kind):
        return Step(_complete_leaf(executor, kind))
    if is_list_type(kind):
        return _wrap(_value(executor, kind.of_type, details), _join_lists, _split)
    if is_object_type(kind) and kind.is_type_of is None:
        return _object(executor, kind, details)
    return None


def _join_lists(lists: Column) -> Column:
    if any(type(items) is not list for items in lists):
        raise NotEligible
    return [item for items in lists for item in items]


def _split(lists: Column, results: Column) -> Column:
    split, start = [], 0
    for items in lists:
        split.append(results[start : start + len(items)])
        start += len(items)
    return split


def _object(executor: FastExecutor, kind: GraphQLObjectType, details: Any) -> Step | None:
    selected, defer_usages, *_ = executor.collect_subfields(kind, details)
    if defer_usages or not selected:
        return None
    names = list(selected)
    columns: list[Step] = []
    for field in selected.values():
        column = _column(executor, kind, field)
        if column is None:
            return None
        columns.append(column)

    def dictionaries(values: list[Column]) -> Column:
        executor.spend(OBJECT * len(values[0]))
        return list(map(dict, map(zip, repeat(names), zip(*values, strict=True))))

    async def later(rows: Column) -> Column:
        values = [[] if column.late else column.run(rows) for column in columns]
        late = [index for index, column in enumerate(columns) if column.late]
        arrived = await gather_with_cancel(*(columns[index].run(rows) for index in late))
        for index, column in zip(late, arrived, strict=True):
            values[index] = column
        return dictionaries(values)

    if any(column.late for column in columns):
        return Step(later, late=True)
    return Step(lambda rows: dictionaries([column.run(rows) for column in columns]))


def _column(executor: FastExecutor, parent: GraphQLObjectType, details: Any) -> Step | None:
    """Return the step that reads and completes one field of every row, or None."""
    node = details[0].node
    if node.name.value == "__typename":
        return Step(lambda rows: [parent.name] * len(rows))
    definition = executor.schema.get_field(parent, node.name.value)
    read = definition and _reader(executor, parent, definition, details)
    complete = definition and _value(executor, definition.type, details)
    if not read or not complete:
        return None
    if not read.late:
        return _wrap(complete, read.run)

    async def later(rows: Column) -> Any:
        completed = complete.run(await read.run(rows))
        return await completed if complete.late else completed

    return Step(later, late=True)


def _reader(
    executor: FastExecutor, parent: GraphQLObjectType, definition: GraphQLField, details: Any
) -> Step | None:
    """Return the step that reads one field of every row: an attribute, a function or an edge."""
    field = definition.extensions.get("strawberry-definition")
    if field is None or field.extensions or definition.resolve is None:
        return None
    if field.is_basic_field:
        return Step(_column_of(attrgetter(field.python_name)))
    resolver, resolve = field.base_resolver, definition.resolve
    if "column" in field.metadata:
        first = details[0]
        arguments = get_argument_values(
            definition, first.node, executor.variable_values, first.fragment_variable_values
        )
        path = Path(None, first.node.name.value, parent.name)
        nodes = [detail.node for detail in details]
        info = executor.build_resolve_info(definition, nodes, parent, path)

        async def edge(rows: Column) -> Any:
            try:
                return await resolve(Rows(rows), info, **arguments)
            except Exception as error:  # which of the rows has it, the reference knows
                raise NotEligible from error

        return Step(edge, late=True)
    if resolver.is_async or resolver.arguments or resolver.info_parameter:
        return None
    return Step(_column_of(resolver.wrapped_func))


def _column_of(function: Callable[[Any], Any]) -> Callable[[Column], Column]:
    """Return the reader that calls `function` with every row."""

    def read(rows: Column) -> Column:
        try:
            return list(map(function, rows))
        except Exception as error:  # of one row, which the reference knows
            raise NotEligible from error

    return read


def _complete_leaf(executor: FastExecutor, kind: Any) -> Callable[[Column], Column]:
    coerce = kind.coerce_output_value
    exact = {"String": str, "ID": str, "Boolean": bool, "Int": int, "Float": float}.get(kind.name)

    def complete(values: Column) -> Column:
        kinds = set(map(type, values))
        texts = values if kinds == {str} else [value for value in values if type(value) is str]
        executor.spend(VALUE * len(values) + sum(map(len, texts)))
        if exact is not None and kinds <= {exact}:
            if exact is int and values and not -(2**31) <= min(values) <= max(values) < 2**31:
                raise NotEligible
            if exact is float and not all(map(math.isfinite, values)):
                raise NotEligible
            return values
        if coerce is identity:
            return values
        try:
            if isinstance(kind, GraphQLEnumType):
                names = {value: coerce(value) for value in set(values)}
                different: Any = names.values()
                serialized = [names[value] for value in values]
            else:
                different = serialized = [coerce(value) for value in values]
        except Exception as error:  # no value of this type, or none that can be hashed
            raise NotEligible from error
        if None in different or Undefined in different:
            raise NotEligible
        return serialized

    return complete
