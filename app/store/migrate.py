"""Bringing a database to this version's schema, with Alembic.

At every start the stored revision is compared with `HEAD`; Alembic, which is slow to
import, is loaded only when they differ.
"""

import sqlite3
from pathlib import Path
from typing import Any

HEAD = "0001"
"""The newest revision in `migrations/versions`; a test keeps it so."""


def config(url: str) -> Any:
    """Alembic's configuration for a database URL."""
    from alembic.config import Config

    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    settings.attributes["url"] = url
    return settings


def revision(url: str) -> str | None:
    """The revision a database is at; None for an empty one."""
    if url.startswith("sqlite:///"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            try:
                row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    raise
                row = None
        connection.close()
        return row[0] if row else None
    import psycopg

    with psycopg.connect(
        url.replace("postgresql+psycopg://", "postgresql://", 1), connect_timeout=10
    ) as postgres:
        try:
            found: Any = postgres.execute("SELECT version_num FROM alembic_version").fetchone()
        except psycopg.errors.UndefinedTable:
            return None
        return found[0] if found else None


def upgrade(url: str, to: str = "head") -> None:
    """Creates or upgrades the tables."""
    from alembic import command

    command.upgrade(config(url), to)


def downgrade(url: str, to: str) -> None:
    """Takes migrations back."""
    from alembic import command

    command.downgrade(config(url), to)
