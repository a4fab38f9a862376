"""Descriptions from where they are written anyway: docstrings of types and resolvers."""

import inspect
from collections.abc import Awaitable, Callable
from enum import EnumMeta
from typing import Any, TypeVar, dataclass_transform

import strawberry

from app.graphql.context import Context

T = TypeVar("T")
EnumT = TypeVar("EnumT", bound=EnumMeta)
Info = strawberry.Info[Context, None]


def doc(thing: Any) -> str:
    """Return the docstring on one line."""
    return " ".join((inspect.getdoc(thing) or "").split())


def attribute(description: str) -> Any:
    """Return a field that is read from the attribute of the same name."""
    return strawberry.field(description=description)


def field(resolver: Callable[..., Any]) -> Any:
    """Return a field with a resolver; its docstring is the description."""
    return strawberry.field(resolver, description=doc(resolver))


class Rows(list[Any]):
    """All rows of a list, handed to the resolver of an edge in the place of one.

    The executor asks for an edge of a whole list at once where it can; `each` answers both.
    """


async def each(row: Any, load: Callable[[list[Any]], Awaitable[list[Any]]]) -> Any:
    """Return the value that `load` has for the one row, or its list for `Rows`."""
    if type(row) is Rows:
        return await load(row)
    return (await load([row]))[0]


def edge(resolver: Callable[..., Any], description: str | None = None, column: str = "id") -> Any:
    """Return a field whose resolver takes a row or `Rows`; its docstring is the description.

    `column` is the only one that the resolver reads of a row.
    """
    return strawberry.field(
        resolver, description=description or doc(resolver), metadata={"column": column}
    )


def mutation(resolver: Callable[..., Any]) -> Any:
    """Return a mutation; its docstring is the description."""
    return strawberry.mutation(resolver, description=doc(resolver))


def subscription(resolver: Callable[..., Any]) -> Any:
    """Return a subscription; its docstring is the description."""
    return strawberry.subscription(resolver, description=doc(resolver))


@dataclass_transform(kw_only_default=True, field_specifiers=(attribute, field))
def output(cls: type[T]) -> type[T]:
    """Make a class an object type; its docstring is the description."""
    return strawberry.type(cls, description=doc(cls))


def interface(cls: type[T]) -> type[T]:
    """Make a class an interface; its docstring is the description."""
    return strawberry.interface(cls, description=doc(cls))


@dataclass_transform(kw_only_default=True, field_specifiers=(attribute,))
def input(cls: type[T]) -> type[T]:
    """Make a class an input type; its docstring is the description."""
    return strawberry.input(cls, description=doc(cls))


def enum(cls: EnumT) -> EnumT:
    """Register an enum; its docstring is the description."""
    return strawberry.enum(cls, description=doc(cls))


def clearable(description: str) -> Any:
    """Return an input field that may be left out; null is a value, which removes."""
    return strawberry.field(description=description, default=strawberry.UNSET)


def optional(description: str) -> Any:
    """Return an input field that may be left out."""
    return strawberry.field(description=description, default=None)
