"""What was acknowledged survives kill -9 of the server, and happened once."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos.races import server_kills
from tests.support.server import running_server
from tests.support.writers import Writers


def test_what_was_acknowledged_survives_kill_9_and_happened_once(
    tmp_path: Path, database_url: str
) -> None:
    assert server_kills(tmp_path, 4, random.randrange(10**6), database_url) == []


def test_the_audit_finds_what_is_lost_or_done_twice(tmp_path: Path) -> None:
    with running_server(tmp_path) as server, Writers([server.url]) as writers:
        writers.wait_for(30)
        writers.stop()
        writers.audit(server.database_url)
        one, other = [key for key in writers.done if key.endswith("-submit")][:2]

        def rename(key: str, to: str) -> None:
            with closing(sqlite3.connect(tmp_path / "app.db")) as database, database:
                database.execute("UPDATE run SET model = ? WHERE model = ?", (to, key))

        rename(one, other)
        with pytest.raises(AssertionError, match=f"1 acknowledged and lost: .'{one}'"):
            writers.audit(server.database_url)
        del writers.done[one]
        with pytest.raises(AssertionError, match=f"1 done twice: .'{other}'"):
            writers.audit(server.database_url)
