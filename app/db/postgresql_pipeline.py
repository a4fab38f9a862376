"""Statements on one PostgreSQL connection, sent without waiting for each other's answers.

    send → the answers to come, in order → receive (whatever has arrived) or wait (for one of them)

psycopg opens and cancels the connection; in between this speaks libpq's pipeline mode through
psycopg's own binding, because a cursor of psycopg costs seven times as much CPU a statement. Each
statement is prepared once a connection. `Cursor` is what a transaction (`app.db.sql.Tx`) reads and
writes with; its creator decides what it does while an answer is on its way: `wait` blocks a
thread, `app.db.postgresql_reads` lets other reads go on.
"""

import select
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psycopg
from psycopg import errors
from psycopg.adapt import Transformer
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from app.db.postgresql_connections import Connection

PREPARED = 300
"""Statements kept prepared on a connection; each costs the server some memory."""
_BINARY = 1
_TUPLE: Any = tuple


class Answer:
    """The answer to one statement; `result` is None until it has arrived.

    `rows`: the rows of the result, once they have been read. `failure`: the result of what has
    failed, this statement or one because of which the server skipped it.
    """

    __slots__ = ("failure", "prepares", "result", "rows")

    def __init__(self, prepares: str | None = None) -> None:
        self.prepares = prepares
        self.result: Any = None
        self.failure: Any = None
        self.rows: list[tuple[Any, ...]] | None = None


class Pipeline:
    """One connection in pipeline mode. Used by one thread at a time."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._pg = connection.pgconn
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._awaited: deque[Answer] = deque()
        self._names: OrderedDict[str, bytes] = OrderedDict()
        self._made = 0
        self._transformer = Transformer(connection)
        self._readable = select.poll()
        self._readable.register(connection.fileno(), select.POLLIN)
        self._both = select.poll()
        self._both.register(connection.fileno(), select.POLLIN | select.POLLOUT)
        # The first error since the last `sync`; the server skips what was sent after it.
        self.error: Any = None

    def send(self, text: str, values: Sequence[object] = ()) -> Answer:
        """Queue one statement with numbered parameters. Raises DataError for a NUL in a text."""
        encoded = [_encode(value) for value in values]
        formats = [int(type(value) is bytes) for value in values]
        name = self._names.get(text) or self._prepare(text)
        self._names.move_to_end(text)
        self._pg.send_query_prepared(name, encoded, formats, result_format=_BINARY)
        return self._await(Answer())

    def command(self, text: str) -> Answer:
        """Queue one that has no parameters and is not prepared, such as BEGIN.

        Where a transaction has failed, nothing could be prepared or forgotten before ROLLBACK.
        """
        self._pg.send_query_params(text.encode(), None)
        return self._await(Answer())

    def _prepare(self, text: str) -> bytes:
        if len(self._names) >= PREPARED:
            _, old = self._names.popitem(last=False)
            self.command(f"DEALLOCATE {old.decode()}")
        self._made += 1
        name = self._names[text] = b"s%d" % self._made
        self._pg.send_prepare(name, text.encode())
        self._await(Answer(prepares=text))
        return name

    def _await(self, answer: Answer) -> Answer:
        self._awaited.append(answer)
        return answer

    def sync(self) -> Answer:
        """Queue the end of what one error spoils."""
        self._pg.pipeline_sync()
        return self._await(Answer())

    def flush(self) -> bool:
        """Send what is queued and ask for its answers; return True if some is still unsent."""
        if self._awaited:
            self._pg.send_flush_request()
        return self.go_on()

    def go_on(self) -> bool:
        """Send what is still unsent; return True if some still is."""
        return bool(self._pg.flush())

    def receive(self) -> None:
        """Take in the answers that have arrived. Raises psycopg's error for a lost connection."""
        self._pg.consume_input()
        while self._awaited and not self._pg.is_busy():
            result = self._pg.get_result()
            if result is not None:  # None: the end of the answers to one statement
                self._note(self._awaited.popleft(), result)

    def _note(self, answer: Answer, result: Any) -> None:
        answer.result = result
        status = result.status
        if status == ExecStatus.PIPELINE_SYNC:
            self.error = None
        elif status in (ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_ABORTED):
            if self.error is None:
                self.error = result
            answer.failure = self.error if status == ExecStatus.PIPELINE_ABORTED else result
            if result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED) in (b"FATAL", b"PANIC"):
                raise errors.error_from_result(result)  # the connection ends with it
            if answer.prepares is not None:
                self._names.pop(answer.prepares, None)

    def wait(self, answer: Answer) -> None:
        """Block until an answer is there."""
        unsent = self.flush()
        while answer.result is None:
            (self._both if unsent else self._readable).poll()
            self.receive()
            if unsent:
                unsent = self.go_on()

    def take(self, answer: Answer) -> Any:
        """Return the result of an answer that is there. Raises psycopg's error for a failure."""
        result = answer.result
        if result.status in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            return result
        raise errors.error_from_result(answer.failure or result)

    def rows(self, result: PGresult) -> list[tuple[Any, ...]]:
        """Return all rows of a result."""
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, _TUPLE)

    def finish(self, command: str) -> None:
        """Execute COMMIT or ROLLBACK and wait for it. Raises psycopg's error."""
        if command == "ROLLBACK":
            self.sync()  # what follows an error is skipped until then
        answer = self.command(command)
        self.wait(self.sync())
        result = self.take(answer)
        if result.command_status != command.encode():
            raise psycopg.InternalError(f"{command} was answered with {result.command_status!r}")


