"""Alembic's entry: runs the migrations on one connection, all of them or none."""

import sqlite3

from alembic import context
from sqlalchemy import Connection, create_engine, event, pool, text
from sqlmodel import SQLModel

import app.store.tables  # noqa: F401  (fills the metadata)

_ONE_AT_A_TIME = 0x6C6C6D6D  # several servers may start together on one PostgreSQL


def run() -> None:
    """Upgrades or downgrades in one transaction."""
    url = context.config.attributes["url"]
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(url, poolclass=pool.NullPool)
    sqlite = engine.dialect.name == "sqlite"
    if sqlite:
        event.listen(engine, "connect", _leave_transactions_alone)
        event.listen(engine, "begin", _begin_immediately)
    with engine.connect() as connection:
        if not sqlite:
            connection.execute(text(f"SELECT pg_advisory_lock({_ONE_AT_A_TIME})"))
            connection.commit()
        context.configure(
            connection=connection,
            target_metadata=SQLModel.metadata,
            render_as_batch=sqlite,
            compare_type=True,
            transactional_ddl=True,
        )
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    engine.dispose()


def _leave_transactions_alone(connection: sqlite3.Connection, record: object) -> None:
    """The driver would begin only at the first INSERT, and leave half a schema after a crash."""
    connection.isolation_level = None
    # A table that is being rewritten would break references to it.
    connection.execute("PRAGMA foreign_keys=OFF")


def _begin_immediately(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


run()
