"""Every row of the database, copied out and in: what a backup consists of.

    export_rows(url, folder)   one snapshot of all tables, a file of JSON lines for each
    import_rows(url, folder, …)  the same rows in an empty database of either kind

The files name columns, so that they are read by later versions and by the other database: a
backup of SQLite can be restored into PostgreSQL. Bytes are base64.
"""

import base64
import gzip
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import orjson
from sqlalchemy import (
    Column,
    Connection,
    LargeBinary,
    MetaData,
    Table,
    delete,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import SAWarning

from app.db import migrate
from app.db.sql import Tx, write_late
from app.db.tables import AccessEpoch, Tally
from app.errors import Unavailable

_ROWS = 1_000
_OWN = {Tally.__tablename__, AccessEpoch.__tablename__}
"""Made again, as the rows are restored."""
_COMPRESSION = 1
"""Of gzip: higher levels take three times as long for a tenth less."""


def export_rows(url: str, folder: Path) -> dict[str, int]:
    """Write every table to `folder/TABLE.jsonl.gz`, all of one snapshot; return their row counts.

    A server may go on writing meanwhile. Raises Unavailable for a database that is not this
    version's, SQLAlchemy's error when it cannot be read.
    """
    counts = {}
    with migrate.in_one_snapshot(url) as connection:
        for table in migrate.METADATA.sorted_tables:
            if table.name in _OWN:
                continue
            name = str(table.name)  # of a class that orjson takes for no key
            with gzip.open(folder / f"{name}.jsonl.gz", "wb", _COMPRESSION) as file:
                counts[name] = 0
                rows = connection.execute(select(table).order_by(*table.primary_key))
                for row in rows.mappings():
                    file.write(orjson.dumps(dict(row), default=_encode) + b"\n")
                    counts[name] += 1
    return counts


def _encode(value: object) -> str:
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(value).decode()
    raise TypeError(type(value))


def import_rows(
    url: str, folder: Path, revision: str, finish: Callable[[Tx], None]
) -> dict[str, int]:
    """Create the tables as they were at `revision`, fill them, and bring them to this version.

    `finish` is the last step of the one transaction in which all this happens. Raises Unavailable
    if the database is not empty, or if a row is missing.
    """
    with migrate.in_one_transaction(url) as connection:
        if inspect(connection).get_table_names():
            raise Unavailable("the database is not empty; a backup is restored into a new one")
        migrate.upgrade_within(connection, revision)
        counts = _fill(connection, folder)
        migrate.upgrade_within(connection, migrate.HEAD)
        cursor = _cursor(connection)
        tx = Tx(cursor, connection.dialect.name)
        finish(tx)
        write_late(tx, [tx])
        cursor.close()
    migrate.bring_up(url)
    return counts


def _cursor(connection: Connection) -> Any:
    """Return a cursor of the driver that takes statements as `Tx` has them."""
    if connection.dialect.name == "sqlite":
        return connection.connection.cursor()
    import psycopg  # an extra: SQLite works without it

    return psycopg.RawCursor(cast(Any, connection.connection.driver_connection))


def _fill(connection: Connection, folder: Path) -> dict[str, int]:
    tables = MetaData()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)  # it cannot read the index of an expression
        tables.reflect(connection, only=[file.name.partition(".")[0] for file in folder.iterdir()])
    on_postgresql = connection.dialect.name == "postgresql"
    if on_postgresql:
        _defer_references(connection, tables, "DEFERRABLE INITIALLY DEFERRED")
    counts = {}
    for table in tables.sorted_tables:
        counts[table.name] = 0
        connection.execute(delete(table))  # the default project, which the backup has as well
        stored = _read(folder / f"{table.name}.jsonl.gz", table)
        while rows := list(islice(stored, _ROWS)):
            connection.execute(insert(table), rows)
            counts[table.name] += len(rows)
        if on_postgresql:
            _advance_counter(connection, table)
    if on_postgresql:
        connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
        _defer_references(connection, tables, "NOT DEFERRABLE")
    elif broken := connection.execute(text("PRAGMA foreign_key_check")).first():
        raise Unavailable(f"a row of {broken[0]} refers to a row that is not in the backup")
    return counts


def _read(file: Path, table: Table) -> Iterator[dict[str, Any]]:
    binary = [name for name, column in table.columns.items() if _is_binary(column)]
    with gzip.open(file, "rb") as lines:
        for line in lines:
            row: dict[str, Any] = orjson.loads(line)
            for name in binary:
                if row.get(name) is not None:
                    row[name] = base64.b64decode(row[name])
            yield row


def _is_binary(column: Column[Any]) -> bool:
    return isinstance(column.type, LargeBinary)


def _defer_references(connection: Connection, tables: MetaData, when: str) -> None:
    """Let rows of one table refer to later ones of the same: a run names its parent."""
    quote = connection.dialect.identifier_preparer.quote
    for table in tables.sorted_tables:
        for constraint in table.foreign_key_constraints:
            if constraint.referred_table is table and constraint.name is not None:
                connection.execute(
                    text(
                        f"ALTER TABLE {quote(table.name)} ALTER CONSTRAINT "
                        f"{quote(str(constraint.name))} {when}"
                    )
                )


def _advance_counter(connection: Connection, table: Table) -> None:
    """Let a key that the database counts up go on behind the highest of the rows."""
    for column in islice(table.primary_key, 1):
        counter = connection.scalar(select(func.pg_get_serial_sequence(table.name, column.name)))
        if counter is not None:
            highest = select(func.max(column)).scalar_subquery()
            connection.execute(select(func.setval(counter, func.coalesce(highest, 1))))
