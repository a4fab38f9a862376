"""Lists of rows, completed a column at a time instead of a value at a time.

The reference executor spends some ten microseconds on every value: a path, an info object, a
resolver, a completion. Where a selected field is a plain attribute of a leaf type (or a
function of the row alone), its whole column is read and converted at once; whatever else is
selected (edges, arguments) is executed by the reference executor, row by row, as ever. At
anything unusual in a column (a null that must not be, a value of another type, an exception)
the whole list is left to the reference executor, whose answers and errors are the definition.
"""

import math
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLLeafType,
    GraphQLObjectType,
    Undefined,
    is_leaf_type,
    is_non_null_type,
    is_object_type,
)
from graphql.pyutils import gather_with_cancel
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.types.scalar import identity

Column = list[Any]


class _Unusual(Exception):
    """Something that the reference executor shall decide."""


class FastExecutor(StrawberryGraphQLCoreExecutionContext):
    """The reference executor, but for lists of objects."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The list of nodes is kept with its plan, so that its id stays its own.
        self._plans: dict[tuple[Any, int], tuple[Any, _Plan | None]] = {}

    def plan(self, item_type: Any, fields: Any) -> "_Plan | None":
        """How to complete a list of this type; None: as the reference executor does."""
        key = (item_type, id(fields))
        if key not in self._plans:
            self._plans[key] = fields, _plan(self, item_type, fields)
        return self._plans[key][1]

    def complete_list_value(
        self, return_type: Any, field_details_list: Any, info: Any, path: Any, result: Any,
        position_context: Any,
    ) -> Any:  # fmt: skip
        if type(result) is list and result and position_context is None:
            plan = self.plan(return_type.of_type, field_details_list)
            if plan is not None:
                try:
                    rows = plan.rows(result)
                except Exception:
                    rows = None
                if rows is not None:
                    if not plan.others:
                        return rows
                    item_type = return_type.of_type
                    return self._others(plan, result, rows, item_type, field_details_list, path)
        return super().complete_list_value(
            return_type, field_details_list, info, path, result, position_context
        )

    def _others(
        self, plan: "_Plan", sources: Column, rows: Column, item_type: Any, fields: Any, path: Any
    ) -> Any:
        """Adds what is no column to each row; as `complete_iterable_value` of the base class."""
        waiting: list[int] = []
        try:
            for index, source in enumerate(sources):
                at = path.add_key(index, None)
                try:
                    rest = self.execute_fields(plan.type, source, at, plan.others, None)
                    if self.is_awaitable(rest):
                        rows[index] = self._finish(rows[index], rest, item_type, fields, at)
                        waiting.append(index)
                    else:
                        rows[index].update(rest)
                except Exception as error:
                    self.handle_field_error(error, item_type, fields, at)
                    rows[index] = None
        except Exception:
            if waiting:
                self.settle_in_background([rows[index] for index in waiting])
            raise
        return self._gather(rows, waiting) if waiting else rows

    async def _finish(self, row: Any, rest: Any, item_type: Any, fields: Any, at: Any) -> Any:
        try:
            row.update(await rest)
        except Exception as error:
            self.handle_field_error(error, item_type, fields, at)
            return None
        return row

    async def _gather(self, rows: Column, waiting: list[int]) -> Column:
        found = await gather_with_cancel(*(rows[index] for index in waiting))
        for index, row in zip(waiting, found, strict=True):
            rows[index] = row
        return rows


class _Plan:
    """What is selected of an object: its columns, in order, and the fields that are none."""

    def __init__(self, type: GraphQLObjectType) -> None:
        self.type = type
        self.names: list[str] = []
        self.columns: list[Callable[[Column], Column]] = []
        self.others: dict[str, Any] = {}

    def rows(self, sources: Column) -> Column:
        """A dictionary for each row, with a place for each of `others`. Raises at anything odd."""
        columns = [column(sources) for column in self.columns]
        names = self.names
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _plan(executor: FastExecutor, item_type: Any, fields: Any) -> _Plan | None:
    if is_non_null_type(item_type):
        item_type = item_type.of_type
    if not is_object_type(item_type) or item_type.is_type_of is not None:
        return None
    selected, defer_usages, *_ = executor.collect_subfields(item_type, fields)
    if defer_usages:
        return None
    plan = _Plan(item_type)
    for name, details in selected.items():
        column = _column(executor, item_type, details)
        if column is None:
            plan.others[name] = details
            column = _nothing
        plan.names.append(name)
        plan.columns.append(column)
    return plan if len(plan.others) < len(plan.names) else None


def _nothing(sources: Column) -> Column:
    return [None] * len(sources)


def _column(executor: FastExecutor, parent: Any, details: Any) -> Callable[[Column], Column] | None:
    """How to complete a field of every row at once, or None."""
    node = details[0].node
    if node.name.value == "__typename":
        return lambda sources: [parent.name] * len(sources)
    definition = executor.schema.get_field(parent, node.name.value)
    if definition is None or definition.args or node.arguments:
        return None
    read = _reader(definition)
    if read is None:
        return None
    kind, nullable = definition.type, True
    if is_non_null_type(kind):
        kind, nullable = kind.of_type, False
    if is_leaf_type(kind):
        complete = _leaf(kind)
    elif is_object_type(kind):
        inner = executor.plan(kind, details)
        if inner is None or inner.others:
            return None
        complete = inner.rows
    else:
        return None

    def column(sources: Column) -> Column:
        values = list(map(read, sources))
        if None not in values:
            return complete(values)
        if not nullable:
            raise _Unusual
        given = iter(complete([value for value in values if value is not None]))
        return [None if value is None else next(given) for value in values]

    return column


def _reader(definition: GraphQLField) -> Callable[[Any], Any] | None:
    """What reads a field from a row: an attribute, or a function of the row alone."""
    field = definition.extensions.get("strawberry-definition")
    if field is None or field.extensions or definition.resolve is None:
        return None
    if field.is_basic_field:
        return attrgetter(field.python_name)
    resolver = field.base_resolver
    if resolver is None or resolver.is_async or resolver.arguments or resolver.info_parameter:
        return None
    if resolver.self_parameter is None:
        return None
    return resolver.wrapped_func  # type: ignore[no-any-return]


def _leaf(kind: GraphQLLeafType) -> Callable[[Column], Column]:
    """What completes a column of leaf values, none of them null."""
    coerce: Any = kind.coerce_output_value
    exact = {"String": str, "ID": str, "Boolean": bool, "Int": int, "Float": float}.get(kind.name)
    if coerce is identity:
        return list

    def complete(values: Column) -> Column:
        if exact is not None and set(map(type, values)) == {exact}:
            if exact is int and (max(values) > 2**31 - 1 or min(values) < -(2**31)):
                raise _Unusual
            if exact is float and not all(map(math.isfinite, values)):
                raise _Unusual
            return values
        if isinstance(kind, GraphQLEnumType):
            names = {value: coerce(value) for value in set(values)}
            found = [names[value] for value in values]
        else:
            found = [coerce(value) for value in values]
        if any(value is None or value is Undefined for value in found):
            raise _Unusual
        return found

    return complete
