"""Text search: the texts that runs and experiments are found by, and their index.

`RunSearch` and `ExperimentSearch` hold one folded text a row (`app.domain.texts`). On SQLite a
trigger copies it into an FTS5 index of trigrams; on PostgreSQL there is a GIN index of pg_trgm.
The index only narrows the rows down (`grams`); `Position` compares the text itself, a row at a
time, so that a search can be cancelled between two rows.

PostgreSQL's index needs an extension that only some users may create: `ensure_index` tries at
every start, and without it a search reads all texts.
"""

import logging
from typing import Any, cast

from sqlalchemy import DDL, Integer, event
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlmodel import SQLModel

from app.db.tables import ExperimentSearch, RunSearch

TABLES: tuple[type[SQLModel], ...] = (RunSearch, ExperimentSearch)
GRAM = 3
MOST_GRAMS = 8
"""Each further gram narrows less than it costs."""
PREFIX = 32
"""So many characters PostgreSQL compares at every place of a text before the whole."""
LIKE_ESCAPE = "!"
"""No backslash: SQLAlchemy 2.0 doubles one unless it has seen the server's settings."""

log = logging.getLogger(__name__)


def index_name(table: str) -> str:
    """Return the name of a search table's index. `migrations/env.py` knows it by its end."""
    return f"{table}_index"


def sqlite_index(table: str) -> tuple[str, ...]:
    """Return the statements that make the index of a search table, and fill it."""
    index = index_name(table)
    return (
        f"CREATE VIRTUAL TABLE {index} USING fts5(text, content='{table}',"
        " content_rowid='number', tokenize='trigram case_sensitive 1', detail='none',"
        " columnsize=0)",
        f"CREATE TRIGGER {table}_added AFTER INSERT ON {table} BEGIN"  # noqa: S608 - our own names
        f" INSERT INTO {index}(rowid, text) VALUES (new.number, new.text); END",
        f"INSERT INTO {index}({index}) VALUES ('rebuild')",  # noqa: S608
        f"CREATE TRIGGER {table}_changed AFTER UPDATE ON {table} BEGIN"  # noqa: S608
        f" INSERT INTO {index}({index}, rowid, text) VALUES ('delete', old.number, old.text);"
        f" INSERT INTO {index}(rowid, text) VALUES (new.number, new.text); END",
        f"CREATE TRIGGER {table}_removed AFTER DELETE ON {table} BEGIN"  # noqa: S608
        f" INSERT INTO {index}({index}, rowid, text) VALUES ('delete', old.number, old.text); END",
    )


for _table in TABLES:
    for _statement in sqlite_index(str(_table.__tablename__)):
        _create = cast(Any, DDL)(_statement).execute_if(dialect="sqlite")
        event.listen(cast(Any, _table).__table__, "after_create", _create)


class Position(FunctionElement[int]):
    """Where a text contains another, both folded; 0 where it does not. Takes no wildcards."""

    inherit_cache = True
    type = Integer()


@compiles(Position, "sqlite")
def _sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)})"


@compiles(Position, "postgresql")
def _postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **options)})"


def grams(term: str) -> str:
    """Return the query for SQLite's index: some trigrams of the term, all of which are needed."""
    every = list(dict.fromkeys(term[i : i + GRAM] for i in range(len(term) - GRAM + 1)))
    spread = every[:: -(-len(every) // MOST_GRAMS)] + every[-1:]
    return " AND ".join('"' + gram.replace('"', '""') + '"' for gram in dict.fromkeys(spread))


def ensure_index(dsn: str, lock: int) -> None:
    """Make the indexes of a PostgreSQL database that has none, or log why that cannot be.

    Holds the advisory lock meanwhile: servers may start together. Raises the driver's error only
    where the database cannot be reached.
    """
    import psycopg  # an extra: SQLite works without it

    with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
        names = [index_name(str(table.__tablename__)) for table in TABLES]
        found: Any = connection.execute(
            "SELECT count(*) FROM pg_indexes WHERE schemaname = current_schema()"
            " AND indexname = ANY(%s)",
            (names,),
        ).fetchone()
        if found[0] == len(names):
            return
        connection.execute("SELECT pg_advisory_lock(%s)", (lock,))
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
            for table in TABLES:
                name = str(table.__tablename__)
                connection.execute(
                    f"CREATE INDEX IF NOT EXISTS {index_name(name)} ON {name}"
                    " USING gin (text gin_trgm_ops)"
                )
        except psycopg.Error as error:
            log.warning(
                "text search has no index, so that each search reads all texts: the database "
                "does not let this service create the extension pg_trgm (%s). Run "
                "CREATE EXTENSION pg_trgm as an administrator of this database and start again.",
                str(error).strip().partition("\n")[0],
            )
