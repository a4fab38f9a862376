"""When Python's collector of cyclic garbage walks this process, which holds up the event loop.

What start-up has made stays for good and is walked no more; so does, a minute later, what the first
requests and ticks have made: statements, validators, the rows of all that is under way. A full
collection used to walk those for a tenth of a second at a time.
"""

import asyncio
import gc

SETTLE_SECONDS = 60.0
"""After so long most of what is made once has been made."""
THRESHOLD = 20_000
"""A page of rows or a report is more than the usual 700 objects, and none is cyclic."""


def collect_seldom(loop: asyncio.AbstractEventLoop) -> asyncio.TimerHandle:
    """Turn the collector on after start-up; the handle cancels what follows a minute later."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(THRESHOLD)
    return loop.call_later(SETTLE_SECONDS, settle)


def settle() -> None:
    """Collect once, and leave alone what is left."""
    gc.collect()
    gc.freeze()