class Cursor:
    """The cursor with which a transaction executes statements on one pipeline."""

    def __init__(
        self,
        pipeline: Pipeline,
        wait: Callable[[Answer], None] | None = None,
        asked: dict[Any, Answer] | None = None,
        answer: Answer | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._wait = wait or pipeline.wait
        self._answer = answer or Answer()
        self._asked = {} if asked is None else asked

    def ask(self, text: str, values: Sequence[object]) -> "Cursor":
        """Queue a question unless it was asked in this transaction, by whatever use case.

        Return a cursor with its answer, which is read later.
        """
        question = (text, *values)
        answer = self._asked.get(question)
        if answer is None:
            answer = self._asked[question] = self._pipeline.send(text, values)
        return Cursor(self._pipeline, self._wait, self._asked, answer)

    def forget(self) -> None:
        """Let each question be asked again: an answer may have changed."""
        self._asked.clear()

    def execute(self, text: str, values: Sequence[object]) -> None:
        """Queue a statement."""
        self._answer = self._pipeline.send(text, values)

    def executemany(self, text: str, rows: Iterable[Sequence[object]]) -> None:
        """Queue a statement once for each row of values."""
        for values in rows:
            self._answer = self._pipeline.send(text, values)

    def wait(self) -> None:
        """Wait for the answer to the last statement."""
        if self._answer.result is None:
            self._wait(self._answer)

    def _result(self) -> Any:
        self.wait()
        return self._pipeline.take(self._answer)

    def fetchone(self) -> tuple[Any, ...] | None:
        """Wait for the answer to the last statement and return its first row."""
        rows = self.fetchall()
        return rows[0] if rows else None

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Wait for the answer to the last statement and return its rows."""
        rows = self._answer.rows
        if rows is None:
            rows = self._answer.rows = self._pipeline.rows(self._result())
        return rows

    @property
    def rowcount(self) -> int:
        """Wait for the answer to the last statement and return how many rows it changed."""
        return self._result().command_tuples or 0


def _encode(value: object) -> bytes | None:
    """Return a parameter as PostgreSQL's text, bytes as they are."""
    if isinstance(value, str):
        encoded = value.encode()
        if b"\0" in encoded:  # libpq would end the text there
            raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        return encoded
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode()
