"""On PostgreSQL what waits together goes together, and what fails, fails alone.

Seen red: a batch that is not run again when a statement fails in it, a read's error that reaches
the reads which share its snapshot, a text that libpq would cut off at a NUL, a statement forgotten
where a transaction has failed, reads that a lost connection takes with it.
"""

import asyncio
import threading
from collections import Counter
from typing import Any

import psycopg
import pytest
from sqlalchemy import bindparam, text

from app.db import postgresql_pipeline
from app.db.database import Database
from app.db.postgresql import PostgresDatabase
from app.db.sql import Statement, Tx
from app.domain.requests import ExperimentRequest
from app.errors import NotFound
from app.services import events, experiments
from tests.support.database import dsn, postgresql_only
from tests.support.server import wait_until

pytestmark = [pytest.mark.anyio, postgresql_only]

_TRANSACTION = Statement[tuple[Any]](text("SELECT pg_current_xact_id()::text"))
_SNAPSHOT = Statement[tuple[Any]](text("SELECT pg_backend_pid()"))
_FAILS = Statement[tuple[Any]](text("SELECT 1 / 0"))
_ECHO = Statement[tuple[str]](text("SELECT CAST(:said AS text)").bindparams(bindparam("said")))


async def _together(db: Database, *works: Any) -> list[Any]:
    """What comes of writes that wait while every writer is busy; an error stands for itself."""
    assert isinstance(db, PostgresDatabase)
    busy, release = threading.Semaphore(0), threading.Event()

    def wait(tx: Tx) -> None:
        busy.release()
        assert release.wait(60)

    waits = []
    for _ in range(db.writers):
        waits.append(asyncio.create_task(db.write(wait)))
        assert await asyncio.to_thread(busy.acquire, timeout=60)
    written = [asyncio.create_task(db.write(work)) for work in works]
    await asyncio.sleep(0.05)
    release.set()
    await asyncio.gather(*waits)
    return await asyncio.gather(*written, return_exceptions=True)


def _transaction(tx: Tx) -> Any:
    found = tx.first(_TRANSACTION)
    assert found is not None
    return found[0]


async def test_writes_that_wait_share_a_transaction(db: Database) -> None:
    found = await _together(db, *[_transaction] * 32)
    assert len(set(found)) < 16, "some of them waited together"
    assert Counter(found).most_common(1)[0][1] > 1


async def test_a_write_that_fails_in_shared_transactions_fails_alone(db: Database) -> None:
    experiment = await db.write(experiments.create, ExperimentRequest(name="a", task_type="b"))

    def append(tx: Tx) -> None:
        events.append(tx, experiment.id, "test")

    def astray(tx: Tx) -> None:
        events.append(tx, "exp_nowhere", "test")

    def fails(tx: Tx) -> None:
        append(tx)
        tx.first(_FAILS)

    found = await _together(db, *[append, astray, append, fails] * 8)
    assert Counter(map(type, found)) == {
        type(None): 16, NotFound: 8, psycopg.errors.DivisionByZero: 8,
    }  # fmt: skip
    written = await db.read(events.list_after, experiment.id, 0, 100)
    assert [event.seq for event in written] == list(range(1, 18))


async def test_a_read_that_fails_among_others_fails_alone(db: Database) -> None:
    def good(tx: Tx) -> Any:
        return tx.first(_SNAPSHOT), tx.first(_SNAPSHOT)

    def late(tx: Tx) -> Any:
        tx.first(_SNAPSHOT)
        return tx.first(_FAILS)

    def wrong(tx: Tx) -> Any:
        tx.first(_SNAPSHOT)
        raise KeyError

    reads = [db.read(work) for work in [good, late, wrong, good] * 10]
    found = await asyncio.gather(*reads, return_exceptions=True)
    assert Counter(map(type, found)) == {
        tuple: 20, psycopg.errors.DivisionByZero: 10, KeyError: 10,
    }  # fmt: skip


async def test_reads_given_up_leave_the_others_their_answers(db: Database) -> None:
    def echo(number: int) -> Any:
        return lambda tx: [tx.first(_ECHO, said=f"{number} {turn}") for turn in range(5)]

    reads = [asyncio.create_task(db.read(echo(number))) for number in range(100)]
    for turn, number in enumerate(range(0, 100, 3)):
        for _ in range(turn % 4):
            await asyncio.sleep(0)
        reads[number].cancel()
    for number, read in enumerate(reads):
        if number % 3:
            assert await read == [(f"{number} {turn}",) for turn in range(5)]


async def test_a_connection_that_ends_under_reads_is_replaced(
    db: Database, database_url: str
) -> None:
    """Reads change nothing, so they begin again on a new one."""
    assert isinstance(db, PostgresDatabase)
    assert await db.read(lambda tx: tx.first(_SNAPSHOT))
    # One that fails while it is being opened is told to the reads that wait for it.
    lanes = db._reads._lanes
    await asyncio.to_thread(
        wait_until, lambda: all(lane._pipeline for lane in lanes), "all are open"
    )
    reads = [asyncio.create_task(db.read(lambda tx: tx.first(_SNAPSHOT))) for _ in range(40)]
    await asyncio.sleep(0)
    with psycopg.connect(dsn(database_url), autocommit=True) as stranger:
        stranger.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert len(await asyncio.gather(*reads)) == 40
    assert await db.read(lambda tx: tx.first(_SNAPSHOT))


async def test_a_text_with_nul_is_refused_whole(db: Database) -> None:
    with pytest.raises(psycopg.DataError):
        await db.read(lambda tx: tx.first(_ECHO, said="a\0b"))
    assert await db.read(lambda tx: tx.first(_ECHO, said="ab")) == ("ab",)


async def test_few_statements_stay_prepared_and_an_error_forgets_none(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_pipeline, "PREPARED", 5)

    def many(tx: Tx) -> int:
        for number in [*range(20), *range(20)]:
            assert tx.first(Statement[tuple[int]](text(f"SELECT {number}"))) == (number,)
        return len(tx.all(Statement[Any](text("SELECT name FROM pg_prepared_statements"))))

    def after_an_error(tx: Tx) -> None:
        tx.first(_FAILS)

    for _ in range(3):
        assert await db.scan(many) <= 6
        with pytest.raises(psycopg.errors.DivisionByZero):
            await db.scan(after_an_error)
