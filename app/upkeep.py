"""`llm-train verify` and `llm-train prune`: what operators do to checkpoints by hand.

Both work on the database itself. SQLite belongs to one process: while a server runs on it, ask
that server (`POST …/checkpoints/verify`, `GET …/retention`) instead.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.domain.recipes import read_recipes
from app.domain.requests import VerifyRequest
from app.services import data_dirs, retention, verification
from app.services.reading import Readers
from app.settings import Settings
from app.store.database import Database, connect
from app.store.tables import Checkpoint


async def verify(
    settings: Settings, experiment_id: str, request: VerifyRequest
) -> list[Checkpoint]:
    """Reads every byte of the checkpoints that are selected; each as it is then.

    Raises NotFound, Unavailable.
    """
    async with _database(settings) as db:
        findings = await verification.inspect(
            db, Readers(1), settings.data_dir, experiment_id, request
        )
        return await db.write(verification.record, findings)


async def prune(settings: Settings, keep: int | None, dry_run: bool) -> list[Checkpoint]:
    """Deletes all but the newest `keep` checkpoints of each run (None: as its recipe says).

    Answers what is deleted, or with `dry_run` would be. Raises RecipeError, Unavailable.
    """
    wanted = keep or retention.kept(read_recipes(settings.recipes))
    async with _database(settings) as db:
        if dry_run:
            return await db.scan(retention.plan, wanted)
        deleted: list[Checkpoint] = []
        for run_id, number in (await db.scan(retention.crowded, wanted)).items():
            deleted += await db.write(retention.delete, run_id, number)
        for each in await db.read(retention.doomed):
            retention.remove(settings.data_dir, each)
            await db.write(retention.gone, [each])
        return deleted


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Database]:
    db = connect(settings.database_url)
    await db.start()
    try:
        await db.read(data_dirs.check, data_dirs.identity(settings.data_dir))
        yield db
    finally:
        await db.stop()
