"""`Database` keeps its promises on SQLite and on PostgreSQL: nothing lost, nothing half."""

import asyncio
import errno
import fcntl
import os
import resource
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from itertools import chain
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    MetaData,
    Table,
    bindparam,
    create_engine,
    insert,
    select,
    text,
)
from sqlalchemy import update as update_

from app.db import postgresql, sqlite, sqlite_file
from app.db.connect import connect
from app.db.database import Database
from app.db.postgresql import PostgresDatabase
from app.db.rows import EventRow
from app.db.sql import Statement, Tx
from app.db.sqlite_file import own
from app.domain.requests import ExperimentRequest
from app.errors import Busy, Unavailable
from app.services import events, experiments
from tests.support.database import dsn, postgresql_only, sqlite_only
from tests.support.disk import unsynced_pages
from tests.support.server import free_port, wait_until

pytestmark = pytest.mark.anyio

_metadata = MetaData()
_account = Table(
    "purse", _metadata, Column("id", Integer, primary_key=True), Column("value", Integer)
)
_child = Table(
    "child",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("parent", ForeignKey("purse.id", deferrable=True, initially="DEFERRED")),
)
_OPEN = Statement[Any](insert(_account))
_PEEK = Statement[tuple[int]](select(_account.c.value).where(_account.c.id == bindparam("key")))
_LOCK = Statement[tuple[int]](
    select(_account.c.value).where(_account.c.id == bindparam("key")).with_for_update()
)
_SET = Statement[Any](
    update_(_account).where(_account.c.id == bindparam("key")).values(value=bindparam("value"))
)
_ORPHAN = Statement[Any](insert(_child))


@pytest.fixture
async def accounts(db: Database, database_url: str) -> Database:
    """A database with two accounts, 1 and 2, of value 0, and a table of orphans to be."""
    engine = create_engine(database_url)
    _metadata.create_all(engine)
    engine.dispose()
    await db.write(lambda tx: tx.many(_OPEN, [{"id": 1, "value": 0}, {"id": 2, "value": 0}]))
    return db


def add(tx: Tx, amount: int, key: int = 1, lock: Statement[tuple[int]] = _LOCK) -> int:
    """Reads, computes, writes: what a lost update spoils."""
    found = tx.first(lock, key=key)
    assert found is not None
    tx.run(_SET, key=key, value=found[0] + amount)
    return found[0] + amount


@pytest.mark.parametrize("kind", ["write", "read", "scan"])
async def test_the_time_of_each_transaction_is_counted_with_its_wait(
    accounts: Database, kind: str
) -> None:
    def slow(tx: Tx) -> None:
        peek(tx)
        time.sleep(0.11)

    def broken(tx: Tx) -> None:
        raise ValueError

    took = accounts.durations[kind]
    before, seconds = took.cumulative(), took.seconds
    run = getattr(accounts, kind)
    await asyncio.gather(*(run(slow) for _ in range(3)))
    with pytest.raises(ValueError):
        await run(broken)
    more = {bound: n - old for (bound, n), (_, old) in zip(took.cumulative(), before, strict=True)}
    assert more["+Inf"] == 4, "what fails has waited, too"
    assert more["0.1"] <= 1 and more["10.0"] == 4
    least = 0.11 * (5 if kind == "write" else 3)
    assert took.seconds - seconds >= least, (
        "writes wait for each other: 1 + 2 + 3 times that, almost"
    )


def peek(tx: Tx, key: int = 1) -> int:
    found = tx.first(_PEEK, key=key)
    assert found is not None
    return found[0]


def committed(url: str) -> int:
    """The value of account 1 that a stranger sees."""
    if url.startswith("sqlite"):
        connection: Any = sqlite3.connect(url.removeprefix("sqlite:///"))
    else:
        connection = psycopg.connect(dsn(url))
    row = connection.execute("SELECT value FROM purse WHERE id = 1").fetchone()
    connection.close()
    return int(row[0])


def wal(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///") + "-wal")


def modes(directory: Path, prefix: str = "") -> dict[str, int]:
    return {each.name: each.stat().st_mode & 0o777 for each in directory.glob(f"{prefix}*")}


def size(path: Path) -> int:
    return path.stat().st_size


@asynccontextmanager
async def held_up(db: Database) -> AsyncIterator[int]:
    """Every worker of the database is busy inside this block; what comes meanwhile waits.

    Yields how many calls that took.
    """
    workers = db.writers if isinstance(db, PostgresDatabase) else 1
    busy, release = threading.Semaphore(0), threading.Event()

    def wait(tx: Tx) -> None:
        busy.release()
        assert release.wait(60)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):  # one after the other: two that wait may share a transaction
            group.create_task(db.write(wait))
            assert await asyncio.to_thread(busy.acquire, timeout=60)
        try:
            yield workers
        finally:
            release.set()


