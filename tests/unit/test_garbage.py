"""What the collector of cyclic garbage leaves alone (app/server/garbage.py)."""

import asyncio
import gc
import time
from collections.abc import Iterator

import pytest

from app.server import garbage
from tests.support.server import PATIENCE_SECONDS


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    threshold, was_on = gc.get_threshold(), gc.isenabled()
    yield
    gc.set_threshold(*threshold)
    if not was_on:
        gc.disable()


@pytest.mark.anyio
async def test_what_the_first_minute_made_is_walked_once_and_never_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(garbage, "SETTLE_SECONDS", 0.05)
    garbage.collect_seldom(asyncio.get_running_loop())
    at_start = gc.get_freeze_count()
    made = [[number] for number in range(50_000)]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while gc.get_freeze_count() < at_start + len(made) // 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert gc.get_threshold()[0] == garbage.THRESHOLD and gc.isenabled()


@pytest.mark.anyio
async def test_a_service_that_ends_before_that_settles_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(garbage, "SETTLE_SECONDS", 0.05)
    garbage.collect_seldom(asyncio.get_running_loop()).cancel()
    frozen = gc.get_freeze_count()
    await asyncio.sleep(0.2)
    assert gc.get_freeze_count() <= frozen
