"""What was acknowledged survives kill -9 of the server, and happened once."""

import os
import random
import signal
import time
from pathlib import Path

from tests.support.server import free_port, running_server
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
