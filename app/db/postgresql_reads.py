"""Short reads on PostgreSQL, on the event loop: those that wait share one snapshot.

    waiting reads → BEGIN and the first statement of each, sent together → as answers arrive, each
    read goes on to its next statement → all have ended: COMMIT, and the next batch

A read is a plain function; while the answer to its statement is on its way it is suspended as a
greenlet, and the loop serves others. So a batch costs as many round trips as its longest read has
statements, and no thread.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import psycopg
from greenlet import GreenletExit, getcurrent, greenlet

from app.db.postgresql_connections import Connection, for_caller
from app.db.postgresql_pipeline import Answer, Cursor, Pipeline
from app.db.restricted import open_tx
from app.db.rights import KnownRights
from app.db.sql import Tx
from app.domain.principals import Principal

BATCH = 32
BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class _Read:
    def __init__(
        self,
        work: Callable[[Tx], Any],
        future: asyncio.Future[Any],
        principal: Principal,
        rights: KnownRights,
    ) -> None:
        self.work = work
        self.principal = principal
        self.rights = rights
        self.future = future
        self.thread: greenlet | None = None
        self.answer = Answer()
        self.alone = False  # since a batch with it has failed
        self.losses = 0  # connections that were lost under it


class SharedReads:
    """Reads that wait for one of a few connections. Used on the event loop only."""

    def __init__(
        self,
        connections: int,
        connect: Callable[[], asyncio.Future[Connection]],
        rights: KnownRights,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Read] = deque()
        self._rights = rights
        self._lanes = [
            _Lane(self._loop, self._waiting, connect, connections) for _ in range(connections)
        ]
        self._scheduled = False

    def read(self, work: Callable[[Tx], Any], principal: Principal) -> asyncio.Future[Any]:
        """Return the result of a read to come."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(_Read(work, future, principal, self._rights))
        if not self._scheduled:  # so that all that come in one turn of the loop go together
            self._scheduled = True
            self._loop.call_soon(self._begin)
        return future

    def _begin(self) -> None:
        self._scheduled = False
        for lane in self._lanes:
            if not self._waiting:
                return
            if not lane.busy:
                lane.begin()

    def close(self) -> None:
        """Close the connections."""
        for lane in self._lanes:
            lane.close()