async def together(db: Database, *calls: Awaitable[Any]) -> list[Any]:
    """Lets calls wait behind busy workers, so that SQLite runs them as one batch."""
    async with held_up(db):
        waiting = asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0)
    return list(await waiting)


@asynccontextmanager
async def another(db: Database, url: str) -> AsyncIterator[Database]:
    """A second server's view of the same PostgreSQL; SQLite has one server only."""
    if db.dialect == "sqlite":
        yield db
        return
    second = connect(url)
    await second.start()
    yield second
    await second.stop()


# No update is lost.


async def test_1600_increments_of_8_writers_are_all_there(
    accounts: Database, database_url: str
) -> None:
    async with another(accounts, database_url) as second:

        async def writer(db: Database) -> list[int]:
            return [await db.write(add, 1) for _ in range(200)]

        answers = await asyncio.gather(*map(writer, [accounts, second] * 4))

    assert await accounts.read(peek) == 1600
    # Each caller got the answer to its own call: every value once, and in its order.
    assert sorted(chain(*answers)) == list(range(1, 1601))
    assert all(each == sorted(each) for each in answers)


@postgresql_only
async def test_control_without_the_lock_the_same_increments_are_lost(
    accounts: Database, database_url: str
) -> None:
    both_have_read = threading.Barrier(2)

    def careless(tx: Tx) -> None:
        found = peek(tx)
        both_have_read.wait(60)
        tx.run(_SET, key=1, value=found + 1)

    async with another(accounts, database_url) as second:
        await asyncio.gather(accounts.write(careless), second.write(careless))

    assert await accounts.read(peek) == 1


def beside(database_url: str) -> closing[sqlite3.Connection]:
    """The connection of a tool that works on the server's file."""
    path = database_url.removeprefix("sqlite:///")
    return closing(sqlite3.connect(path, isolation_level=None, timeout=60))


@sqlite_only
async def test_a_tool_that_writes_beside_the_server_locks_nobody_out(
    accounts: Database, database_url: str
) -> None:
    def tool() -> None:
        with beside(database_url) as connection:
            for _ in range(200):
                connection.execute("BEGIN IMMEDIATE")
                (value,) = connection.execute("SELECT value FROM purse WHERE id = 1").fetchone()
                connection.execute("UPDATE purse SET value = ? WHERE id = 1", (value + 1,))
                connection.execute("COMMIT")

    async def server() -> None:
        for _ in range(200):
            await accounts.write(add, 1)

    await asyncio.gather(asyncio.to_thread(tool), server())
    assert await accounts.read(peek) == 400


@sqlite_only
async def test_control_the_two_do_collide_where_a_tool_reads_before_it_writes(
    accounts: Database, database_url: str
) -> None:
    with beside(database_url) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT value FROM purse WHERE id = 1").fetchone()
        await accounts.write(add, 1)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("UPDATE purse SET value = 0 WHERE id = 1")
    assert await accounts.read(peek) == 1


async def test_the_seq_of_events_has_no_gaps_whoever_writes_and_whatever_fails(
    db: Database, database_url: str
) -> None:
    experiment = await db.write(experiments.create, ExperimentRequest(name="a", task_type="sft"))

    def append(tx: Tx, fail: bool) -> None:
        events.append(tx, experiment.id, "test")
        if fail:
            raise ValueError

    async with another(db, database_url) as second:
        outcomes = await asyncio.gather(
            *(each.write(append, i % 5 == 0) for i in range(100) for each in (db, second)),
            return_exceptions=True,
        )

    written: list[EventRow] = await db.read(events.list_after, experiment.id, 0, 1000)
    assert outcomes.count(None) == 160
    assert [event.seq for event in written] == list(range(1, 162))


# All or nothing, and for each its own.


async def test_a_use_case_that_fails_after_a_write_takes_nobody_with_it(accounts: Database) -> None:
    def fail(tx: Tx, after_writing: bool) -> None:
        if after_writing:
            add(tx, 1000)
        raise ValueError(f"after writing: {after_writing}")

    answers = await together(
        accounts,
        *(
            accounts.write(fail, n == 3) if n in (3, 6) else accounts.write(add, 1)
            for n in range(10)
        ),
    )

    assert [str(each) for each in answers if isinstance(each, ValueError)] == [
        "after writing: True",
        "after writing: False",
    ]
    assert sorted(each for each in answers if isinstance(each, int)) == list(range(1, 9))
    assert await accounts.read(peek) == 8


