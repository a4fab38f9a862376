"""The schedule of Python's cyclic garbage collector, which holds up the event loop while it runs.

Objects made at start-up stay for good and are frozen, so that the collector skips them; a minute
later, so are those that the first requests and ticks have made: statements, validators, the rows
of active runs. A full collection used to walk them all for a tenth of a second at a time.
"""

import asyncio
import gc

SETTLE_SECONDS = 60.0
"""By then, most objects that are made once exist."""
THRESHOLD = 20_000
"""A page of rows or a report is more than the usual 700 objects, and none is cyclic."""


def collect_seldom(loop: asyncio.AbstractEventLoop) -> asyncio.TimerHandle:
    """Turn the collector on after start-up; the handle cancels what follows a minute later."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(THRESHOLD)
    return loop.call_later(SETTLE_SECONDS, settle)


def settle() -> None:
    """Collect once, and freeze all objects that remain."""
    gc.collect()
    gc.freeze()
