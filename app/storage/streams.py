"""Streams between the event loop and storages, which block: a body into a call, a file out of one.

    size = await pour(threads, partial(storage.write, draft, file), request.stream())
    response = StreamingResponse(drain(storage.read(path, file)))

A sender may be as slow as it likes: `pour` has a thread of its own for each body, `drain` takes one
of the executor's for each piece.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import suppress
from typing import TypeVar

from app.storage.readers import Readers

R = TypeVar("R")

RECEIVERS = 64
"""Files of tracking clients that are received at a time, each in a thread."""

BUFFER_BYTES = 4 << 20
"""How much of a body may wait for the storage."""


class Aborted(Exception):
    """The sender of a body is gone: what arrived is not all of it."""


async def pour(
    threads: Readers, consume: Callable[[Iterator[bytes]], R], body: AsyncIterator[bytes]
) -> R:
    """Return what `consume` returns, called in a thread with an iterator over the body.

    Of a body that breaks, the iterator raises Aborted, and this raises what broke it, after
    `consume` has ended.
    """
    pipe = _Pipe()
    consumer = asyncio.create_task(threads.run(consume, iter(pipe)))
    consumer.add_done_callback(lambda _: pipe.stop())
    try:
        async for piece in body:
            if not await pipe.send(piece):
                break
        pipe.close(is_whole=True)
        return await asyncio.shield(consumer)
    except BaseException:
        pipe.close(is_whole=False)
        await asyncio.wait([consumer])
        if not consumer.cancelled():
            consumer.exception()  # it is told already, or follows from what broke the body
        raise


async def drain(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the pieces of an iterator that blocks, and close it at the end."""
    try:
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece
    finally:
        if isinstance(pieces, Generator):
            with suppress(ValueError):  # it is running: the loop was cancelled meanwhile
                await asyncio.shield(asyncio.to_thread(pieces.close))


class _Pipe:
    """A bounded queue of pieces from the loop to one thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._is_whole: bool | None = None
        self._is_stopped = False
        self._changed = threading.Condition()

    async def send(self, piece: bytes) -> bool:
        """Add a piece once there is room. Return False if nobody reads any more."""
        await self._has_room.wait()
        if self._is_stopped:
            return False
        with self._changed:
            self._pieces.append(piece)
            self._size += len(piece)
            if self._size >= BUFFER_BYTES:
                self._has_room.clear()
            self._changed.notify()
        return True

    def close(self, *, is_whole: bool) -> None:
        """End the iterator; one that is not whole raises Aborted."""
        with self._changed:
            if self._is_whole is None:
                self._is_whole = is_whole
            self._changed.notify()

    def stop(self) -> None:
        """Let a sender that waits for room go on, since nobody reads any more."""
        self._is_stopped = True
        self._has_room.set()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                while not self._pieces and self._is_whole is None:
                    self._changed.wait()
                if self._is_whole is False:
                    raise Aborted("the body ended before it was whole")
                if not self._pieces:
                    return
                piece = self._pieces.popleft()
                self._size -= len(piece)
                is_full = self._size >= BUFFER_BYTES
            if not is_full:
                with suppress(RuntimeError):  # the loop is closed: nobody sends any more
                    self._loop.call_soon_threadsafe(self._has_room.set)
            yield piece
