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
from typing import Any, Generic, NamedTuple, TypeVar, cast

import orjson
from sqlalchemy import Dialect, Executable, Select, SelectBase, bindparam, select, update
from sqlmodel import SQLModel

from app.db import visibility
from app.domain.ids import timestamp
from app.domain.permissions import Permission
from app.domain.principals import SUPERVISOR, Principal

T = TypeVar("T")
TableT = TypeVar("TableT", bound=SQLModel)


@cache
def _dialect(name: str) -> Dialect:
    if name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.dialect(paramstyle="named")
    # Its statements are numbered ($1) and say their types, as the protocol of PostgreSQL has it;
    # neither it nor this needs asyncpg itself.
    from sqlalchemy.dialects.postgresql import asyncpg

    return cast(Dialect, cast(Any, asyncpg).dialect())


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


class Compiled(NamedTuple):
    """A statement in one dialect.

    `own`: the values that the clause itself holds. `names`: which value each of PostgreSQL's
    numbered parameters has; None where parameters go by name.
    """

    text: str
    own: dict[str, Any]
    names: tuple[str, ...] | None

    def bind(self, params: Mapping[str, Any]) -> Any:
        """Return the parameters as the driver takes them."""
        given = {**self.own, **params} if self.own else params
        return given if self.names is None else [given[name] for name in self.names]


class Statement(Generic[T]):
    """A Core statement, compiled once per dialect.

    `row` is the table whose whole rows it selects (`select_all(Run)`); without it, rows stay
    the driver's tuples.
    """

    def __init__(self, clause: Executable, row: type[T] | None = None) -> None:
        self._clause = clause
        self._compiled: dict[str, Compiled] = {}
        self._limited: dict[str, Compiled] = {}
        self.make: Any = _maker(cast(Any, row)) if row is not None else None
        self.writes = not isinstance(clause, SelectBase)
        self.locks = getattr(clause, "_for_update_arg", None) is not None

    def compiled(self, dialect: str) -> Compiled:
        """Return the text for one dialect, and how its parameters are bound."""
        found = self._compiled.get(dialect)
        if found is None:
            compiled = cast(Any, self._clause).compile(
                dialect=_dialect(dialect), compile_kwargs={"render_postcompile": True}
            )
            own = {key: value for key, value in compiled.params.items() if value is not None}
            names = tuple(compiled.positiontup) if dialect == "postgresql" else None
            found = self._compiled[dialect] = Compiled(str(compiled), own, names)
        return found

    def limited(self, dialect: str) -> Compiled:
        """Return the text that finds only what the user `visibility.USER` sees."""
        found = self._limited.get(dialect)
        if found is None:
            found = self.compiled(dialect)
            text = visibility.limit(found.text, dialect)
            if text is not None:
                names = found.names
                if names is not None:
                    names = (*names, visibility.USER)
                    text = text.replace(f":{visibility.USER}", f"${len(names)}::VARCHAR")
                found = Compiled(text, found.own, names)
            self._limited[dialect] = found
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
    `principal` is who acts; for those that are not trusted it is a `restricted.RestrictedTx`.
    """

    def __init__(self, cursor: Any, dialect: str, principal: Principal = SUPERVISOR) -> None:
        self._cursor = cursor
        self.dialect = dialect
        self.principal = principal
        self.now = timestamp()
        self.topics: set[str] = set()
        self.wrote = False
        self.late: dict[Callable[[Tx, list[Any]], None], list[Any]] = {}

    def _execute(self, statement: Statement[Any], params: Mapping[str, Any]) -> None:
        compiled = statement.compiled(self.dialect)
        if statement.writes:
            self.wrote = True
        self._cursor.execute(compiled.text, compiled.bind(params))

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

    def send(self, statement: Statement[Any], **params: Any) -> None:
        """Execute a write whose number of rows is not needed.

        PostgreSQL gets it together with the next statement that has an answer, which also raises
        what is wrong with it.
        """
        self._execute(statement, params)

    def many(self, statement: Statement[Any], rows: Iterable[Mapping[str, Any]]) -> None:
        """Execute a write once for each mapping of parameters, as `send` does."""
        compiled = statement.compiled(self.dialect)
        self.wrote = True
        self._cursor.executemany(compiled.text, [compiled.bind(row) for row in rows])

    def before_commit(self, write: Callable[["Tx", list[T]], None], item: T) -> None:
        """Let `write` write this item just before the commit.

        Use cases that share a transaction share that call, which gets their items in order: what
        it locks is locked for the commit alone, and once.
        """
        self.late.setdefault(write, []).append(item)

    def claim(self, name: str) -> bool:
        """Return True if this transaction, and no other under way, holds `name` until it ends."""
        if self.dialect == "sqlite":
            return True  # one transaction writes at a time
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        self._cursor.execute("SELECT pg_try_advisory_xact_lock($1::bigint)", [number])
        return cast(bool, self._cursor.fetchone()[0])

    def require(self, permission: Permission, experiment_id: str) -> None:
        """Raise NotPermitted, or NotFound, unless the principal has a permission there."""

    def require_project(self, permission: Permission, project_id: str) -> None:
        """Raise NotPermitted, or NotFound, unless the principal has a permission there."""

    def require_admin(self) -> None:
        """Raise NotPermitted unless the principal administers the service."""

    def allow_own(self) -> None:
        """Let the principal write what is its own: its tokens."""

    def notify(self, *topics: str) -> None:
        """Wake the subscribers of these topics after the commit."""
        self.topics.update(topics)


def write_late(tx: Tx, parts: Iterable[Tx]) -> None:
    """Write through `tx` what several use cases of its transaction left for its end."""
    late: dict[Callable[[Tx, list[Any]], None], list[Any]] = {}
    for part in parts:
        for write, items in part.late.items():
            late.setdefault(write, []).extend(items)
    for write, items in late.items():
        write(tx, items)
