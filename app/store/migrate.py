"""Bringing a database to this version's schema, with Alembic.

At every start the stored revision is compared with `HEAD`; Alembic, which is slow to
import, is loaded only when they differ.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from app.errors import Unavailable

HEAD = "0001"
"""The newest revision in `migrations/versions`; a test keeps it so."""

_SCRIPTS = Path(__file__).parent / "migrations"
_REVISION = "SELECT version_num FROM alembic_version"


def config(url: str) -> Any:
    """Alembic's configuration for a database URL."""
    from alembic.config import Config

    settings = Config()
    settings.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    settings.attributes["url"] = url
    return settings


def revision(url: str) -> str | None:
    """The revision a database is at; None for an empty one. Raises the driver's error."""
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
            found: Any = postgres.execute(_REVISION).fetchone()
        except psycopg.errors.UndefinedTable:
            return None
        return found[0] if found else None


def bring_up(url: str) -> None:
    """Creates or upgrades the tables where that is needed.

    Raises Unavailable for a database of a newer version, or one that refuses; the driver's
    error when it cannot even be read.
    """
    found = revision(url)
    if found == HEAD:
        return
    known = {path.name.partition("_")[0] for path in (_SCRIPTS / "versions").glob("*.py")}
    if found is not None and found not in known:
        raise Unavailable(
            f"it is of a newer version of this service (its schema is {found}, this version's "
            f"{HEAD}): start that version, or restore a backup from before it"
        )
    try:
        upgrade(url)
    except DBAPIError as error:
        raise Unavailable(f"its tables cannot be made: {error.orig}") from error


def upgrade(url: str, to: str = "head") -> None:
    """Creates or upgrades the tables, in one transaction."""
    from alembic import command

    command.upgrade(config(url), to)


def downgrade(url: str, to: str) -> None:
    """Takes migrations back, in one transaction."""
    from alembic import command

    command.downgrade(config(url), to)
