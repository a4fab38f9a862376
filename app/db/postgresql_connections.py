"""Connections to PostgreSQL: how they begin, when they are over, and whose fault that is.

Each writing or scanning thread and each lane of reads keeps one connection, in pipeline mode, for
as long as it works. psycopg_pool does not keep them: it lends connections that are not in that
mode, and its check before a loan costs a round trip (`is_over` looks at the socket). Measured, the
CPU of a transaction of 1, 4 and 32 statements (least of 40 rounds of 25, in turns): 23, 46 and
174 µs on a kept connection; 37, 53 and 188 on one that `ConnectionPool` lends; 82, 121 and 250 on
one that it checks before. While the database is away `ConnectionPool` tries again in the background
with pauses that double, so that requests wait for their time-out instead of being told why; and
`NullConnectionPool` connects under its lock: threads would wait for each other's time-outs.
"""

import logging
import os
import select
import socket
import time
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from app.db import planning
from app.db.database import FEWEST
from app.errors import Unavailable

Connection = psycopg.Connection[tuple[Any, ...]]

# A machine that vanished without a word must not keep its locks for hours.
_KEEP_ALIVE = (
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3"
)
_READ_ONLY = (
    "SET default_transaction_read_only = on; SET default_transaction_isolation = 'repeatable read'"
)

# How many connections this user may have, and how many there are beside this one.
_ROOM = """
SELECT current_setting('max_connections')::int - CASE WHEN rolsuper THEN 0 ELSE
         current_setting('superuser_reserved_connections')::int
         + coalesce(current_setting('reserved_connections', true)::int, 0) END,
       (SELECT count(*) FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid())
  FROM pg_roles WHERE rolname = current_user
"""
ROOM_SECONDS = 5.0

log = logging.getLogger(__name__)


def open_connection(dsn: str, *, reads: bool) -> Connection:
    """Return a new connection, outside of any transaction; `reads`: it can do nothing else."""
    # Tells operators who leads; of this process, also where it was forked after the imports.
    name = f"llm-train {socket.gethostname()} {os.getpid()}"
    connection = psycopg.connect(
        dsn, autocommit=True, connect_timeout=5, fallback_application_name=name
    )
    connection.execute(_KEEP_ALIVE)
    connection.execute(planning.CONNECTION_SETTINGS)
    if reads:
        connection.execute(_READ_ONLY)
    return connection


def require_room(dsn: str, wanted: int) -> None:
    """Raise Unavailable if PostgreSQL has no room for this many connections.

    Those of a server that was killed a moment ago still count, so it waits `ROOM_SECONDS` for them.
    """
    with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
        deadline = time.monotonic() + ROOM_SECONDS
        while True:
            most, used = connection.execute(_ROOM).fetchall()[0]
            room = most - used
            if room >= wanted:
                return
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
    lower = f"set LLM_TRAIN_DATABASE_CONNECTIONS to {room} or less, or " if room >= FEWEST else ""
    raise Unavailable(
        f"of its {most} connections {used} are in use, and this server opens up to {wanted}: "
        f"{lower}raise PostgreSQL's max_connections"
    )


def is_over(connection: Connection) -> bool:
    """Return True if an idle connection has ended, such as by a restart of the database.

    All that a server says on an idle connection is that it ends it (or that its operator
    changed a setting: then a new one does no harm, either).
    """
    if connection.closed:
        return True
    # The driver only logs that a rollback failed (a read that is given up twice can end it). What
    # is written in a transaction that was open before is answered, and never committed.
    if connection.pgconn.transaction_status != TransactionStatus.IDLE:
        return True
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def for_caller(error: BaseException, connection: Connection | None) -> BaseException:
    """Turn the driver's error into Unavailable where the database is away.

    `connection`: the one that it happened on. When the server ends it at an inconvenient moment,
    the driver finds "2 results from COMMIT" or a message of the wrong length, as other errors.
    """
    if isinstance(error, psycopg.Error):
        lost = connection is not None and connection.closed
        away = lost or isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    else:
        away = isinstance(error, OSError)  # the driver had no descriptor: a use case opens nothing
    if not away:
        return error
    log.error("the database failed: %s", error)
    unavailable = Unavailable(
        "The database does not answer; the log says why. Try again.", retry_after=2
    )
    unavailable.__cause__ = error
    return unavailable
