"""A started database for tests that call use cases directly, without an event loop around them."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.db.connect import connect

Write = Callable[..., Any]


@pytest.fixture
def write(database_url: str) -> Iterator[Write]:
    """`write(use_case, *args)` is one committed transaction."""
    with asyncio.Runner() as runner:
        database = connect(database_url)
        runner.run(database.start())
        yield lambda use_case, *args, **kwargs: runner.run(
            database.write(use_case, *args, **kwargs)
        )
        runner.run(database.stop())
