"""Statements compiled once, rows without an ORM behind them, and the transaction.

The tables are SQLModel classes and every statement is built from them with SQLAlchemy;
what SQLAlchemy is not used for is execution. Compiling and result processing cost five
times what SQLite itself costs for a point read, so a `Statement` keeps the compiled text
per dialect and `Tx` hands it to the driver's own cursor.
"""

import hashlib
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import Any, Generic, TypeVar, cast

import orjson
from sqlalchemy import Dialect, Executable, Select, bindparam, select, update
from sqlmodel import SQLModel

from app.domain.ids import timestamp

T = TypeVar("T")
TableT = TypeVar("TableT", bound=SQLModel)


@cache
def _dialect(name: str) -> Dialect:
    if name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.dialect(paramstyle="named")
    from sqlalchemy.dialects import postgresql

    return cast(Dialect, cast(Any, postgresql).psycopg.dialect())


def dump(value: object) -> str:
    """Return JSON text as it is stored."""
    return orjson.dumps(value).decode()


load = orjson.loads


def columns(table: type[SQLModel], alias: str | None = None) -> Any:
    """Return the columns of a table (under another name), in the order of its row type."""
    own = cast(Any, table).__table__
    return own.columns if alias is None else own.alias(alias).columns


@cache
def _row_type(table: type[SQLModel]) -> Any:
    return namedtuple(table.__name__, columns(table).keys())


def _maker(table: type[SQLModel]) -> Callable[[tuple[Any, ...]], Any]:
    # Twice as fast as `_make`; the statement selects exactly the row's columns.
    return partial(tuple.__new__, _row_type(table))


def row_type(table: type[TableT]) -> type[TableT]:
    """Return a light, read-only stand-in for rows of `table`: the same attributes, as a tuple.

    The type is told as the table's, since its attributes are exactly those.
    """
    return cast(type[TableT], _row_type(table))


@cache
def _defaults(table: type[SQLModel]) -> dict[str, Any]:
    fields = table.model_fields.items()
    return {name: field.get_default() for name, field in fields if not field.is_required()}


def new_row(table: type[TableT], **values: Any) -> TableT:
    """Return a row to be inserted: these values, else the defaults of the table's columns.

    Raises TypeError for a name that is no column, or a column that has neither.
    """
    return row_type(table)(**_defaults(table) | values)


def as_dict(row: SQLModel) -> dict[str, Any]:
    """Return the attributes of a row, by name."""
    return cast(dict[str, Any], cast(Any, row)._asdict())


def from_dict(table: type[TableT], stored: Mapping[str, Any]) -> TableT:
    """Return the row of a dictionary of `as_dict`, made perhaps with another schema."""
    make = _row_type(table)
    return cast(TableT, make(*map(stored.get, make._fields)))


def replace(row: TableT, **changes: Any) -> TableT:
    """Return a copy of a row with some attributes changed."""
    return cast(TableT, cast(Any, row)._replace(**changes))


def select_all(table: type[SQLModel]) -> Select[Any]:
    """Return the `SELECT` of every column of `table`, in the order of its row type."""
    return select(*columns(table))


class Statement(Generic[T]):
    """A Core statement, compiled once per dialect.

    `row` is the table whose whole rows it selects (`select_all(Run)`); without it, rows stay
    the driver's tuples.
    """

    def __init__(self, clause: Executable, row: type[T] | None = None) -> None:
        self._clause = clause
        self._compiled: dict[str, tuple[str, dict[str, Any]]] = {}
        self.make: Any = _maker(cast(Any, row)) if row is not None else None

    def compiled(self, dialect: str) -> tuple[str, dict[str, Any]]:
        """Return the text for one dialect, and the values that the clause itself holds."""
        found = self._compiled.get(dialect)
        if found is None:
            compiled = cast(Any, self._clause).compile(
                dialect=_dialect(dialect), compile_kwargs={"render_postcompile": True}
            )
            own = {key: value for key, value in compiled.params.items() if value is not None}
            found = self._compiled[dialect] = (str(compiled), own)
        return found


def by_id(table: type[TableT]) -> Statement[TableT]:
    """Return the statement for the row whose `id` is given."""
    return Statement(select_all(table).where(columns(table).id == bindparam("id")), table)


@cache
def changing(table: type[SQLModel], names: frozenset[str], *guards: str) -> Statement[Any]:
    """Return the statement that sets columns of the row whose id is `key`.

    It changes nothing unless each guard still is what `from_GUARD` says.
    """
    own = columns(table)
    held = [own[guard] == bindparam(f"from_{guard}") for guard in guards]
    values: dict[str, Any] = {name: bindparam(name) for name in names}
    return Statement(update(table).where(own.id == bindparam("key"), *held).values(values))


class Tx:
    """One transaction, as a use case sees it.

    A use case reads and writes through it and never commits. `now` is the transaction's
    time; `notify(topic)` tells waiting subscribers, once it is committed, to look again.
    """

    def __init__(self, cursor: Any, dialect: str) -> None:
        self._cursor = cursor
        self.dialect = dialect
        self.now = timestamp()
        self.topics: set[str] = set()

    def _execute(self, statement: Statement[Any], params: dict[str, Any]) -> None:
        text, own = statement.compiled(self.dialect)
        self._cursor.execute(text, own | params if own else params)

    def first(self, statement: Statement[T], **params: Any) -> T | None:
        """Return the first row, or None."""
        self._execute(statement, params)
        row = self._cursor.fetchone()
        if row is None or statement.make is None:
            return cast("T | None", row)
        return cast(T, statement.make(row))

    def all(self, statement: Statement[T], **params: Any) -> list[T]:
        """Return every row."""
        self._execute(statement, params)
        rows = self._cursor.fetchall()
        return list(map(statement.make, rows)) if statement.make else rows

    def run(self, statement: Statement[Any], **params: Any) -> int:
        """Execute a write and return the number of rows it changed."""
        self._execute(statement, params)
        return cast(int, self._cursor.rowcount)

    def many(self, statement: Statement[Any], rows: Iterable[Mapping[str, Any]]) -> None:
        """Execute a write once for each mapping of parameters."""
        self._cursor.executemany(statement.compiled(self.dialect)[0], rows)

    def claim(self, name: str) -> bool:
        """Return True if this transaction, and no other, holds `name` until it ends."""
        if self.dialect == "sqlite":
            return True  # one transaction writes at a time
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        self._cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (number,))
        return cast(bool, self._cursor.fetchone()[0])

    def notify(self, *topics: str) -> None:
        """Wake the subscribers of these topics after the commit."""
        self.topics.update(topics)
