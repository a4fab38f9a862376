"""A started database for tests that call use cases directly, without an event loop around them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from app.db.connect import connect
from app.db.database import Database

Write = Callable[..., Any]
CONNECTIONS = 7


def opened(url: str) -> Database:
    """Return a database whose tables are there, not yet started.

    It has three threads that write, where a server has eight: each connection that a test opens
    costs PostgreSQL 20 ms. It does not look for tables and room again, over two more.
    """
    database = connect(url, CONNECTIONS)
    if not url.startswith("sqlite"):
        database.__dict__["_prepared"] = True
    return database


@pytest.fixture
async def db(database_url: str, anyio_backend: str) -> AsyncIterator[Database]:
    """As that of tests/support/database.py, of fewer connections."""
    database = opened(database_url)
    await database.start()
    yield database
    await database.stop()


@contextmanager
def writing(database_url: str) -> Iterator[Write]:
    """As the fixture `write`, for one of another scope."""
    with asyncio.Runner() as runner:
        database = opened(database_url)
        runner.run(database.start())
        yield lambda use_case, *args, **kwargs: runner.run(
            database.write(use_case, *args, **kwargs)
        )
        runner.run(database.stop())


@pytest.fixture
def write(database_url: str) -> Iterator[Write]:
    """`write(use_case, *args)` is one committed transaction."""
    with writing(database_url) as write:
        yield write
