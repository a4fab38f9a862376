"""Reading checkpoints: each may hold 100 GB, and no shutdown waits for that."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Readers:
    """At most `number` readings at a time, each in a thread of its own.

    Threads of an executor are joined at exit: a server that reads 100 GB could not stop.
    """

    def __init__(self, number: int) -> None:
        self._free = asyncio.Semaphore(number)

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what the function returns. A reading that nobody waits for any more goes on, and
        counts, until its end."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()

        def settle(result: R | None, error: BaseException | None) -> None:
            self._free.release()
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def body() -> None:
            result, failure = None, None
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                failure = error
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result, failure)

        try:
            threading.Thread(target=body, name="reading", daemon=True).start()
        except RuntimeError:  # the system gives no more threads
            self._free.release()
            raise
        return await future
