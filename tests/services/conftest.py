"""Transactions for tests that call use cases directly, without an event loop around them."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.database import opened

Write = Callable[..., Any]


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
