"""Several servers on one database."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psycopg

from tests.support.database import dsn
from tests.support.server import running_server
from tests.support.service import Home, Service


@contextmanager
def replica(place: Home, database_url: str, **more: Any) -> Iterator[Service]:
    """One more server on the same database and data directory."""
    settings: dict[str, Any] = {**place.settings, "DATABASE_URL": database_url, **more}
    with running_server(place.path, keep_trainers=True, **settings) as server:
        service = Service(server.url, server.pid, place.path, server.log, place.experiment)
        with service.http:
            place.experiment = service.experiment or service.open()
            try:
                yield service
            except BaseException:
                log = Path(unquote(database_url.rpartition("host=")[2]), "log").read_text()
                print(f"PostgreSQL, the end of its log:\n{log[-5_000:]}")
                raise


def leader(database_url: str) -> int | None:
    """The pid of the server that leads."""
    with psycopg.connect(dsn(database_url)) as database:
        row = database.execute(
            "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'advisory' AND objid = %s AND granted",
            (0x6C6C6D74,),
        ).fetchone()
    return int(row[0].split()[-1]) if row else None
