"""Readiness tells the truth: a server whose loop is stuck, or that cannot write, is not ready."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app import supervisor as supervising
from app.db.database import Database
from app.domain.recipes import BUILT_IN
from app.settings import Settings
from app.supervisor import Supervisor

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def supervised(db: Database, data_dir: Path) -> AsyncIterator[Supervisor]:
    """A supervisor whose loop turns."""
    settings = Settings(data_dir=data_dir)
    recipes = {each.name: each for each in BUILT_IN}
    supervisor = Supervisor(db, settings, recipes, "s" * 32, "http://127.0.0.1:1", {})
    task = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
    finally:
        await supervisor.stop()
        await task


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


async def test_a_loop_that_does_not_come_round_is_told(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "STUCK_SECONDS", 0.8)
    released, stuck = threading.Event(), threading.Event()

    async def hangs(_: object) -> None:
        stuck.set()
        await asyncio.to_thread(released.wait)

    async with supervised(db, tmp_path / "data") as supervisor:
        await until(lambda: supervisor.describe_trouble() is None)
        monkeypatch.setattr(supervising, "STEPS", (hangs,))
        await until(stuck.is_set)
        await until(lambda: "has not come round" in (supervisor.describe_trouble() or ""))
        monkeypatch.setattr(supervising, "STEPS", ())
        released.set()
        await until(lambda: supervisor.describe_trouble() is None)
    assert supervisor.describe_trouble() == "The supervisor is not running; see the log."


async def test_a_server_that_never_had_its_data_directory_tells_so(
    db: Database, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("in its place")
    async with supervised(db, tmp_path / "data") as supervisor:
        await until(lambda: "Nothing can be written" in (supervisor.describe_trouble() or ""))


async def test_what_cannot_be_written_is_told(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "PROBE_SECONDS", 0.1)
    data_dir, away = tmp_path / "data", tmp_path / "away"
    async with supervised(db, data_dir) as supervisor:
        await until(lambda: supervisor.describe_trouble() is None and data_dir.is_dir())
        data_dir.rename(away)
        data_dir.write_text("in its place")
        await until(lambda: "Nothing can be written" in (supervisor.describe_trouble() or ""))
        data_dir.unlink()
        away.rename(data_dir)
        await until(lambda: supervisor.describe_trouble() is None)
        assert not list(data_dir.glob(".probe-*"))