async def test_who_is_answered_finds_it_committed(accounts: Database, database_url: str) -> None:
    for n in range(1, 21):
        assert await accounts.write(add, 1) == n
        assert committed(database_url) == n


async def test_a_scan_sees_one_snapshot_while_writes_commit(accounts: Database) -> None:
    has_read, has_changed = threading.Event(), threading.Event()

    def look_twice(tx: Tx) -> tuple[int, int]:
        before = peek(tx, 1)
        has_read.set()
        assert has_changed.wait(60)
        return before, peek(tx, 2)

    def transfer(tx: Tx) -> None:
        add(tx, -7, 1)
        add(tx, 7, 2)

    has_changed.set()
    assert await accounts.scan(look_twice) == (0, 0)  # PostgreSQL learns that it takes two looks
    has_changed.clear()
    has_read.clear()
    scan = asyncio.create_task(accounts.scan(look_twice))
    await asyncio.to_thread(has_read.wait, 10)
    await accounts.write(transfer)
    has_changed.set()

    assert await scan == (0, 0)
    assert await accounts.scan(look_twice) == (-7, 7)


@pytest.mark.parametrize("way", ["read", "scan"])
async def test_a_read_of_several_statements_is_one_snapshot(
    accounts: Database, database_url: str, way: str
) -> None:
    """However many it executes, and however often it is asked."""

    def transfer(tx: Tx) -> None:
        add(tx, -1, 1)
        add(tx, 1, 2)

    def sums(tx: Tx) -> int:
        return peek(tx, 1) + peek(tx, 2)

    async def look() -> set[int]:
        return {await getattr(accounts, way)(sums) for _ in range(200)}

    async def change() -> None:
        for _ in range(200):
            await accounts.write(transfer)

    found, *_ = await asyncio.gather(look(), change(), change())
    assert found == {0}


@pytest.mark.parametrize("way", ["read", "scan"])
async def test_a_read_cannot_write(accounts: Database, way: str) -> None:
    with pytest.raises(Exception, match=r"read-?only"):
        await getattr(accounts, way)(lambda tx: tx.run(_SET, key=1, value=1))

    assert await accounts.write(add, 1) == 1


async def test_answers_that_come_while_the_loop_is_busy_each_find_their_caller(
    accounts: Database, database_url: str
) -> None:
    second_waits = threading.Event()

    def slow_add(tx: Tx) -> int:
        assert second_waits.wait(60)
        return add(tx, 1)

    first = asyncio.ensure_future(accounts.write(slow_add))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(accounts.write(add, 1))
    await asyncio.sleep(0)
    second_waits.set()
    # Synchronously: the loop sees neither answer before both are committed.
    wait_until(lambda: committed(database_url) == 2, "both are committed")

    assert {await asyncio.wait_for(first, 60), await asyncio.wait_for(second, 60)} == {1, 2}


# Failures and limits.


async def test_a_commit_that_fails_is_told_to_its_caller_only(accounts: Database) -> None:
    def orphan(tx: Tx) -> None:
        tx.run(_ORPHAN, id=1, parent=99)  # checked at COMMIT

    first, failed, second = await together(
        accounts, accounts.write(add, 1), accounts.write(orphan), accounts.write(add, 1)
    )

    assert isinstance(failed, sqlite3.IntegrityError | psycopg.errors.ForeignKeyViolation)
    assert {first, second} == {1, 2}
    assert await accounts.write(add, 1) == 3


