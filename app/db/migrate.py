"""Bringing a database to this version's schema.

At every start the stored revision is compared with `HEAD`. An empty database gets the
tables as they are now; Alembic, slow to import and large, is loaded only to upgrade one
that has tables. A test holds the two ways to the same schema.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, pool, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

from app.db import planning, rights, search, tally
from app.db.tables import complete_for_postgresql
from app.errors import Unavailable

METADATA = SQLModel.metadata
_ONE_AT_A_TIME = 0x6C6C6D6D  # several servers may start together on one PostgreSQL
_SCRIPTS = Path(__file__).parent / "migrations"
# By the names of the files, which to read would import Alembic.
_REVISIONS = {file.name.partition("_")[0] for file in (_SCRIPTS / "versions").glob("*.py")}
HEAD = max(_REVISIONS)
"""The newest revision in `migrations/versions`."""

_REVISION = "SELECT version_num FROM alembic_version"


def config(url: str) -> Any:
    """Return Alembic's configuration for a database URL."""
    from alembic.config import Config

    settings = Config()
    settings.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    settings.attributes["url"] = url
    return settings


def revision(url: str) -> str | None:
    """Return the revision a database is at; None for an empty one. Raises the driver's error."""
    if url.startswith("sqlite:///"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            try:
                row = connection.execute(_REVISION).fetchone()
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    raise
                return None
        return row[0] if row else None
    import psycopg

    with psycopg.connect(
        url.replace("postgresql+psycopg://", "postgresql://", 1), connect_timeout=5
    ) as postgres:
        try:
            stored: Any = postgres.execute(_REVISION).fetchone()
        except psycopg.errors.UndefinedTable:
            return None
        return stored[0] if stored else None


def bring_up(url: str) -> None:
    """Creates or upgrades the tables where that is needed.

    Raises Unavailable for a database of a newer version, or one that refuses; the driver's
    error when it cannot even be read.
    """
    known = _known_revision(url)
    try:
        if known != HEAD and (known is not None or not create(url)):
            upgrade(url)
    except DBAPIError as error:
        raise Unavailable(f"its tables cannot be made: {error.orig}") from error


def require(url: str) -> None:
    """Leaves the database as it is; raises Unavailable for one that was never this service's."""
    where = "set LLM_TRAIN_DATABASE_URL as the service has it"
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        raise Unavailable(f"there is no such file; {where}")  # to look into it would make it
    if _known_revision(url) is None:
        raise Unavailable(f"there are no tables of this service in it; {where}")


def _known_revision(url: str) -> str | None:
    number = revision(url)
    if number is None or number == HEAD:
        return number
    if number not in _REVISIONS:
        raise Unavailable(
            f"it is of a newer version of this service (its schema is {number}, this version's "
            f"{HEAD}): start that version, or restore a backup from before it"
        )
    return number


def create(url: str) -> bool:
    """Makes the tables of an empty database, in one transaction; False when it has some."""
    with in_one_transaction(url) as connection:
        if inspect(connection).get_table_names():
            return False
        METADATA.create_all(connection, checkfirst=False)
        tally.create_triggers(connection)
        search.create_indexes(connection)
        rights.create_triggers(connection)
        planning.withhold_statistics(connection)
        connection.execute(
            text(
                "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL,"
                " CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
            )
        )
        connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})
        return True


@contextmanager
def in_one_snapshot(url: str) -> Iterator[Connection]:
    """Yield a connection that reads one snapshot of a database of this version, row by row.

    Raises Unavailable if the database is empty or of another version.
    """
    require(url)
    if (current := revision(url)) != HEAD:
        raise Unavailable(f"its schema is {current}, this version's {HEAD}: run llm-train migrate")
    engine = _engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _leave_transactions_alone)
        event.listen(engine, "begin", _begin_reading)
    else:
        engine = engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
    with engine.connect() as connection:
        yield connection.execution_options(yield_per=1_000)
    engine.dispose()


def _engine(url: str) -> Engine:
    target: str | URL = url
    if url.startswith("sqlite:///"):  # the very path that is opened later, not parsed again
        target = URL.create("sqlite", database=url.removeprefix("sqlite:///"))
    else:
        complete_for_postgresql()
        target = url.replace("postgresql://", "postgresql+psycopg://", 1)
    return create_engine(target, poolclass=pool.NullPool)


@contextmanager
def in_one_transaction(url: str) -> Iterator[Connection]:
    """Yield a connection whose changes to the schema are all made, or none."""
    engine = _engine(url)
    sqlite = engine.dialect.name == "sqlite"
    if sqlite:
        event.listen(engine, "connect", _leave_transactions_alone)
        event.listen(engine, "begin", _begin_immediately)
    with engine.connect() as connection:
        if not sqlite:
            connection.execute(text(f"SELECT pg_advisory_lock({_ONE_AT_A_TIME})"))
            connection.commit()
        yield connection
        connection.commit()
    engine.dispose()


def _leave_transactions_alone(connection: sqlite3.Connection, record: object) -> None:
    """Begin a transaction now.

    The driver would begin at the first INSERT, and leave half a schema after a crash.
    """
    connection.isolation_level = None
    # A table that is being rewritten would break references to it.
    connection.execute("PRAGMA foreign_keys=OFF")


def _begin_reading(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin_immediately(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def upgrade(url: str, to: str = "head") -> None:
    """Creates or upgrades the tables, in one transaction."""
    from alembic import command

    command.upgrade(config(url), to)


def upgrade_within(connection: Connection, to: str) -> None:
    """Create or upgrade the tables in the transaction of a connection."""
    from alembic import command

    settings = config("")
    settings.attributes["connection"] = connection
    command.upgrade(settings, to)


def downgrade(url: str, to: str) -> None:
    """Takes migrations back, in one transaction."""
    from alembic import command

    command.downgrade(config(url), to)
