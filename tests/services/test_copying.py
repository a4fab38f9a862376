"""What a backup reads is one moment of the database, whatever is written meanwhile.

Seen red: without a transaction of its own that begins before the first table, on either database.
"""

import asyncio
import gzip
import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.db.copying import export_rows
from app.db.database import Database
from app.domain.requests import ExperimentRequest
from app.services import experiments
from tests.support.stage import Stage

pytestmark = pytest.mark.anyio


def rows(file: Path) -> list[dict[str, Any]]:
    """Return what is in a file; nothing while it is being written."""
    try:
        return [orjson.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    except (FileNotFoundError, EOFError):
        return []


async def test_what_is_written_while_a_backup_reads_is_in_none_of_its_tables(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    stage = await Stage.open(db)
    await stage.submit()
    before = len(await stage.events())
    # Experiments are read before their events. A pipe for the events holds the reading up there.
    os.mkfifo(tmp_path / "event.jsonl.gz")
    reading = asyncio.create_task(asyncio.to_thread(export_rows, database_url, tmp_path))
    while not rows(tmp_path / "experiment.jsonl.gz"):
        assert not reading.done(), await reading
        await asyncio.sleep(0.01)
    await stage.submit()
    await db.write(experiments.create, ExperimentRequest(name="late", task_type="t"))
    told = await asyncio.to_thread(rows, tmp_path / "event.jsonl.gz")
    counts = await reading
    (experiment,) = rows(tmp_path / "experiment.jsonl.gz")
    assert [each["seq"] for each in told] == list(range(1, experiment["last_seq"] + 1))
    assert (len(told), counts["event"], counts["run"]) == (before, before, 1)
