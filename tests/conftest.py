"""Fixtures that tests of several folders share."""

from tests.support.database import (
    anyio_backend,
    database_url,
    databases,
    db,
    empty_database_url,
    module_database_url,
    postgresql,
)
from tests.support.server import server

__all__ = [
    "anyio_backend",
    "database_url",
    "databases",
    "db",
    "empty_database_url",
    "module_database_url",
    "postgresql",
    "server",
]
