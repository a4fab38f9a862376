"""The spool: what a trainer could not deliver stands in its directory, a request body a line.

It is taken in when the trainer is gone, before its outcome is derived. Whatever else stands there
holds up no end: the file is the trainer's, and disks break.
"""

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from app.domain.reports import ReportRequest
from app.errors import Busy, InvalidInput, RunLimit, ServiceError, Unavailable
from app.services import reports
from app.services.live_runs import LiveRun
from app.storage import files
from app.supervisor.state import SupervisorState
from app.supervisor.verifying import PATIENCE_SECONDS

MOST_LINES = 100
"""The most lines that are in memory at a time."""
MOST_REFUSED = 1000
"""After so many lines that are no reports, the rest of a spool is not read."""
LONGEST_LINE = 1 << 30

log = logging.getLogger(__name__)


async def deliver(state: SupervisorState, run: LiveRun) -> None:
    """Ingest what was not delivered; batches that arrived count once.

    Raises OSError while it cannot be read and the minute after which it is given up is not over;
    Busy and Unavailable. Then all of it is to be tried again.
    """
    about = f"the spool of {run.id}, attempt {run.attempt}"
    try:
        await _deliver(state, run, about)
    except OSError as error:
        since, _ = state.unreadable.setdefault(about, (state.listening_seconds, str(error)))
        if state.listening_seconds - since < PATIENCE_SECONDS:
            raise
        log.error("run %s: %s; what was not delivered is lost", run.id, error)
    state.unreadable.pop(about, None)


async def _deliver(state: SupervisorState, run: LiveRun, about: str) -> None:
    file = await asyncio.to_thread(_open, state.run_dir(run.id), run.attempt)
    if file is None:
        return
    refused = 0
    with file:
        while some := await asyncio.to_thread(_read_some, file, state.settings.max_body_bytes):
            for line in some:
                try:
                    await _ingest(state, run, line)
                except (Busy, Unavailable):
                    raise
                except (ValueError, RecursionError, ServiceError) as error:
                    refused += 1
                    if refused > MOST_REFUSED:
                        log.error("%s: %d lines are no reports; no more is read", about, refused)
                        return
                    log.warning("%s: a line is not used: %s", about, error)


def _open(run_dir: Path, attempt: int) -> BinaryIO | None:
    """Open the spool; None if there is none, or something else in its place."""
    try:
        with files.directory(run_dir.parent, run_dir.name, f"attempt-{attempt}") as folder:
            return os.fdopen(files.open_file(folder, "reports.jsonl"), "rb")
    except FileNotFoundError:
        return None
    except files.Unusable as error:
        log.warning("the spool in %s is not used: %s", run_dir, error.strerror)
        return None


def _read_some(file: BinaryIO, longest: int) -> list[bytes]:
    """Return the next lines: as many as may be, or `longest` bytes of them and one more line."""
    lines: list[bytes] = []
    size = 0
    for line in _read_lines(file, longest):
        lines.append(line)
        size += len(line)
        if len(lines) == MOST_LINES or size > longest:
            break
    return lines


def _read_lines(file: BinaryIO, longest: int) -> Iterator[bytes]:
    """Yield the lines of a file; of one that is too long for a request, its beginning.

    After a line that is longer than any hole of a power cut, nothing more is read.
    """
    while line := file.readline(longest):
        rest, size = line, len(line)
        while len(rest) == longest and not rest.endswith(b"\n"):
            if size > LONGEST_LINE:
                file.seek(0, os.SEEK_END)
                break
            rest = file.readline(longest)
            size += len(rest)
        yield line


async def _ingest(state: SupervisorState, run: LiveRun, line: bytes) -> None:
    """Ingest one batch; as the reporter does, without what is refused where something is."""
    body = json.loads(line)
    unwanted = ["effective_hyperparams", "metrics"]
    while True:
        try:
            report = ReportRequest.model_validate(body)
            if report.attempt == run.attempt:
                await state.db.write(reports.ingest, run.id, report)
            return
        except RunLimit as error:  # it names the part that is too much
            if body.pop(error.errors[0]["pointer"].removeprefix("/"), None) is None:
                raise
        except (ValueError, InvalidInput):
            if not (unwanted and isinstance(body, dict)):
                raise
            body.pop(unwanted.pop(0), None)
