"""Queries: typed functions that are compiled once; and the transaction that executes them.

    @query(Run) def _by_name(*, name: str) → tx.first(_by_name, name="first") → Run | None

The tables are SQLModel classes and every statement is built from them with SQLAlchemy; what
SQLAlchemy is not used for is execution. Compiling and result processing cost five times what
SQLite itself costs for a point read, so a `Query` keeps the compiled text per dialect and `Tx`
hands it to the driver's own cursor. Both are one file, since every module that has queries executes
them.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from inspect import signature
from typing import Any, Generic, ParamSpec, TypeVar, cast

import orjson
from sqlalchemy import Dialect, Executable, Select, SelectBase, bindparam, insert, select, update
from sqlmodel import SQLModel

from app.db import visibility
from app.db.objects import Table, TableT, as_dict, maker
from app.db.rights import KnownRights, changes_rights
from app.domain.ids import timestamp
from app.domain.permissions import ROLES, Permission, Role
from app.domain.principals import SUPERVISOR, Principal

P = ParamSpec("P")
T = TypeVar("T")


@cache
def _dialect(name: str, writes: bool) -> Dialect:
    if name == "sqlite":
        from sqlalchemy.dialects import sqlite

        # sqlite3 looks each name up, which takes a third of a write with many columns. A read is
        # put together with the parameters of `visibility`, which go by name.
        return sqlite.dialect(paramstyle="qmark" if writes else "named")
    # Its statements are numbered ($1) and say their types, as the protocol of PostgreSQL has it;
    # neither it nor this needs asyncpg itself.
    from sqlalchemy.dialects.postgresql import asyncpg

    return cast(Dialect, cast(Any, asyncpg).dialect())


def dump(value: object) -> str:
    """Return JSON text as it is stored."""
    return orjson.dumps(value).decode()


load = orjson.loads


def columns(table: type[SQLModel], alias: str | None = None) -> Any:
    """Return the columns of a table (under another name)."""
    own = cast(Any, table).__table__
    return own.columns if alias is None else own.alias(alias).columns


def select_all(table: type[SQLModel]) -> Select[Any]:
    """Return the `SELECT` of every column of `table`, in the order of its light rows."""
    return select(*columns(table))


def select_row(table: type[SQLModel], row: Any) -> Select[Any]:
    """Return the `SELECT` of the columns of `table` that a light row has."""
    return select(*(columns(table)[name] for name in row._fields))


@dataclass(frozen=True, slots=True)
class Compiled:
    """A statement in one dialect.

    `own`: the values that the clause itself holds. `names`: which value each parameter has, in
    order; None where they go by name. `locks`: it locks what it selects. `judged_by`: the
    place of the experiment's id in its rows, which are judged once they are read, as they are
    locked or of one run; None for any other. `is_viewed`: it reads other rows, so that a user
    executes it with views (`limited`). `changes_rights`: it writes what decides who may do what.
    `is_limited`: it finds what the user `visibility.USER` sees.
    """

    text: str
    own: dict[str, Any]
    names: tuple[str, ...] | None
    writes: bool
    locks: bool
    judged_by: int | None
    is_viewed: bool
    changes_rights: bool
    is_limited: bool = False

    def bind(self, params: Mapping[str, Any]) -> Any:
        """Return the parameters as the driver takes them."""
        bound = {**self.own, **params} if self.own else params
        return bound if self.names is None else [bound[name] for name in self.names]


class Query(Generic[P, T]):
    """A statement, compiled once per dialect; its parameters are those of the function `build`.

    That is called once, at the first use, with a bound parameter for each of its own; so the type
    checker knows the names and types that every execution has to give. `row` is what becomes of a
    row that selects all columns of a table (`select_all`): a table's object, or a light row; any
    other stays the driver's tuple.
    """

    def __init__(self, build: Callable[P, Executable], row: type[T] | None = None) -> None:
        self._build: Callable[..., Executable] = build
        self._compiled: dict[str, Compiled] = {}
        self._limited: dict[tuple[str, bool, bool | None], Compiled] = {}
        self.make: Callable[[Any], T] | None = None if row is None else _maker(row)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, in order. Looked up late: most are not used for long."""
        return tuple(signature(self._build).parameters)

    def __call__(self, *args: P.args, **params: P.kwargs) -> Mapping[str, Any]:
        """Return parameters by name, as `Tx.many` takes them."""
        return {**params, **dict(zip(self.names, args, strict=False))}

    def compiled(self, dialect: str) -> Compiled:
        """Return the text for one dialect, and how its parameters are bound."""
        known = self._compiled.get(dialect)
        if known is None:
            clause = self._build(**{name: bindparam(name) for name in self.names})
            writes = not isinstance(clause, SelectBase)
            compiled = cast(Any, clause).compile(
                dialect=_dialect(dialect, writes), compile_kwargs={"render_postcompile": True}
            )
            own = {key: value for key, value in compiled.params.items() if value is not None}
            names = tuple(compiled.positiontup) if compiled.positional else None
            locks = getattr(clause, "_for_update_arg", None) is not None
            text = str(compiled)
            rights = writes and changes_rights(text)
            judged_by = None
            if self.make is not None and (locks or visibility.is_of_one_run(text)):
                judged_by = _place_of_experiment(cast(Any, clause).selected_columns.keys())
            is_read = not (writes or locks) and judged_by is None
            is_viewed = is_read and visibility.limit(text, dialect) is not None
            known = Compiled(text, own, names, writes, locks, judged_by, is_viewed, rights)
            self._compiled[dialect] = known
        return known

    def limited(
        self, dialect: str, every_project: bool = False, of_one: bool | None = None
    ) -> Compiled:
        """Return the text that finds only what the user `visibility.USER` sees: `visibility.limit`.

        Only for a statement that `is_viewed`: all others are judged row by row, or before.
        """
        limited = self._limited.get((dialect, every_project, of_one))
        if limited is None:
            limited = self.compiled(dialect)
            text = visibility.limit(limited.text, dialect, every_project, of_one)
            if text is not None:
                names = limited.names
                if names is not None:
                    text, names = visibility.number_params(text, names)
                limited = replace(limited, text=text, names=names, is_limited=True)
            self._limited[dialect, every_project, of_one] = limited
        return limited


