"""What was acknowledged survives kill -9, and what is refused at start is refused in one line."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.server import REPOSITORY, free_port, running_server
from tests.support.writers import Writers

KILLS = 4
READY_SECONDS = 10.0
"""Generous: the machine that tests is busy. `kill_and_start` tells what it was."""


def kill_and_start(home: Path, database_url: str, kills: int, seed: int) -> list[float]:
    """Kills the server again and again under eight writers; the seconds of each start.

    Raises AssertionError when anything acknowledged is lost or anything is done twice.
    """
    chance, port, starts = random.Random(seed), free_port(), []
    with running_server(home, port=port, DATABASE_URL=database_url) as server:
        writers = Writers([server.url], seed=seed)
    with writers:
        for _ in range(kills):
            began = time.monotonic()
            with running_server(
                home, port=port, keep_trainers=True, DATABASE_URL=database_url
            ) as server:
                starts.append(time.monotonic() - began)
                writers.wait_for(1)
                time.sleep(chance.uniform(0, 0.3))  # any instant will do
                os.kill(server.pid, signal.SIGKILL)
        with running_server(home, port=port, DATABASE_URL=database_url):
            writers.stop()
            writers.audit(database_url)
            writers.replay()
    assert writers.retries, "nobody noticed the kills"
    print(
        f"{kills} kills, {len(writers.done)} acknowledged, {writers.retries} retries, 0 lost, "
        f"0 doubled; ready again after {max(starts):.2f} s at most, seed {seed}"
    )
    return starts


def test_what_was_acknowledged_survives_kill_9_and_happened_once(
    tmp_path: Path, database_url: str
) -> None:
    starts = kill_and_start(tmp_path, database_url, KILLS, seed=random.randrange(10**6))
    assert max(starts) < READY_SECONDS


@pytest.mark.parametrize("trouble", ["garbage", "newer", "in use", "PostgreSQL is away", "mysql"])
def test_a_database_that_cannot_be_used_is_one_clear_line(tmp_path: Path, trouble: str) -> None:
    file = tmp_path / "app.db"
    url = f"sqlite:///{file}"
    if trouble == "garbage":
        file.write_text("This is no database. " * 100)
    elif trouble == "newer":
        newer = "CREATE TABLE alembic_version AS SELECT '9999' AS version_num"
        subprocess.run(
            [
                sys.executable,
                "-c",
                f"import sqlite3; sqlite3.connect({str(file)!r}).execute({newer!r})",
            ],
            check=True,
        )
    elif trouble == "PostgreSQL is away":
        url = f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/x"
    elif trouble == "mysql":
        url = "mysql://me:secret@db/x"

    def start() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "app.main"],
            capture_output=True, text=True, cwd=REPOSITORY, timeout=30,
            env={**os.environ, "LLM_TRAIN_DATABASE_URL": url, "LLM_TRAIN_PORT": "0",
                 "LLM_TRAIN_DATA_DIR": str(tmp_path / "other")},
        )  # fmt: skip

    if trouble == "in use":
        with running_server(tmp_path):
            refused = start()
    else:
        refused = start()

    assert refused.returncode == 1
    assert refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert line.startswith("llm-train: ")
    assert "secret" not in line
