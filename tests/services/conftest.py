"""Transactions for tests that call use cases directly, without an event loop around them."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
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
        # Of the test's context, which says who acts.
        yield lambda use_case, *args, **kwargs: runner.run(
            database.write(use_case, *args, **kwargs), context=copy_context()
        )
        runner.run(database.stop())


@pytest.fixture
def write(database_url: str) -> Iterator[Write]:
    """`write(use_case, *args)` is one committed transaction."""
    with writing(database_url) as write:
        yield write
