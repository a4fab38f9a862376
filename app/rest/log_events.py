"""A run's log as server-sent events: whole lines, and with each event the offset to go on from.

A proxy ends a connection on which nothing comes (nginx: after 60 s), so a silent trainer's stream
carries comments.
"""

import re
import time
from collections.abc import AsyncIterator

from app.services.train_log import Part

TYPE = "text/event-stream; charset=utf-8"
KEEP_ALIVE_SECONDS = 15.0
LONGEST_LINE = 256 * 1024
_LINE_END = re.compile(r"\r\n|\n|\r")


async def stream_events(parts: AsyncIterator[Part], offset: int) -> AsyncIterator[str]:
    """Yield the events of a log that begins at `offset`; an empty part is a moment of silence.

    The last event is `end`: the run has ended, and a client need not connect again.
    """
    held = b""
    told_at = time.monotonic()
    async for part in parts:
        held += part.content
        offset = part.next_offset
        if end := _end_of_lines(held):
            lines, held = held[:end], held[end:]
            yield _event(lines, offset - len(held))
            told_at = time.monotonic()
        elif time.monotonic() - told_at >= KEEP_ALIVE_SECONDS:
            yield ": the run goes on\n\n"
            told_at = time.monotonic()
    if held:
        yield _event(held, offset)
    yield f"id: {offset}\nevent: end\ndata: the run has ended\n\n"


def _end_of_lines(held: bytes) -> int:
    """Return how many bytes are whole lines, or what is one event of a line without an end."""
    # A line feed may be about to follow a carriage return.
    end = max(held.rfind(b"\n"), held.rfind(b"\r", 0, len(held) - 1)) + 1
    if end or len(held) < LONGEST_LINE:
        return end
    end = len(held)
    while held[end - 1] & 0xC0 == 0x80 and len(held) - end < 3:  # not within a character
        end -= 1
    return end - 1 if held[end - 1] >= 0xC0 else len(held)


def _event(content: bytes, offset: int) -> str:
    lines = _LINE_END.split(content.decode("utf-8", "replace"))
    if len(lines) > 1 and not lines[-1]:
        lines.pop()
    return f"id: {offset}\n" + "".join(f"data: {line}\n" for line in lines) + "\n"
