"""What goes wrong between the service and PostgreSQL is told as that, and is over afterwards.

Each was seen red: a connection kept after a rollback that failed, what the driver says of a
connection that ends within an answer taken for a bug, threads made when a request needs one, and
a descriptor that is not there taken for a bug.
"""

import asyncio
import os
import resource
import select
import socket
import tempfile
import threading
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import insert, text

from app.db import postgresql
from app.db.database import Database, Job
from app.db.postgresql import PostgresDatabase
from app.db.postgresql_pipeline import Pipeline
from app.db.postgresql_writes import commit
from app.db.sql import Statement, Tx
from app.db.tables import ExperimentTag
from app.domain.principals import SUPERVISOR
from app.domain.requests import ExperimentRequest
from app.errors import Unavailable
from app.services import experiments
from tests.support.database import CONNECTIONS, PostgreSQL, dsn, postgresql_only
from tests.support.server import wait_until

pytestmark = [pytest.mark.anyio, postgresql_only]

ONE = Statement[tuple[int]](text("SELECT 1"))
THERE = Statement[tuple[int]](text("SELECT 1 FROM experiment WHERE id = :id"))
TAG = Statement[Any](insert(ExperimentTag))
WRITERS = PostgresDatabase("postgresql://", CONNECTIONS).writers


def create(tx: Tx) -> str:
    """Writes rows one by one and, as a report does, many at once: in a pipeline."""
    made = experiments.create(tx, ExperimentRequest(name="a", task_type="b"))
    tx.many(TAG, [{"tag": tag, "experiment_id": made.id} for tag in ("x", "y")])
    return made.id


def twice(tx: Tx) -> int:
    """A read that needs a transaction."""
    assert tx.first(ONE) == tx.first(ONE) == (1,)
    return 1


class Wrong(Exception):
    """What a use case raises."""


_finish = Pipeline.finish


def _finish_without_rollback(pipeline: Pipeline, command: str) -> None:
    if command == "ROLLBACK":
        raise psycopg.errors.QueryCanceled
    _finish(pipeline, command)


