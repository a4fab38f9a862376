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
    """The docstring, on one line."""
    return " ".join((inspect.getdoc(thing) or "").split())


def attribute(description: str) -> Any:
    """A field that is read from the attribute of the same name."""
    return strawberry.field(description=description)


def field(resolver: Callable[..., Any]) -> Any:
    """A field with a resolver; its docstring is the description."""
    return strawberry.field(resolver, description=doc(resolver))


class Rows(list[Any]):
    """All rows of a list, handed to the resolver of an edge in the place of one.

    The executor asks for an edge of a whole list at once where it can; `each` answers both.
    """


async def each(row: Any, load: Callable[[list[Any]], Awaitable[list[Any]]]) -> Any:
    """What `load` finds for the one row, or for `Rows`."""
    if type(row) is Rows:
        return await load(row)
    return (await load([row]))[0]


def edge(resolver: Callable[..., Any], description: str | None = None) -> Any:
    """A field whose resolver takes a row or `Rows`; its docstring is the description."""
    return strawberry.field(
        resolver, description=description or doc(resolver), metadata={"rows": True}
    )


def mutation(resolver: Callable[..., Any]) -> Any:
    """A mutation; its docstring is the description."""
    return strawberry.mutation(resolver, description=doc(resolver))


def subscription(resolver: Callable[..., Any]) -> Any:
    """A subscription; its docstring is the description."""
    return strawberry.subscription(resolver, description=doc(resolver))


@dataclass_transform(kw_only_default=True, field_specifiers=(attribute, field))
def output(cls: type[T]) -> type[T]:
    """An object type; the class's docstring is the description."""
    return strawberry.type(cls, description=doc(cls))


def interface(cls: type[T]) -> type[T]:
    """An interface; the class's docstring is the description."""
    return strawberry.interface(cls, description=doc(cls))


@dataclass_transform(kw_only_default=True, field_specifiers=(attribute,))
def input(cls: type[T]) -> type[T]:
    """An input type; the class's docstring is the description."""
    return strawberry.input(cls, description=doc(cls))


def enum(cls: EnumT) -> EnumT:
    """An enum; the class's docstring is the description."""
    return strawberry.enum(cls, description=doc(cls))


def optional(description: str) -> Any:
    """An input field that may be left out."""
    return strawberry.field(description=description, default=None)
