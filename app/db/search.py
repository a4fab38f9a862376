"""Text search: the texts that runs and experiments are found by, and their index.

`RunSearch` and `ExperimentSearch` hold one folded text a row (`app.domain.texts`), and their index
the *grams* of each: every three characters in a row, and the shorter rest at its end. On SQLite a
trigger adds them to FTS5; on PostgreSQL they are a GIN index of lexemes, which knows Chinese as
well as Latin letters in any locale and needs no extension. A text of three or more characters is
in rows that have all of its grams, a shorter one in rows that have a gram which begins with it.

The index only narrows the rows down; `Position` compares the text itself, a row at a time, so that
a search can be cancelled between two rows.
"""

from typing import Any

from sqlalchemy import Connection, Integer, String, bindparam, literal_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType
from sqlmodel import SQLModel

from app.db.tables import ExperimentSearch, RunSearch
from app.domain.texts import BETWEEN

TABLES: tuple[type[SQLModel], ...] = (RunSearch, ExperimentSearch)
GRAM = 3
MOST_GRAMS = 8
"""Each further gram narrows less than it costs."""
_LAST = chr(0x10FFFF)
_END = f"char({', '.join([str(ord(BETWEEN))] * (GRAM - 1))})"
"""Behind each text of SQLite's index, so that a gram begins at each of its characters."""

POSTGRESQL_GRAMS = (
    "CREATE OR REPLACE FUNCTION search_grams(value text) RETURNS tsvector LANGUAGE plpgsql"
    " IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS $$"
    " DECLARE letters text[] := string_to_array(value, NULL); grams text[] := '{}';"
    " BEGIN FOR i IN 1 .. cardinality(letters) LOOP"
    " grams[i] := concat(letters[i], letters[i + 1], letters[i + 2]);"
    " END LOOP; RETURN array_to_tsvector(grams); END $$"
)


def index_name(table: str) -> str:
    """Return the name of a search table's index. `migrations/env.py` knows it by its end."""
    return f"{table}_index"


def sqlite_index(table: str) -> tuple[str, ...]:
    """Return the statements that make the index of a search table, and fill it."""
    index = index_name(table)
    add = f"INSERT INTO {index}(rowid, text) VALUES (new.number, new.text || {_END});"  # noqa: S608
    remove = (
        f"INSERT INTO {index}({index}, rowid, text)"  # noqa: S608 - our own names
        f" VALUES ('delete', old.number, old.text || {_END});"
    )
    return (
        f"CREATE VIRTUAL TABLE {index} USING fts5(text, content='',"
        " tokenize='trigram case_sensitive 1', detail='none', columnsize=0)",
        f"CREATE VIRTUAL TABLE {index}_grams USING fts5vocab({index}, 'instance')",
        f"INSERT INTO {index}(rowid, text) SELECT number, text || {_END} FROM {table}",  # noqa: S608
        f"CREATE TRIGGER {table}_added AFTER INSERT ON {table} BEGIN {add} END",
        f"CREATE TRIGGER {table}_changed AFTER UPDATE ON {table} BEGIN {remove} {add} END",
        f"CREATE TRIGGER {table}_removed AFTER DELETE ON {table} BEGIN {remove} END",
    )


def postgresql_index(table: str) -> tuple[str, ...]:
    """Return the statements that make the same on PostgreSQL."""
    made = f"CREATE INDEX {index_name(table)} ON {table} USING gin (search_grams(text))"
    return (POSTGRESQL_GRAMS, made)


def create_indexes(connection: Connection) -> None:
    """Make the indexes of a database that has just got its tables."""
    make = sqlite_index if connection.dialect.name == "sqlite" else postgresql_index
    for table in TABLES:
        for statement in make(str(table.__tablename__)):
            connection.exec_driver_sql(statement)


class Position(FunctionElement[int]):
    """The position of one folded text in another, from 1; 0 if it is not in it. No wildcards."""

    inherit_cache = True
    type = Integer()


@compiles(Position, "sqlite")
def _sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)})"


@compiles(Position, "postgresql")
def _postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **options)})"


class HasGrams(FunctionElement[Any]):
    """The index of a search table has a row under the bound `search_grams`: see `search_params`."""

    inherit_cache = True
    type = NullType()  # SQLite would compare a Boolean with 1, and then read all texts