@sqlite_only
async def test_a_full_disk_is_told_to_everyone_and_spoils_nothing(
    accounts: Database, database_url: str
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def fill_the_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size(wal(database_url)), hard))

    try:
        failed = await together(
            accounts, fill_the_disk(), *(accounts.write(add, 1) for _ in range(5))
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert [type(each) for each in failed[1:]] == [Unavailable] * 5, failed
    assert await accounts.write(add, 1) == 1


@sqlite_only
async def test_a_statement_that_makes_sqlite_roll_back_undoes_no_neighbour(
    accounts: Database,
) -> None:
    """As a full disk can. What follows in the batch must not commit statement by statement."""

    def fail(tx: Tx) -> None:
        tx.run(Statement(text("INSERT OR ROLLBACK INTO purse (id, value) VALUES (1, 0)")))

    first, failed, second = await together(
        accounts, accounts.write(add, 1), accounts.write(fail), accounts.write(add, 1)
    )

    assert isinstance(failed, sqlite3.IntegrityError)
    assert (first, second) == (1, 2)
    assert await accounts.read(peek) == 2


async def test_too_many_waiting_are_refused_and_the_refusal_ends(
    accounts: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "MAX_WAITING", 20)
    monkeypatch.setattr(postgresql, "MAX_WAITING", 20)
    async with held_up(accounts) as busy:
        waiting = [asyncio.ensure_future(accounts.write(add, 1)) for _ in range(20 - busy)]
        await asyncio.sleep(0)
        with pytest.raises(Busy) as refused:
            await accounts.write(add, 1)
        # Callers that go away do not make room: what they asked for still waits.
        for each in waiting[:5]:
            each.cancel()
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await accounts.write(add, 1)
    assert refused.value.retry_after == 1
    done = await asyncio.gather(*waiting, return_exceptions=True)

    assert sum(isinstance(each, asyncio.CancelledError) for each in done) == 5
    # Room again, also for what the five left behind, which may be done or not.
    await asyncio.gather(*(accounts.write(add, 1) for _ in range(10)))
    assert len(done) + 5 <= await accounts.read(peek) <= len(done) + 10


async def test_stop_finishes_what_was_accepted_and_refuses_the_rest(
    accounts: Database, database_url: str
) -> None:
    async with held_up(accounts):
        waiting = asyncio.gather(*(accounts.write(add, 1) for _ in range(100)))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(accounts.stop())
        await asyncio.sleep(0)
        for way in (accounts.write, accounts.read, accounts.scan):
            with pytest.raises(Unavailable):
                await way(peek)
    await stopping
    assert sorted(await waiting) == list(range(1, 101))

    again = connect(database_url)
    await again.start()
    assert await again.read(peek) == 100
    await again.stop()


# On disk before it is answered.


@sqlite_only
@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
async def test_what_is_answered_is_on_disk(
    accounts: Database, database_url: str, synchronous: str
) -> None:
    """With NORMAL, which a power cut would undo, the same look finds unwritten pages: the control.

    "Power cut" is literal: a database copied at this instant, less the pages that the kernel
    still holds in memory only, is what the next start would find.
    """
    log = wal(database_url)
    assert isinstance(accounts, sqlite.SqliteDatabase)
    if synchronous != "FULL":
        accounts._writer.execute(f"PRAGMA synchronous = {synchronous}")
    unsynced = []
    for _ in range(20):
        await accounts.write(add, 1)
        unsynced.append(unsynced_pages(log))

    assert (max(unsynced) > 0) == (synchronous != "FULL")


# PostgreSQL, and several servers on it.


async def listens(db: Database, woken: asyncio.Event) -> None:
    """Returns once changes of exp_1 arrive, after the wake-up for all that was missed before."""
    async with asyncio.timeout(60):
        while not woken.is_set():
            await db.write(lambda tx: tx.notify("exp_1"))
            await asyncio.sleep(0.02)


@postgresql_only
async def test_a_change_wakes_the_subscribers_of_the_other_server(
    db: Database, database_url: str
) -> None:
    async with another(db, database_url) as second:
        with second.changes.subscribe("exp_1") as woken, second.changes.subscribe("exp_2") as not_:
            await listens(db, woken)
            not_.clear()
            async with asyncio.timeout(1):
                for _ in range(5):
                    woken.clear()
                    await db.write(lambda tx: tx.notify("exp_1"))
                    await woken.wait()
            assert not not_.is_set()


@postgresql_only
async def test_one_server_leads_and_the_other_takes_over_when_it_is_gone(
    db: Database, database_url: str
) -> None:
    async with another(db, database_url) as second:
        assert [await each.acquire_leadership() for each in (db, second, db, second)] == [
            True,
            False,
        ] * 2
        async with another(db, database_url) as third:
            assert not await third.acquire_leadership()
        _end_connections(database_url)
        assert [await db.acquire_leadership(), await second.acquire_leadership()] == [
            False,
            False,
        ]  # both notice
        assert [await second.acquire_leadership(), await db.acquire_leadership()] == [True, False]


@postgresql_only
async def test_a_database_that_comes_back_is_used_again(
    accounts: Database, database_url: str
) -> None:
    with accounts.changes.subscribe("exp_1") as woken:
        await asyncio.gather(*(accounts.write(add, 1) for _ in range(20)))
        await listens(accounts, woken)
        woken.clear()
        _end_connections(database_url)
        outcomes = await asyncio.gather(
            *(accounts.write(add, 1) for _ in range(40)), return_exceptions=True
        )
        assert {type(each) for each in outcomes} <= {int, Unavailable}
        await asyncio.gather(*(accounts.write(add, 1) for _ in range(20)))
        done = sum(isinstance(each, int) for each in outcomes)
        assert await accounts.read(peek) == 40 + done
        await asyncio.wait_for(woken.wait(), 60)  # it listens again, and says so


@postgresql_only
async def test_after_a_restart_of_the_database_the_first_request_is_answered(
    accounts: Database, database_url: str
) -> None:
    assert (await accounts.write(add, 1), await accounts.read(peek)) == (1, 1)
    _end_connections(database_url)
    assert (await accounts.write(add, 1), await accounts.read(peek)) == (2, 2)


@postgresql_only
async def test_whatever_goes_wrong_while_listening_it_listens_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connects, failed = psycopg.connect, list[str]()

    def fails_once(*args: Any, **kwargs: Any) -> Any:
        if "fallback_application_name" not in kwargs and not failed:
            failed.append("once")
            raise ValueError("something nobody thought of")
        return connects(*args, **kwargs)

    database = connect(database_url)
    database.prepare()
    monkeypatch.setattr("app.db.postgresql.psycopg.connect", fails_once)
    await database.start()
    with database.changes.subscribe("exp_1") as woken:
        await listens(database, woken)
    assert failed
    await database.stop()


def _end_connections(url: str) -> None:
    with psycopg.connect(dsn(url), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


# Starting.


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), "unable to open"),
        (lambda path: path.write_text("not a database, " * 100), "file is not a database"),
        (lambda path: _of_revision(path, "9999"), "newer version"),
        (lambda path: own(path.with_name("app.db-owner")), "another server is using it"),
    ],
    ids=["a directory", "garbage", "newer", "in use"],
)
async def test_a_file_that_cannot_be_used_is_told_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    path = tmp_path / "app.db"
    make(path)
    with pytest.raises(Unavailable, match=said) as refused:
        connect(f"sqlite:///{path}").prepare()
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_server_waits_for_one_before_it_that_is_ending(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    of_former = own(path.with_name("app.db-owner"))
    former = threading.Timer(0.2, os.close, [of_former])
    former.start()
    database = connect(f"sqlite:///{path}")
    await database.start()
    former.join()
    await database.stop()


def _of_revision(path: Path, revision: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    connection.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    connection.commit()
    connection.close()


async def test_a_postgresql_that_is_away_is_told_in_one_sentence_without_its_password() -> None:
    url = f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/db"
    with pytest.raises(Unavailable, match="refused") as away:
        connect(url).prepare()
    assert "\n" not in str(away.value)
    assert "secret" not in str(away.value)


@pytest.mark.parametrize("url", ["mysql://x", "sqlite:///", "sqlite:///:memory:", "app.db"])
async def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:///FILE"):
        connect(url)


async def test_options_that_a_sqlite_file_does_not_take_are_refused(tmp_path: Path) -> None:
    # Half of this service would open the file `app.db?timeout=30`.
    with pytest.raises(ValueError, match=r"leave out '\?timeout=30'"):
        connect(f"sqlite:///{tmp_path}/app.db?timeout=30")


@pytest.mark.parametrize("name", ["app#1.db", "a%20b.db", "a b;c=d.db", "a&b.db"])
async def test_a_file_of_any_other_name_is_one_file(tmp_path: Path, name: str) -> None:
    database = connect(f"sqlite:///{tmp_path}/{name}")
    await database.start()
    try:
        made = await database.write(experiments.create, ExperimentRequest(name="a", task_type="b"))
        assert (await database.read(experiments.get, made.id)).name == "a"
    finally:
        await database.stop()
    assert set(modes(tmp_path)) <= {name + end for end in ("", "-owner", "-wal", "-shm")}


async def test_the_file_and_what_sqlite_lays_beside_it_are_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        (tmp_path / "old.db").touch(0o644)
        for name in ("new.db", "old.db"):
            database = connect(f"sqlite:///{tmp_path / name}")
            await database.start()
            await database.write(experiments.create, ExperimentRequest(name="a", task_type="b"))
            found = modes(tmp_path, name)
            await database.stop()
            assert set(found) >= {name, f"{name}-wal"}
            assert set(found.values()) == {0o600}, found
    finally:
        os.umask(before)


@pytest.mark.parametrize("call", ["flock", "lockf"])
async def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """As NFS answers without its lock service."""

    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, call, refuse)
    kind = sqlite_file.file_system(tmp_path)
    with pytest.raises(Unavailable, match=rf"its file system \({kind}\) has no locks.*PostgreSQL"):
        connect(f"sqlite:///{tmp_path}/app.db").prepare()
