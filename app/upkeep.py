"""`llm-train verify` and `llm-train prune`: what operators do to checkpoints by hand.

Both work on the database itself, and make none. SQLite belongs to one process: while a server
runs on it, ask that server instead.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.domain.recipes import read_recipes
from app.domain.requests import VerifyRequest
from app.errors import Unavailable
from app.services import data_dirs, retention, verification
from app.services.reading import Readers
from app.settings import Settings
from app.store.database import Database, InUse, connect
from app.store.tables import Checkpoint

_OF_THE_EXPERIMENT = "/v1/experiments/{experiment_id}"
ASK_TO_VERIFY = f"ask it with POST {_OF_THE_EXPERIMENT}/checkpoints/verify"
ASK_TO_PRUNE = (
    "stop it first, or let it delete by its recipes' keep_checkpoints; "
    f"GET {_OF_THE_EXPERIMENT}/retention shows what would be deleted"
)


async def verify(
    settings: Settings, experiment_id: str, request: VerifyRequest
) -> list[Checkpoint]:
    """Reads every byte of the checkpoints that are selected; each as it is then.

    Raises NotFound, Unavailable.
    """
    async with _database(settings, ASK_TO_VERIFY) as db:
        findings = await verification.inspect(
            db, Readers(1), settings.data_dir, experiment_id, request
        )
        return await db.write(verification.record, findings)


async def prune(settings: Settings, keep: int | None, dry_run: bool) -> list[Checkpoint]:
    """Deletes all but the newest `keep` checkpoints of each run (None: as its recipe says).

    Answers what is deleted, or with `dry_run` would be. Raises RecipeError, Unavailable.
    """
    wanted = keep or retention.kept(read_recipes(settings.recipes))
    async with _database(settings, ASK_TO_PRUNE) as db:
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
async def _database(settings: Settings, instead: str) -> AsyncIterator[Database]:
    """The database of the service; `instead`: what to do while a server has it."""
    db = connect(settings.database_url)
    try:
        await asyncio.to_thread(db.prepare, make=False)
        await db.start()
    except Unavailable as error:
        if isinstance(error.__cause__, InUse):
            raise Unavailable(f"{error}; {instead}") from error
        raise
    try:
        await db.read(data_dirs.check, data_dirs.identity(settings.data_dir))
        yield db
    finally:
        await db.stop()
