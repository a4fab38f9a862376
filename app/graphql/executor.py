"""Lists of objects, completed a column at a time instead of a value at a time.

The reference executor spends some ten microseconds on every value: a path, an info object, a
resolver, a completion. Here a field of all rows is one column: a plain attribute is read
from every row at once, an edge is resolved for every row at once (`Rows`), the objects of all
of them are one longer list, and so on downwards. At anything unusual in a column (a null that
must not be, a value of another type, an error) the whole list is left to the reference
executor, whose answers and errors are the definition.
"""

import math
from asyncio import gather
from collections.abc import Awaitable, Callable
from inspect import isawaitable, iscoroutine
from operator import attrgetter
from typing import Any

from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLObjectType,
    Undefined,
    is_leaf_type,
    is_list_type,
    is_non_null_type,
    is_object_type,
)
from graphql.execution.values import get_argument_values
from graphql.pyutils import Path
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.types.scalar import identity

from app.graphql.describe import Rows

Column = list[Any]
# Completes a column of values, or reads and completes one of rows; at once, or when awaited.
Complete = Callable[[Column], Column | Awaitable[Column]]


class _Unusual(Exception):
    """Something that the reference executor shall decide."""


class FastExecutor(StrawberryGraphQLCoreExecutionContext):
    """The reference executor, but for lists of objects."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The list of nodes is kept with its plan, so that its id stays its own.
        self._plans: dict[tuple[Any, int], tuple[Any, Complete | None]] = {}

    def complete_list_value(
        self, return_type: Any, field_details_list: Any, info: Any, path: Any, result: Any,
        position_context: Any,
    ) -> Any:  # fmt: skip
        def reference() -> Any:
            return super(FastExecutor, self).complete_list_value(
                return_type, field_details_list, info, path, result, position_context
            )

        async def awaited(rows: Awaitable[Column]) -> Any:
            try:
                return await rows
            except Exception:
                found = reference()
                return await found if isawaitable(found) else found

        if type(result) is not list or not result or position_context is not None:
            return reference()
        key = (return_type, id(field_details_list))
        if key not in self._plans:
            plan = _completer(self, return_type.of_type, field_details_list)
            self._plans[key] = field_details_list, plan
        complete = self._plans[key][1]
        if complete is None:
            return reference()
        try:
            rows = complete(result)
        except Exception:
            return reference()
        return awaited(rows) if isawaitable(rows) else rows


def _then(column: Any, use: Callable[[Column], Any]) -> Any:
    """`use(column)`, when the column is there."""
    if not isawaitable(column):
        return use(column)

    async def later() -> Any:
        found = use(await column)
        return await found if isawaitable(found) else found

    return later()


def _completer(executor: FastExecutor, kind: Any, details: Any) -> Complete | None:
    """What completes a column of values of this type, or None."""
    if is_non_null_type(kind):
        inner = _completer_given(executor, kind.of_type, details)
        return inner and _non_null(inner)
    inner = _completer_given(executor, kind, details)
    return inner and _nullable(inner)


def _non_null(inner: Complete) -> Complete:
    def complete(values: Column) -> Any:
        if None in values:
            raise _Unusual
        return inner(values)

    return complete


def _nullable(inner: Complete) -> Complete:
    def complete(values: Column) -> Any:
        if None not in values:
            return inner(values)
        given = [value for value in values if value is not None]

        def spread(found: Column) -> Column:
            rest = iter(found)
            return [None if value is None else next(rest) for value in values]

        return _then(inner(given), spread)

    return complete


def _completer_given(executor: FastExecutor, kind: Any, details: Any) -> Complete | None:
    """The same for values none of which is null."""
    if is_leaf_type(kind):
        return _leaf(kind)
    if is_list_type(kind):
        inner = _completer(executor, kind.of_type, details)
        return inner and _list(inner)
    if is_object_type(kind) and kind.is_type_of is None:
        return _object(executor, kind, details)
    return None


def _list(inner: Complete) -> Complete:
    def complete(values: Column) -> Any:
        if any(type(value) is not list for value in values):
            raise _Unusual

        def split(found: Column) -> Column:
            lists, start = [], 0
            for value in values:
                lists.append(found[start : start + len(value)])
                start += len(value)
            return lists

        return _then(inner([item for value in values for item in value]), split)

    return complete


def _object(executor: FastExecutor, kind: GraphQLObjectType, details: Any) -> Complete | None:
    selected, defer_usages, *_ = executor.collect_subfields(kind, details)
    if defer_usages:
        return None
    names, columns = list(selected), []
    for field in selected.values():
        column = _column(executor, kind, field)
        if column is None:
            return None
        columns.append(column)

    def dictionaries(found: list[Column]) -> Column:
        return [dict(zip(names, values, strict=True)) for values in zip(*found, strict=True)]

    def complete(sources: Column) -> Any:
        found: list[Any] = []
        try:
            found.extend(column(sources) for column in columns)
        except Exception:
            for column in found:
                if iscoroutine(column):
                    column.close()
            raise
        late = [index for index, column in enumerate(found) if isawaitable(column)]
        if not late:
            return dictionaries(found)

        async def later() -> Column:
            for index, column in zip(late, await gather(*(found[i] for i in late)), strict=True):
                found[index] = column
            return dictionaries(found)

        return later()

    return complete


def _column(executor: FastExecutor, parent: GraphQLObjectType, details: Any) -> Complete | None:
    """What reads and completes one field of every row, or None."""
    node = details[0].node
    if node.name.value == "__typename":
        return lambda rows: [parent.name] * len(rows)
    definition = executor.schema.get_field(parent, node.name.value)
    if definition is None:
        return None
    read = _reader(executor, parent, definition, details)
    complete = read and _completer(executor, definition.type, details)
    if read is None or complete is None:
        return None
    return lambda rows: _then(read(rows), complete)


def _reader(
    executor: FastExecutor, parent: GraphQLObjectType, definition: GraphQLField, details: Any
) -> Complete | None:
    """What reads one field of every row: an attribute, a function of the row, an edge."""
    field = definition.extensions.get("strawberry-definition")
    if field is None or field.extensions or definition.resolve is None:
        return None
    if field.is_basic_field:
        attribute = attrgetter(field.python_name)
        return lambda rows: list(map(attribute, rows))
    resolver, resolve = field.base_resolver, definition.resolve
    if field.metadata.get("rows"):
        first = details[0]
        arguments = get_argument_values(
            definition, first.node, executor.variable_values, first.fragment_variable_values
        )
        path = Path(None, first.node.name.value, parent.name)
        nodes = [each.node for each in details]
        info = executor.build_resolve_info(definition, nodes, parent, path)
        return lambda rows: resolve(Rows(rows), info, **arguments)
    if resolver.is_async or resolver.arguments or resolver.info_parameter:
        return None
    function = resolver.wrapped_func
    return lambda rows: list(map(function, rows))


def _leaf(kind: Any) -> Complete:
    coerce = kind.coerce_output_value
    exact = {"String": str, "ID": str, "Boolean": bool, "Int": int, "Float": float}.get(kind.name)

    def complete(values: Column) -> Column:
        if exact is not None and set(map(type, values)) <= {exact}:
            if exact is int and values and not -(2**31) <= min(values) <= max(values) < 2**31:
                raise _Unusual
            if exact is float and not all(map(math.isfinite, values)):
                raise _Unusual
            return values
        if isinstance(kind, GraphQLEnumType):
            names = {value: coerce(value) for value in set(values)}
            found = [names[value] for value in values]
        else:
            found = [coerce(value) for value in values]
        if None in found or Undefined in found:
            raise _Unusual
        return found

    return list if coerce is identity else complete
