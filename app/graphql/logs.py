"""Logs as GraphQL reads them: pieces of text, charged to the budget of the answer."""

import asyncio
from pathlib import Path
from typing import Any

from app.domain.lifecycle import TERMINAL, is_external
from app.errors import InvalidInput
from app.graphql.context import Context
from app.graphql.scalars import Long
from app.services import log_streams
from app.services.log_streams import TextPart

LOG_TAIL = Long(-65_536)
MAX_LOG = 1_048_576
MAX_OFFSET = 2**53


def run_dir(context: Context, run_id: str) -> Path:
    """Return the directory that holds the log of a run."""
    return context.data_dir / "runs" / run_id


def check_offset(offset: int) -> int:
    """Return an offset that a file can have. Raises InvalidInput."""
    if not -MAX_OFFSET <= offset <= MAX_OFFSET:
        raise InvalidInput("`offset` must be a number of bytes.")
    return offset


async def read_part(context: Context, row: Any, offset: int, limit: int) -> TextPart | None:
    """Return a piece of a run's log, or None where there is none. Raises InvalidInput, NotFound.

    None: the run is external, or retention has removed its log.
    """
    check_offset(offset)
    if not 1 <= limit <= MAX_LOG:
        raise InvalidInput(f"`limit` must be 1 to {MAX_LOG:,} bytes.")
    if is_external(row) or row.log_removed_at is not None:
        return None
    context.budget.charge(limit)
    ended = row.status in TERMINAL
    return await asyncio.to_thread(
        log_streams.read_text, run_dir(context, row.id), offset, limit, ended=ended
    )