async def test_a_rollback_that_failed_leaves_no_connection_in_a_transaction(
    db: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold its locks; what is written on it would be answered, and never be committed."""
    left_open = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"
    )
    all_busy = threading.Barrier(WRITERS)
    monkeypatch.setattr(postgresql, "BATCH", 1)

    def wrong(tx: Tx) -> None:
        create(tx)
        twice(tx)  # so that all of it is with the server
        all_busy.wait(60)
        raise Wrong

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "finish", _finish_without_rollback)
        assert await _outcomes(*(db.write(wrong) for _ in range(WRITERS))) == {Wrong}
    with psycopg.connect(dsn(database_url), autocommit=True) as stranger:
        wait_until(lambda: stranger.execute(left_open).fetchone() == (0,), "no transaction is open")
    written = await asyncio.gather(*(db.write(create) for _ in range(2 * WRITERS)))
    with psycopg.connect(dsn(database_url)) as stranger:
        found = {row[0] for row in stranger.execute("SELECT id FROM experiment")}
    assert found == set(written)


async def test_what_meets_the_deletion_of_its_parent_is_done_again(
    db: Database, database_url: str
) -> None:
    """Seen red: it was taken for a bug. Another server deletes what this one has just read."""
    made = await db.write(create)
    looks: list[tuple[int] | None] = []

    def add_tag(tx: Tx) -> bool:
        looks.append(tx.first(THERE, id=made))
        if looks[-1] is None:
            return False
        with psycopg.connect(dsn(database_url), autocommit=True) as other:
            other.execute("DELETE FROM experiment_tag; DELETE FROM event")
            other.execute("DELETE FROM experiment")
        tx.send(TAG, tag="z", experiment_id=made)
        return True

    assert await db.write(add_tag) is False
    assert looks == [(1,), None]


@pytest.mark.parametrize("way", ["read", "scan"])
async def test_a_read_whose_rollback_was_cancelled_spoils_no_other(
    db: Database, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """As it happens when a read that is given up is told so twice."""

    def fails(tx: Tx) -> None:
        twice(tx)
        tx.first(Statement(text("SELECT 1 / 0")))

    call = getattr(db, way)
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "finish", _finish_without_rollback)
        await _outcomes(*(call(fails) for _ in range(20)))
    assert await _outcomes(*(call(twice) for _ in range(20))) == {int}


async def test_no_request_waits_for_a_thread_that_the_system_does_not_give(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    everything = [way(twice) for way in (db.write, db.read, db.scan) for _ in range(20)]
    assert await _outcomes(*everything, db.acquire_leadership()) == {int, bool}


async def test_who_has_no_descriptor_for_a_connection_is_told_to_come_back(db: Database) -> None:
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    outcomes = set()
    for spare in range(4):
        held = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, usual[1]))
        try:
            with suppress(OSError):
                while True:
                    held.append(os.dup(0))
            for _ in range(spare):
                os.close(held.pop())
            outcomes |= await _outcomes(db.write(create))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, usual)
            for descriptor in held:
                os.close(descriptor)
    assert outcomes == {Unavailable, str}
    assert await _outcomes(*(db.write(create) for _ in range(2 * WRITERS))) == {str}


class Line:
    """A socket that leads to PostgreSQL and ends where it is told to, one connection at a time."""

    def __init__(self, directory: Path, target: Path) -> None:
        self.messages = 0  # from the server, of the last connection
        self.most: int | None = None
        self.goodbye = b""
        self.directory = directory
        self._target = str(target / ".s.PGSQL.5432")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / ".s.PGSQL.5432"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
                    server.connect(self._target)
                    self._carry(client, server)

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        self.messages, received = 0, b""
        while True:
            ready, _, _ = select.select([client, server], [], [])
            if client in ready:
                if not (data := client.recv(65536)):
                    return
                server.sendall(data)
            if server in ready:
                received += server.recv(65536)
                while len(received) > (size := int.from_bytes(received[1:5])) > 0:
                    if self.messages == self.most:
                        client.sendall(self.goodbye)
                        return
                    client.sendall(received[: size + 1])
                    received = received[size + 1 :]
                    self.messages += 1


@pytest.fixture
def line(postgresql: PostgreSQL) -> Iterator[Line]:
    # The path of a socket is short; that of `tmp_path` is not.
    with tempfile.TemporaryDirectory() as directory:
        line = Line(Path(directory), postgresql.directory)
        yield line
        line.close()


FATAL = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"
GOODBYE = b"E" + (len(FATAL) + 4).to_bytes(4, "big") + FATAL


@pytest.mark.parametrize("goodbye", [b"", GOODBYE], ids=["without a word", "with a word"])
def test_wherever_a_connection_ends_it_was_the_database(
    line: Line, database_url: str, goodbye: bytes
) -> None:
    """The server ends it before each of its messages in turn, also between those of a COMMIT."""
    base, _, _ = database_url.partition("?")
    url, line.goodbye = f"{base}?host={quote(str(line.directory), safe='')}", goodbye
    assert _write(url) is str
    messages, outcomes = line.messages, []
    for line.most in range(messages):
        outcomes.append(_write(url))
    assert messages > 40
    assert outcomes[:-1] == [Unavailable] * (messages - 1)
    # The last message follows the confirmation of the COMMIT.
    assert outcomes[-1] in (Unavailable, str)
    line.most = None
    assert _write(url) is str


def _write(url: str) -> type:
    """Return what becomes of a write on a new connection, as a caller is told it."""
    database = PostgresDatabase(url)
    nobody: Any = None
    job = Job(create, nobody, SUPERVISOR)
    (outcome,) = commit(database._own_writer, [job], database._rights)
    for connection in database._connections:
        connection.close()
    return type(outcome.error or outcome.result)


async def _outcomes(*calls: Awaitable[object]) -> set[type]:
    """The types of what comes of these, all at once."""
    return {type(each) for each in await asyncio.gather(*calls, return_exceptions=True)}
