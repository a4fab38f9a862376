"""A server's own database, opened beside it: SQLite or PostgreSQL through one small door.

`open_database(server)` returns it. Statements are written with `?`; nothing here is measured but
`insert_committed`, the raw cell of the rows about ingest.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import psycopg

from app.db.migrate import METADATA
from tests.support.database import dsn
from tests.support.server import Server


class Database(Protocol):
    """What the bench does with a database. Each statement is committed by itself."""

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """Run one statement; the cursor."""

    def insert(self, table: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Insert many rows in one transaction, the fastest way there is."""

    def insert_committed(self, batches: Sequence[Sequence[tuple[Any, ...]]]) -> None:
        """Insert points into `bare_point`, each batch in a durable transaction of its own."""

    def has_table(self, name: str) -> bool:
        """Return True if there is such a table."""

    def size(self, table: str) -> int:
        """Return the bytes of a table with its indexes; on SQLite of the whole file."""

    def analyze(self) -> None:
        """Let the planner know what is in the tables."""

    def hurry(self) -> None:
        """Write without waiting for the disk, from here on: what is built can be built again."""


def serving(server: Server) -> list[int]:
    """The processes that a request costs CPU time: of the service, and of PostgreSQL's clients."""
    if server.database_url.startswith("sqlite"):
        return [server.pid]
    with psycopg.connect(dsn(server.database_url)) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return [server.pid, *(pid for (pid,) in rows)]


class Sqlite:
    """A SQLite file."""

    def __init__(self, url: str) -> None:
        path = url.removeprefix("sqlite:///")
        self.connection = sqlite3.connect(path, timeout=60, isolation_level=None)

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Any:
        return self.connection.execute(sql, values)

    def insert(self, table: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        marks = ", ".join("?" * len(names))
        sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany(sql, rows)
        self.connection.execute("COMMIT")

    def insert_committed(self, batches: Sequence[Sequence[tuple[Any, ...]]]) -> None:
        self.connection.execute("PRAGMA synchronous = FULL")
        for rows in batches:
            self.connection.execute("BEGIN IMMEDIATE")
            self.connection.executemany("INSERT INTO bare_point VALUES (?, ?, ?, ?)", rows)
            self.connection.execute("COMMIT")

    def has_table(self, name: str) -> bool:
        sql = "SELECT 1 FROM sqlite_master WHERE name = ?"
        return self.connection.execute(sql, (name,)).fetchone() is not None

    def size(self, table: str) -> int:
        pages, each = (
            self.connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "page_size")
        )
        return int(pages * each)

    def analyze(self) -> None:
        # It reads before it writes: without the lock, a write of the service's between the two
        # would fail it at once as "database is locked", whatever the timeout.
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.execute("PRAGMA optimize")
        self.connection.execute("COMMIT")

    def hurry(self) -> None:
        self.connection.execute("PRAGMA synchronous = OFF")
        self.connection.execute("PRAGMA cache_size = -1000000")


class Postgres:
    """A PostgreSQL database."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(dsn(url), autocommit=True)

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Any:
        text = sql.replace("%", "%%").replace("?", "%s") if values else sql
        return self.connection.execute(text.encode(), values or None)

    def insert(self, table: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        sql = f"COPY {table} ({', '.join(names)}) FROM STDIN"
        with self.connection.cursor() as cursor, cursor.copy(sql.encode()) as copy:
            for row in rows:
                copy.write_row(row)

    def insert_committed(self, batches: Sequence[Sequence[tuple[Any, ...]]]) -> None:
        for rows in batches:
            self.insert("bare_point", ("series_id", "step", "value", "wall_time"), rows)

    def has_table(self, name: str) -> bool:
        found: Any = self.connection.execute("SELECT to_regclass(%s)", (name,)).fetchone()
        return found[0] is not None

    def size(self, table: str) -> int:
        sql = "SELECT pg_total_relation_size(%s::regclass)"
        (size,) = self.connection.execute(sql, (table,)).fetchone() or (0,)
        return int(size)

    def analyze(self) -> None:
        self.connection.execute("VACUUM ANALYZE")

    def hurry(self) -> None:
        self.connection.execute("SET synchronous_commit = off")


@contextmanager
def open_database(server: Server) -> Iterator[Database]:
    """The server's own database, beside it."""
    url = server.database_url
    database = Sqlite(url) if url.startswith("sqlite") else Postgres(url)
    try:
        yield database
    finally:
        database.connection.close()


def copy_sqlite(source: Database, target: str) -> None:
    """Copy a SQLite database into a new file while it is in use."""
    assert isinstance(source, Sqlite)
    copy = sqlite3.connect(target.removeprefix("sqlite:///"))
    source.connection.backup(copy)
    copy.close()


def copy_postgresql(source: Database, target: Database) -> None:
    """Copy all rows into a database that has the tables and only the rows its migrations made."""
    assert isinstance(source, Postgres) and isinstance(target, Postgres)
    for table in reversed(METADATA.sorted_tables):  # a migration makes the default project
        target.connection.execute(b"DELETE FROM %b" % table.name.encode())
    for table in METADATA.sorted_tables:
        if table.name == "tally":
            continue  # triggers count the rows as they come
        name = table.name.encode()
        with (
            source.connection.cursor() as reader,
            target.connection.cursor() as writer,
            reader.copy(b"COPY %b TO STDOUT (FORMAT BINARY)" % name) as rows,
            writer.copy(b"COPY %b FROM STDIN (FORMAT BINARY)" % name) as copy,
        ):
            for part in rows:
                copy.write(part)