class HasBeginning(HasGrams):
    """The same for a text that is shorter than a gram."""

    inherit_cache = True


class FirstWithGrams(HasGrams):
    """`HasGrams`, of the first `most` rows of the index; on PostgreSQL the query has that limit."""

    inherit_cache = True


class FirstWithBeginning(HasBeginning):
    """The same for a text that is shorter than a gram."""

    inherit_cache = True


class Matches(FunctionElement[int]):
    """The number of rows under `search_grams` in a search table's index, counted up to `most`."""

    inherit_cache = True
    type = Integer()


class MatchesBeginning(Matches):
    """The same for a text that is shorter than a gram."""

    inherit_cache = True


def of_table(element: type[FunctionElement[Any]], table: type[SQLModel]) -> Any:
    """Return one of these for a search table."""
    return element(literal_column(str(table.__tablename__)))


@compiles(HasGrams, "sqlite")
def _sqlite_has(element: Any, compiler: Any, **options: Any) -> str:
    table, found = _sqlite_numbers(element, compiler, options)
    return f"{table}.number IN ({found})"


@compiles(FirstWithGrams, "sqlite")
@compiles(FirstWithBeginning, "sqlite")
def _sqlite_first(element: Any, compiler: Any, **options: Any) -> str:
    table, found = _sqlite_numbers(element, compiler, options)
    return f"{table}.number IN ({found} LIMIT {_bound('most', compiler, Integer)})"


@compiles(Matches, "sqlite")
def _sqlite_matches(element: Any, compiler: Any, **options: Any) -> str:
    _, found = _sqlite_numbers(element, compiler, options)
    return f"(SELECT count(*) FROM ({found} LIMIT {_bound('most', compiler, Integer)}))"  # noqa: S608


def _sqlite_numbers(element: Any, compiler: Any, options: Any) -> tuple[str, str]:
    table = compiler.process(element.clauses, **options)
    index = index_name(table)
    if isinstance(element, HasBeginning | MatchesBeginning):
        least, greatest = (_bound(name, compiler) for name in ("search_grams", "search_last"))
        found = f"SELECT DISTINCT doc FROM {index}_grams WHERE term BETWEEN {least} AND {greatest}"  # noqa: S608
    else:
        grams = _bound("search_grams", compiler)
        found = f"SELECT rowid FROM {index} WHERE {index} MATCH {grams}"  # noqa: S608
    return table, found


@compiles(HasGrams, "postgresql")
def _postgresql_has(element: Any, compiler: Any, **options: Any) -> str:
    table = compiler.process(element.clauses, **options)
    return f"search_grams({table}.text) @@ CAST({_bound('search_grams', compiler)} AS tsquery)"


@compiles(Matches, "postgresql")
def _postgresql_matches(element: Any, compiler: Any, **options: Any) -> str:
    table = compiler.process(element.clauses, **options)
    found = _postgresql_has(element, compiler, **options)
    most = _bound("most", compiler, Integer)
    return f"(SELECT count(*) FROM (SELECT FROM {table} WHERE {found} LIMIT {most}) AS found)"  # noqa: S608


def _bound(name: str, compiler: Any, type: Any = String) -> str:
    return str(compiler.process(bindparam(name, type_=type)))


def search_params(dialect: str, term: str) -> dict[str, str]:
    """Return the parameters that the index is asked by for a folded text."""
    quoted = [gram.replace("'", "''").replace("\\", "\\\\") for gram in _grams(term)]
    if len(term) < GRAM:
        if dialect == "sqlite":
            return {"search_grams": term, "search_last": term.ljust(GRAM, _LAST)}
        return {"search_grams": f"'{quoted[0]}':*"}
    if dialect == "sqlite":
        doubled = (gram.replace('"', '""') for gram in _grams(term))
        return {"search_grams": " AND ".join(f'"{gram}"' for gram in doubled)}
    return {"search_grams": " & ".join(f"'{gram}'" for gram in quoted)}


def _grams(term: str) -> list[str]:
    """Return some grams of a text, all of which are needed; of a short one the text itself."""
    every = list(dict.fromkeys(term[i : i + GRAM] for i in range(max(1, len(term) - GRAM + 1))))
    return list(dict.fromkeys([*every[:: -(-len(every) // MOST_GRAMS)], every[-1]]))
