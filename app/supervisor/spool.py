"""The spool: what a trainer could not deliver stands in its directory, a request body a line.

It is taken in when the trainer is gone, before its end is judged. Whatever else stands there
holds up no end: the file is the trainer's, and disks break.
"""

import asyncio
import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from app.errors import Busy, InvalidInput, ServiceError, Unavailable
from app.services import reports
from app.services.reports import ReportRequest
from app.store.tables import Run
from app.supervisor.desk import Desk
from app.supervisor.verifying import PATIENCE_SECONDS

MOST_LINES = 100
"""How many lines are in memory at a time."""

log = logging.getLogger(__name__)


async def deliver(desk: Desk, run: Run) -> bool:
    """Ingests what was not delivered; batches that arrived count once.

    False: it cannot be read now, and the minute after which it is given up is not over.
    Raises Busy and Unavailable: then all of it is tried again.
    """
    path = desk.run_dir(run.id) / f"attempt-{run.attempt}" / "reports.jsonl"
    about = str(path)
    try:
        await _deliver(desk, run, path)
    except OSError as error:
        since, _ = desk.unreadable.setdefault(about, (desk.attention, str(error)))
        if desk.attention - since < PATIENCE_SECONDS:
            desk.log_throttled(about, "run %s: %s; it is tried again", run.id, error)
            return False
        log.error("run %s: %s; what was not delivered is lost", run.id, error)
    desk.unreadable.pop(about, None)
    return True


async def _deliver(desk: Desk, run: Run, path: Path) -> None:
    file = await asyncio.to_thread(_open, path)
    if file is None:
        return
    with file:
        while some := await asyncio.to_thread(_some, file, desk.settings.max_body_bytes):
            for line in some:
                try:
                    await _ingest(desk, run, line)
                except (Busy, Unavailable):
                    raise
                except (ValueError, RecursionError, ServiceError) as error:
                    log.warning("run %s: a line of %s is not used: %s", run.id, path, error)


def _open(path: Path) -> BinaryIO | None:
    """The spool, if there is one; not waiting for whoever may write into what is no file."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(os.fstat(opened).st_mode):
        return os.fdopen(opened, "rb")
    os.close(opened)
    log.warning("%s is no plain file, and not used", path)
    return None


def _some(file: BinaryIO, longest: int) -> list[bytes]:
    """The next lines: as many as may be, or `longest` bytes of them and one more line."""
    found: list[bytes] = []
    size = 0
    for line in _lines(file, longest):
        found.append(line)
        size += len(line)
        if len(found) == MOST_LINES or size > longest:
            break
    return found


def _lines(file: BinaryIO, longest: int) -> Iterator[bytes]:
    """The lines of a file; of one that is too long for a request, its beginning."""
    while line := file.readline(longest):
        rest = line
        while len(rest) == longest and not rest.endswith(b"\n"):
            rest = file.readline(longest)
        yield line


async def _ingest(desk: Desk, run: Run, line: bytes) -> None:
    """Ingests one batch; as the reporter does, without what is refused where something is."""
    body = json.loads(line)
    for unwanted in ("effective_hyperparams", "metrics", ""):
        try:
            report = ReportRequest.model_validate(body)
            if report.attempt == run.attempt:
                await desk.db.write(reports.ingest, run.id, report)
            return
        except (ValueError, InvalidInput):
            if not (unwanted and isinstance(body, dict)):
                raise
            body.pop(unwanted, None)
