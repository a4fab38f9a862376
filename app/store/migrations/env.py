"""Alembic's entry: runs the migrations on one connection."""

from alembic import context
from sqlalchemy import create_engine, pool, text
from sqlmodel import SQLModel

import app.store.tables  # noqa: F401  (fills the metadata)

_ONE_AT_A_TIME = 0x6C6C6D6D  # several servers may start together on one PostgreSQL


def run() -> None:
    """Upgrades or downgrades in one transaction."""
    url = context.config.attributes["url"]
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        sqlite = connection.dialect.name == "sqlite"
        if sqlite:
            # A table that is being rewritten would break references to it.
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        else:
            connection.execute(text(f"SELECT pg_advisory_lock({_ONE_AT_A_TIME})"))
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=SQLModel.metadata,
            render_as_batch=sqlite,
            compare_type=True,
        )
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    engine.dispose()


run()
