"""Objects of the tables: made, copied and turned into dictionaries, without a session.

A row that one statement reads, and every row that is written, is an object of its SQLModel class.
It is made as SQLAlchemy's own loader makes it: the class's constructor would set each attribute
through its instrumentation, which costs thirty times as much for a run.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, cast

from sqlalchemy.orm import configure_mappers
from sqlalchemy.orm.attributes import manager_of_class
from sqlmodel import SQLModel


class Table(SQLModel):
    """The base of the tables. A new object has the values given, else its columns' defaults.

    Raises TypeError for a name that is no column, or a column that has neither.
    """

    # Pydantic's validators are never asked: they would be built for every table at every start.
    model_config = {"defer_build": True}

    def __init__(self, **values: Any) -> None:
        fields = _defaults(type(self)) | values
        if fields.keys() != type(self).model_fields.keys():
            wrong = sorted(fields.keys() ^ type(self).model_fields.keys())
            raise TypeError(f"{type(self).__name__}: unknown or missing columns: {wrong}")
        self.__dict__.update(fields)


TableT = TypeVar("TableT", bound=Table)


@cache
def _defaults(table: type[SQLModel]) -> dict[str, Any]:
    fields = table.model_fields.items()
    return {name: field.get_default() for name, field in fields if not field.is_required()}


@cache
def column_names(table: type[SQLModel]) -> tuple[str, ...]:
    """Return the names of the columns, in the order of `select_all`."""
    return tuple(cast(Any, table).__table__.columns.keys())


@cache
def maker(table: type[TableT]) -> Callable[[Sequence[Any]], TableT]:
    """Return a function that makes an object of the values of all columns."""
    names = column_names(table)
    new: Callable[[], TableT] | None = None

    def make(values: Sequence[Any]) -> TableT:
        nonlocal new
        if new is None:  # the first row of all: 40 ms, which a start does not wait for
            configure_mappers()
            new = cast("Callable[[], TableT]", cast(Any, manager_of_class(table)).new_instance)
        made = new()
        made.__dict__.update(zip(names, values, strict=True))
        return made

    return make


def as_dict(row: Table) -> dict[str, Any]:
    """Return the columns of an object, by name."""
    held = row.__dict__
    return {name: held[name] for name in column_names(type(row))}


def from_dict(table: type[TableT], stored: Mapping[str, Any]) -> TableT:
    """Return the object of a dictionary of `as_dict`, made perhaps with another schema."""
    make: Callable[[Sequence[Any]], TableT] = maker(table)
    return make([stored.get(name) for name in column_names(table)])


def replace(row: TableT, **changes: Any) -> TableT:
    """Return a copy of an object with some columns changed."""
    make: Callable[[Sequence[Any]], TableT] = maker(type(row))
    return make(list((as_dict(row) | changes).values()))
