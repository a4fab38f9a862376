"""What a trainer printed: the run's log, whole, in part, or as it grows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from app.domain.lifecycle import TERMINAL
from app.errors import NotFound
from app.rest.problems import documented
from app.rest.routes import ExperimentId, RunId
from app.services import runs
from app.store.database import Database

CHUNK = 64 * 1024
MOST = 8 * 1024 * 1024
LOOK_SECONDS = 0.25  # a growing file announces nothing
TYPE = "text/plain; charset=utf-8"

router = APIRouter(prefix="/v1", tags=["runs"])


@router.get(
    "/experiments/{experiment_id}/runs/{run_id}/logs", response_class=Response,
    responses=documented(404)
    | {200: {"content": {"text/plain": {}}, "description": "What the trainer printed."}},
)  # fmt: skip
async def logs(
    request: Request,
    experiment_id: ExperimentId,
    run_id: RunId,
    offset: Annotated[
        int,
        Query(ge=-(2**62), le=2**62, description="First byte; a negative one counts from the end."),
    ] = 0,
    limit: Annotated[
        int, Query(ge=1, le=MOST, description="Bytes at most, without follow.")
    ] = MOST,
    follow: Annotated[bool, Query(description="Go on until the run has ended.")] = False,
) -> Response:
    """The trainer's output. `X-Next-Offset` is the offset to go on from."""
    state = request.app.state
    run = await state.db.read(runs.get, run_id, experiment_id)
    if run.recipe is None:
        raise NotFound("An external run's output is with its own trainer; the service has none.")
    path: Path = state.settings.data_dir / "runs" / run_id / "train.log"
    start = await asyncio.to_thread(_start, path, offset)
    if follow:
        return StreamingResponse(_follow(state.db, run_id, path, start), media_type=TYPE)
    content = await asyncio.to_thread(_read, path, start, limit)
    return Response(content, media_type=TYPE, headers={"X-Next-Offset": str(start + len(content))})


async def _follow(db: Database, run_id: str, path: Path, offset: int) -> AsyncIterator[bytes]:
    with db.changes.subscribe(run_id) as changed:
        while True:
            changed.clear()
            # Asked before reading: what was written before the end is then read for certain.
            over = (await db.read(runs.get, run_id)).status in TERMINAL
            while content := await asyncio.to_thread(_read, path, offset, CHUNK):
                offset += len(content)
                yield content
            if over:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), LOOK_SECONDS)


def _start(path: Path, offset: int) -> int:
    if offset >= 0:
        return offset
    return max(0, path.stat().st_size + offset) if path.exists() else 0


def _read(path: Path, offset: int, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(most)
    except FileNotFoundError:
        return b""