def _place_of_experiment(shown: Sequence[str]) -> int:
    """Return the place of the id by which a row is judged, which may be the experiment's own.

    The first column of a row that has neither names no experiment: a user gets no such row.
    """
    named = [name for name in ("experiment_id", "id") if name in shown]
    return shown.index(named[0]) if named else 0


def _maker(row: type[Any]) -> Callable[[Any], Any] | None:
    if not isinstance(row, type):
        return None  # such as tuple[int, str]
    if issubclass(row, Table):
        return maker(row)
    # A light row. Twice as fast as `_make`; the statement selects exactly its columns.
    return partial(tuple.__new__, row)


def query(row: type[T]) -> Callable[[Callable[P, Executable]], Query[P, T]]:
    """Make a function a query of objects of a table, of light rows or of plain tuples.

    @query(Run)
    def _by_name(*, name: str) -> Executable:
        return select_all(Run).where(_run.name == name)

    tx.all(_by_name, name="first")
    """

    def make(build: Callable[P, Executable]) -> Query[P, T]:
        return Query(build, row)

    return make


def statement(build: Callable[P, Executable]) -> Query[P, Any]:
    """Make a function a statement whose rows nobody reads, such as an update."""
    return Query(build)


class Statement(Query[..., T]):
    """A clause that is put together at run time, so that its parameters are known only then."""

    def __init__(self, clause: Executable, row: type[T] | None = None) -> None:
        def build() -> Executable:
            return clause

        super().__init__(build, row)


def by_id(table: type[TableT]) -> Query[[str], TableT]:
    """Return the query for the object whose `id` is given."""

    @query(table)
    def find(id: str) -> Executable:
        return select_all(table).where(columns(table).id == id)

    return find


@cache
def changing(table: type[SQLModel], names: frozenset[str], *guards: str) -> Statement[Any]:
    """Return the statement that sets columns of the row whose id is `key`.

    It changes nothing unless each guard still is what `from_GUARD` says.
    """
    own = columns(table)
    held = [own[guard] == bindparam(f"from_{guard}") for guard in guards]
    values: dict[str, Any] = {name: bindparam(name) for name in names}
    return Statement(update(table).where(own.id == bindparam("key"), *held).values(values))


