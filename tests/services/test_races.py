"""Use cases that meet on one row on PostgreSQL: the later one sees what the earlier one did.

On SQLite one transaction writes at a time. Here a first transaction is held open until the second
waits for it; without the lock it would have read too early and overwritten what the first did.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from app.db.database import Database
from app.db.sql import Tx
from app.db.tables import Checkpoint
from app.domain.evidence import Evidence
from app.domain.paths import CheckpointPath
from app.domain.requests import MarkRequest, ResumeRequest
from app.errors import CheckpointLost, ServiceError
from app.services import checkpoints, endings, marks, resuming, retention, runs, saves
from tests.support.database import dsn, postgresql_only
from tests.support.server import wait_until
from tests.support.stage import RECIPES, SAVED, Stage, manifest

pytestmark = [pytest.mark.anyio, postgresql_only]


async def meet(db: Database, url: str, first: Callable[..., Any], second: Awaitable[Any]) -> Any:
    """Runs the use case `first`, begins `second` before it commits; what `second` came to."""
    done, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold(tx: Tx) -> None:
        first(tx)
        loop.call_soon_threadsafe(done.set)
        assert go_on.wait(60)

    holding = asyncio.create_task(db.write(hold))
    await done.wait()
    waiting = asyncio.ensure_future(second)
    await asyncio.to_thread(wait_until, lambda: waits(url) or waiting.done(), "they meet")
    go_on.set()
    await holding
    return (await asyncio.gather(waiting, return_exceptions=True))[0]


def waits(url: str) -> bool:
    """Return True if a transaction waits for another's lock."""
    with psycopg.connect(dsn(url)) as connection:
        return bool(
            connection.execute(
                "SELECT 1 FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ).fetchall()
        )


def mark(run: Any, name: str, **more: Any) -> MarkRequest:
    path = f"/ckpts/{run.experiment_id}/{run.id}/{name}"
    return MarkRequest.model_validate(
        {"run_id": run.id, "ckpt_path": path, "tag_type": "candidate"} | more
    )


async def test_a_checkpoint_found_good_while_the_run_ends_stays_good(
    db: Database, database_url: str
) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running")
    await stage.report(run, checkpoints=[{"name": "a", "step": 5, "sha256": manifest(5).sha256}])
    announced = await stage.named(run, "a")

    await meet(
        db,
        database_url,
        lambda tx: saves.apply_verification(
            tx, CheckpointPath(run.experiment_id, run.id, "a"), announced.sha256, manifest(5)
        ),
        db.write(
            endings.finish_attempt,
            run.id,
            1,
            Evidence(cancel_asked=False),
            None,
            frozenset({announced.id}),
        ),
    )

    assert (await stage.named(run, "a")).state == "ready"


async def test_a_mark_and_a_new_state_both_stay(db: Database, database_url: str) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running", saved=True)
    saved = await stage.named(run, SAVED)

    await meet(
        db,
        database_url,
        lambda tx: marks.mark(tx, stage.experiment, mark(run, SAVED, release_tag="v1")),
        db.write(lambda tx: checkpoints.mark_lost(tx, saved, "The disk is gone.")),
    )

    both = await stage.named(run, SAVED)
    assert (both.release_tag, both.state) == ("v1", "lost")


async def test_what_a_cancel_falls_back_on_is_known_to_be_lost(
    db: Database, database_url: str
) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running", saved=True)
    saved = await stage.named(run, SAVED)
    await db.write(runs.cancel, run.id)
    promised = await stage.named(run, "cancel-1")

    await meet(
        db,
        database_url,
        lambda tx: saves.apply_verification(
            tx, CheckpointPath(run.experiment_id, run.id, SAVED), saved.sha256, "Bit rot."
        ),
        db.write(
            endings.finish_attempt,
            run.id,
            1,
            Evidence(cancel_asked=False),
            None,
            frozenset({promised.id}),
        ),
    )

    assert (await stage.named(run, "cancel-1")).state == "lost"


@pytest.mark.parametrize("rescue", ["mark", "resume"])
async def test_retention_deletes_nothing_that_is_needed_by_then(
    db: Database, database_url: str, rescue: str
) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running")
    for step in (5, 6):
        await stage.saves(run, f"step-{step}", step, str(step))
    run = await stage.ends(run)

    def need(tx: Tx) -> object:
        if rescue == "mark":
            return marks.mark(tx, stage.experiment, mark(run, "step-5"))
        path = f"/ckpts/{run.experiment_id}/{run.id}/step-5"
        return resuming.resume(tx, run.id, ResumeRequest(ckpt_path=path), RECIPES)

    deleted: list[Checkpoint] = await meet(
        db, database_url, need, db.write(retention.delete, run.id, 1)
    )

    assert deleted == []
    assert (await stage.named(run, "step-5")).state == "ready"


async def test_what_retention_deletes_cannot_be_resumed_from(
    db: Database, database_url: str
) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running")
    for step in (5, 6):
        await stage.saves(run, f"step-{step}", step, str(step))
    run = await stage.ends(run)
    path = f"/ckpts/{run.experiment_id}/{run.id}/step-5"

    refused = await meet(
        db,
        database_url,
        lambda tx: retention.delete(tx, run.id, 1),
        db.write(resuming.resume, run.id, ResumeRequest(ckpt_path=path), RECIPES),
    )

    assert isinstance(refused, CheckpointLost)


async def test_a_release_tag_has_one_holder_whoever_asks_at_once(
    db: Database, database_url: str
) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running")
    outcomes = await asyncio.gather(
        *(
            db.write(marks.mark, stage.experiment, mark(run, f"c{n}", release_tag="v1"))
            for n in range(8)
        ),
        return_exceptions=True,
    )
    refused = [each for each in outcomes if isinstance(each, ServiceError)]
    assert len(refused) == 7
    assert {each.code for each in refused} == {"release_tag_taken"}
