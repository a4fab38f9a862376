"""A run's log as it grows, and as text: what REST streams and GraphQL's subscriptions share.

follow(…)         the bytes as they come, until the run has ended
read_text(…)      one piece as text, cut between characters
follow_text(…)    such pieces as they come, until the run has ended

An offset counts bytes. A piece's `next_offset` is where the next one begins, so a client that
connects again gets nothing twice.
"""

import asyncio
import codecs
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from app.db.database import Database
from app.db.sql import Tx
from app.db.tables import Run
from app.domain.lifecycle import TERMINAL, is_external
from app.errors import LogRemoved, NotFound
from app.services import runs, train_log
from app.services.train_log import Part

CHUNK = 256 * 1024
POLL_SECONDS = 0.25  # there is no notification of a growing file
LONGEST_CHARACTER = 4


class TextPart(NamedTuple):
    """A piece of a log. `offset` is its first byte, `total_bytes` the log's size by then."""

    text: str
    offset: int
    next_offset: int
    total_bytes: int


def get_run(tx: Tx, run_id: str, experiment_id: str | None = None) -> Run:
    """Return a run whose output the service has. Raises NotFound, LogRemoved."""
    run = runs.get(tx, run_id, experiment_id)
    if is_external(run):
        raise NotFound("An external run's output is with its own trainer; the service has none.")
    if run.log_removed_at is not None:
        raise LogRemoved(f"Retention removed this run's log on {run.log_removed_at[:10]}.")
    return run


def start(run_dir: Path, offset: int) -> int:
    """Return the first byte to read; a negative `offset` counts from the end."""
    return offset if offset >= 0 else max(0, train_log.measure_size(run_dir) + offset)


def read_text(run_dir: Path, offset: int, most: int, *, ended: bool) -> TextPart:
    """Return up to `most` bytes from `offset` as text, whole characters only.

    What is not UTF-8 becomes U+FFFD. An incomplete character at the end is left for the next
    piece, unless the run has ended.

    Args:
        offset: may lie within a character: then the piece begins after it. A negative one counts
            from the end.
    """
    begin = start(run_dir, offset)
    part = train_log.read(run_dir, begin, max(most, LONGEST_CHARACTER))
    size = max(part.next_offset, train_log.measure_size(run_dir))
    skipped = 0
    if offset < 0 and begin > 0:  # an offset from a piece before is never within a character
        while skipped < min(len(part.content), LONGEST_CHARACTER - 1) and (
            part.content[skipped] & 0xC0 == 0x80
        ):
            skipped += 1
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    final = ended and part.next_offset >= size
    text = decoder.decode(part.content[skipped:], final)
    held = len(decoder.getstate()[0])
    first = part.next_offset - len(part.content) + skipped
    return TextPart(text, first, part.next_offset - held, size)


async def follow(db: Database, run_id: str, run_dir: Path, offset: int) -> AsyncIterator[Part]:
    """Yield the log as it grows until the run has ended; an empty part while nothing comes."""
    with db.changes.subscribe(run_id) as changed:
        while True:
            changed.clear()
            # Asked before reading: what was written before the end is then read for certain.
            ended = (await db.read(runs.get, run_id)).status in TERMINAL
            while (part := await asyncio.to_thread(train_log.read, run_dir, offset, CHUNK)).content:
                offset = part.next_offset
                yield part
            if ended:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), POLL_SECONDS)
            yield part


async def follow_text(
    db: Database, run_id: str, run_dir: Path, offset: int
) -> AsyncIterator[TextPart]:
    """Yield the log as text as it grows until the run has ended, at once what is there already.

    The first piece comes even if it is empty. Raises NotFound, LogRemoved.
    """
    with db.changes.subscribe(run_id) as changed:
        has_begun = False
        while True:
            changed.clear()
            ended = (await db.read(get_run, run_id)).status in TERMINAL
            while True:
                part = await asyncio.to_thread(read_text, run_dir, offset, CHUNK, ended=ended)
                offset = part.next_offset
                if part.text or not has_begun:
                    has_begun = True
                    yield part
                if not part.text:
                    break
            if ended:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), POLL_SECONDS)