class _Lane:
    """One connection, and the batch that it works on."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        waiting: deque[_Read],
        connect: Callable[[], asyncio.Future[Connection]],
        lanes: int,
    ) -> None:
        self._loop, self._waiting, self._connect = loop, waiting, connect
        self._lanes = lanes
        self._pipeline: Pipeline | None = None
        self._descriptor = -1
        self._active: list[_Read] = []
        self._asked: dict[Any, Answer] = {}
        self._writing = False
        self._closed = False
        self.busy = False

    def begin(self) -> None:
        """Work on the reads that wait."""
        if self._pipeline is None:
            self.busy = True
            self._connect().add_done_callback(self._finish_connecting)
            return
        try:
            self._begin(self._pipeline)
        except psycopg.Error as error:
            self._requeue_lost(error)
        else:
            self._send()

    def _begin(self, pipeline: Pipeline) -> None:
        batch = [self._waiting.popleft()]
        while self._waiting and len(batch) < BATCH and not batch[0].alone:
            if self._waiting[0].alone:
                break
            batch.append(self._waiting.popleft())
        self._active = [read for read in batch if not read.future.done()]
        if self._active:
            self.busy = True
            pipeline.command(BEGIN)
            self._asked = {}  # of this snapshot
            for read in list(self._active):
                read.thread = greenlet(_run)
                self._resume(read, read, pipeline, self._asked)

    def _finish_connecting(self, opening: asyncio.Future[Connection]) -> None:
        self.busy = False
        try:
            connection = opening.result()
        except BaseException as error:
            while self._waiting:  # later reads try again
                _fail(self._waiting.popleft(), for_caller(error, None))
            return
        if self._closed:
            connection.close()
            return
        self._pipeline = Pipeline(connection)
        self._descriptor = connection.fileno()
        self._loop.add_reader(self._descriptor, self._readable)
        if self._waiting:
            self.begin()

    def _resume(self, read: _Read, *arguments: Any) -> None:
        """Let a read go on to its next statement, or to its end."""
        assert read.thread is not None
        if read.future.done():  # nobody waits for it any more
            read.thread.throw(GreenletExit)
        else:
            read.answer = read.thread.switch(*arguments)
        if read.thread.dead:
            self._active.remove(read)

    def _send(self) -> None:
        """Send what the reads have asked, or the end of their snapshot."""
        assert self._pipeline is not None
        try:
            if not self._active and self.busy:
                self._pipeline.command("COMMIT")
                self._pipeline.sync()
                self.busy = False
            unsent = self._pipeline.flush()
        except psycopg.Error as error:
            self._requeue_lost(error)
            return
        if unsent and not self._writing:
            self._writing = True
            self._loop.add_writer(self._descriptor, self._writable)
        if not self.busy and self._waiting:
            self.begin()

    def _writable(self) -> None:
        assert self._pipeline is not None
        try:
            unsent = self._pipeline.go_on()
        except psycopg.Error as error:
            self._requeue_lost(error)
            return
        if not unsent:
            self._writing = False
            self._loop.remove_writer(self._descriptor)

    def _readable(self) -> None:
        assert self._pipeline is not None
        try:
            self._pipeline.receive()
        except psycopg.Error as error:
            self._requeue_lost(error)
            return
        if not self.busy:
            return
        if self._pipeline.error is not None and self._end_spoiled_batch():
            self._send()
            return
        for read in list(self._active):
            if read.answer.result is not None:
                self._resume(read)
        self._send()

    def _end_spoiled_batch(self) -> bool:
        """End a batch in which a statement has failed; each read has its own error alone.

        Returns False where it is alone.
        """
        assert self._pipeline is not None
        (read, *others) = self._active
        if not others:
            if read.answer.result is None:
                return True  # the error is of what was sent before its statement
            self._resume(read)
            others = [read] if read in self._active else []
            read.alone = True
        else:
            others = [read, *others]
        self._give_back(others, alone=True)
        self._pipeline.sync()
        self._pipeline.command("ROLLBACK")
        self._pipeline.sync()
        self.busy = False
        return True

    def _give_back(self, reads: list[_Read], *, alone: bool = False) -> None:
        """Let reads begin again from their start."""
        self._active = []
        for read in reversed(reads):
            if read.thread is not None:
                read.thread.throw(GreenletExit)
            read.alone |= alone
            self._waiting.appendleft(read)

    def _requeue_lost(self, error: psycopg.Error) -> None:
        """The connection is over. Its reads begin again: all others may be over as well, but no
        new one."""
        assert self._pipeline is not None
        connection, reads = self._pipeline.connection, self._active
        self._disconnect()
        told = for_caller(error, connection)
        for read in reads:
            read.losses += 1
            if read.losses > self._lanes:
                _fail(read, told)
        self._give_back([read for read in reads if not read.future.done()])
        self.busy = False
        if self._waiting:
            self.begin()

    def close(self) -> None:
        """Close the connection for good."""
        self._closed = True
        self._disconnect()

    def _disconnect(self) -> None:
        if self._pipeline is not None:
            self._loop.remove_reader(self._descriptor)
            self._loop.remove_writer(self._descriptor)
            self._pipeline.connection.close()
            self._pipeline, self._writing = None, False


def _run(read: _Read, pipeline: Pipeline, asked: dict[Any, Answer]) -> None:
    """Run a read as a greenlet, which hands each answer that it waits for to its parent."""
    loop = getcurrent().parent
    assert loop is not None

    def wait(answer: Answer) -> None:
        while answer.result is None:
            loop.switch(answer)

    try:
        cursor = Cursor(pipeline, wait, asked)
        result = read.work(open_tx(cursor, "postgresql", read.principal, read.rights))
    except GreenletExit:
        raise
    except BaseException as error:
        while pipeline.connection.closed:  # until the lane finds it so, and gives the read back
            loop.switch(Answer())
        _fail(read, for_caller(error, pipeline.connection))
    else:
        if not read.future.done():
            read.future.set_result(result)


def _fail(read: _Read, error: BaseException) -> None:
    if not read.future.done():
        read.future.set_exception(error)