@cache
def _inserting(table: type[Table], names: frozenset[str] | None = None) -> Statement[Any]:
    """Return the statement that inserts these columns of a row, or all of them."""
    statement = insert(table)
    if names is not None:
        statement = statement.values({name: bindparam(name) for name in names}).inline()
    return Statement(statement)


class Tx:
    """One transaction, as a use case sees it.

    A use case reads and writes through it and never commits. `now` is the transaction's
    time; `notify(topic)` tells waiting subscribers, once it is committed, to look again.
    `principal` is who acts; for those that are not trusted it is a `restricted.RestrictedTx`.
    """

    def __init__(
        self,
        cursor: Any,
        dialect: str,
        principal: Principal = SUPERVISOR,
        rights: KnownRights | None = None,
    ) -> None:
        self._cursor = cursor
        self.dialect = dialect
        self.principal = principal
        self._known_rights = rights or KnownRights()
        self.now = timestamp()
        self.topics: set[str] = set()
        self.wrote = False
        self.late: dict[Callable[[Tx, list[Any]], None], list[Any]] = {}

    def _execute(
        self, statement: Query[..., Any], args: Any, params: Mapping[str, Any]
    ) -> Compiled:
        compiled = statement.compiled(self.dialect)
        if compiled.writes:
            self._begin_write(compiled)
        if args:
            params = statement(*args, **params)
        self._cursor.execute(compiled.text, compiled.bind(params))
        return compiled

    def _begin_write(self, compiled: Compiled) -> None:
        self.wrote = True
        if compiled.changes_rights:
            if self.dialect == "postgresql":
                self._cursor.forget()  # its triggers begin an epoch
            else:
                self._known_rights.begin_change()

    def first(self, statement: Query[P, T], *args: P.args, **params: P.kwargs) -> T | None:
        """Return the first row, or None."""
        self._execute(statement, args, params)
        row = self._cursor.fetchone()
        if row is None or statement.make is None:
            return cast("T | None", row)
        return statement.make(row)

    def all(self, statement: Query[P, T], *args: P.args, **params: P.kwargs) -> list[T]:
        """Return every row."""
        self._execute(statement, args, params)
        rows = self._cursor.fetchall()
        return list(map(statement.make, rows)) if statement.make else rows

    def run(self, statement: Query[P, Any], *args: P.args, **params: P.kwargs) -> int:
        """Execute a write and return the number of rows it changed."""
        self._execute(statement, args, params)
        return cast(int, self._cursor.rowcount)

    def send(self, statement: Query[P, Any], *args: P.args, **params: P.kwargs) -> None:
        """Execute a write whose number of rows is not needed.

        PostgreSQL gets it together with the next statement that has an answer, which also raises
        what is wrong with it.
        """
        self._execute(statement, args, params)

    def many(self, statement: Query[..., Any], rows: Iterable[Mapping[str, Any]]) -> None:
        """Execute a write once for each of these parameters, as `send` does.

        The statement itself makes them: `[_set(key="loss", step=1), …]`.
        """
        compiled = statement.compiled(self.dialect)
        self._begin_write(compiled)
        self._cursor.executemany(compiled.text, [compiled.bind(row) for row in rows])

    def insert(self, *objects: Table) -> None:
        """Insert objects of one table, as `send` does."""
        for table in dict.fromkeys(map(type, objects)):
            own = [as_dict(row) for row in objects if type(row) is table]
            if len(own) == 1:
                # NULLs are left out: sqlite3 takes as long to bind one as ten other values.
                given = {name: value for name, value in own[0].items() if value is not None}
                self._execute(_inserting(table, frozenset(given)), (), given)
            else:
                self.many(_inserting(table), own)

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

    def sees_all(self) -> bool:
        """Return True if the principal sees every project."""
        return True

    def require(self, permission: Permission, experiment_id: str) -> bool:
        """Raise NotPermitted, or NotFound, unless the principal has a permission there.

        Return True if the experiment was looked for, so that it is there.
        """
        return False

    def require_project(self, permission: Permission, project_id: str) -> None:
        """Raise NotPermitted, or NotFound, unless the principal has a permission there."""

    def require_admin(self) -> None:
        """Raise NotPermitted unless the principal administers the service."""

    def permissions(self, project_ids: Sequence[str]) -> list[frozenset[Permission]]:
        """Return what the principal may do in each of these projects."""
        return [ROLES[Role.ADMIN]] * len(project_ids)

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
