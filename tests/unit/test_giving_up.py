"""A read that nobody waits for any more ends in the database, and leaves its thread free."""

import asyncio
import threading
import time
from typing import Any

import pytest
from sqlalchemy import text

from app.db.database import Database
from app.db.sql import Statement, Tx
from tests.support.clock import is_soon

pytestmark = pytest.mark.anyio

# Some ten seconds of work, but no disk full of it where the database does not stop.
COUNTED = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000000)"
    " SELECT count(*) FROM n"
)
SLOW = Statement[tuple[int]](text(COUNTED))
MANY = 12  # more than there are threads for them


def quick(tx: Tx) -> int:
    return 1


async def test_scans_that_are_given_up_leave_their_threads_free(db: Database) -> None:
    begun: list[int] = []
    started = threading.Event()

    def slow(tx: Tx) -> Any:
        begun.append(threading.get_ident())
        started.set()
        return tx.first(SLOW)

    scans = [asyncio.create_task(db.scan(slow)) for _ in range(MANY)]
    assert await asyncio.to_thread(started.wait, 60)
    await asyncio.sleep(0.3)  # into the statement
    for scan in scans:
        scan.cancel()
    start = time.perf_counter()
    assert await db.scan(quick) == 1
    assert is_soon(time.perf_counter() - start, 2)
    assert len(begun) < MANY, "those that had not begun never do"
    assert await asyncio.gather(*(db.scan(quick) for _ in range(MANY))) == [1] * MANY


async def test_giving_up_ends_no_other_read(db: Database) -> None:
    """Each is cancelled at another moment, on threads that work for others right after."""
    short = Statement[tuple[int]](text(COUNTED.replace("50000000", "20000")))

    async def given_up(delay: float) -> None:
        scan = asyncio.create_task(db.scan(lambda tx: tx.first(short)))
        await asyncio.sleep(delay)
        scan.cancel()

    for number in range(100):
        await given_up(number % 20 / 1000)
        assert await db.scan(lambda tx: tx.first(short)) == (20000,)


async def test_a_read_given_up_between_two_statements_does_not_go_on(db: Database) -> None:
    given_up, ended = threading.Event(), threading.Event()

    def two(tx: Tx) -> Any:
        try:
            given_up.wait(60)
            time.sleep(0.2)  # what was said to an idle connection is lost
            return tx.first(SLOW)
        finally:
            ended.set()

    scan = asyncio.create_task(db.scan(two))
    await asyncio.sleep(0.3)  # into the read
    scan.cancel()
    await asyncio.sleep(0)
    given_up.set()
    asked = time.monotonic()
    assert await asyncio.to_thread(ended.wait, 60)
    assert is_soon(time.monotonic() - asked, 3)
