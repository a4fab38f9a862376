"""A database's runs are launched in one data directory, whoever leads."""

import asyncio
from pathlib import Path

import pytest

from app.db.connect import connect
from app.db.database import Database
from app.errors import Unavailable
from app.services import data_dirs, launches
from app.storage import data_dir, get_storage
from app.storage.readers import Readers
from tests.support.database import postgresql_only
from tests.support.stage import Stage

pytestmark = pytest.mark.anyio


def test_a_data_directory_keeps_its_name(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert data_dir.identity(here) is None
    assert data_dir.get_name(here) == data_dir.get_name(here) == data_dir.identity(here)
    assert data_dir.get_name(there) != data_dir.get_name(here)
    assert [each.name for each in here.iterdir()] == ["id"]


@pytest.mark.parametrize("status", ["queued", "succeeded", "cancelled"])
async def test_with_nothing_under_way_a_new_data_directory_is_ours(
    db: Database, status: str
) -> None:
    stage = await Stage.open(db)
    assert await db.write(data_dirs.adopt, "one", "/one") == (True, None)
    assert await db.write(data_dirs.adopt, "one", "/one") == (True, None)
    await stage.run(status)
    await stage.run("running", recipe=None)  # its trainer has nothing there
    ours, before = await db.write(data_dirs.adopt, "two", "/two")
    assert ours and before is not None and before.path == "/one"
    assert await db.read(data_dirs.get_foreign, "two") is None


@pytest.mark.parametrize("status", ["starting", "running", "cancelling"])
async def test_while_runs_are_under_way_it_stays_the_one_they_are_in(
    db: Database, tmp_path: Path, status: str
) -> None:
    stage = await Stage.open(db)
    await db.write(data_dirs.adopt, "one", "/one")
    await stage.run(status)
    for name in ("two", None):
        found = await db.read(data_dirs.get_foreign, name)
        assert found is not None and found.path == "/one"
    ours, before = await db.write(data_dirs.adopt, "two", "/two")
    assert not ours and before is not None and before.path == "/one"
    assert await db.read(data_dirs.get_foreign, "one") is None
    (tmp_path / "id").write_text("two")
    storage = get_storage("directory:", tmp_path)
    with pytest.raises(Unavailable, match="LLM_TRAIN_DATA_DIR"):
        await data_dirs.require_in_place(db, Readers(1), storage)


async def test_a_leader_of_old_claims_nothing_in_a_directory_that_is_no_longer_ours(
    db: Database,
) -> None:
    stage = await Stage.open(db)
    await db.write(data_dirs.adopt, "one", "/one")
    run = await stage.submit()
    await db.write(data_dirs.adopt, "two", "/two")
    assert await db.write(launches.claim, run, [], None, None, "one") is None
    assert await db.write(launches.claim, run, [], None, None, "two") is not None


@postgresql_only
async def test_a_claim_and_an_adoption_at_the_same_time_do_not_both_succeed(
    db: Database, database_url: str
) -> None:
    """Control: without the row locks (FOR SHARE, FOR UPDATE) both do in some rounds."""
    stage, other = await Stage.open(db), connect(database_url)
    await other.start()
    try:
        here, there = "one", "two"
        for _ in range(40):
            await db.write(data_dirs.adopt, here, here)
            run = await stage.submit()
            claimed, adoption = await asyncio.gather(
                db.write(launches.claim, run, [], None, None, here),
                other.write(data_dirs.adopt, there, there),
            )
            assert (claimed is not None) is not adoption.ours
            if claimed is not None:
                await stage.ends(claimed, exit_code=0)
    finally:
        await other.stop()
