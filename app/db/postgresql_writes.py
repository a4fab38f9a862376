"""Writes on PostgreSQL: one thread of a few takes what waits and commits it in one transaction.

    waiting jobs (up to BATCH) → BEGIN → one after the other → what they left for the end (events),
    NOTIFY, COMMIT, sent together → all are answered

So a commit's disk flush, and the lock on an experiment's last number, is paid once for many. A job
that raises before it has written anything simply fails; one that raises afterwards, and every
error of a statement, spoils the batch, whose jobs are then run again in a transaction each.
"""

from collections.abc import Callable, Iterator

import psycopg
from psycopg import errors as pg

from app.db.database import Job, WriteResult
from app.db.postgresql_connections import for_caller
from app.db.postgresql_pipeline import Cursor, Pipeline
from app.db.restricted import open_tx
from app.db.rights import KnownRights
from app.db.sql import Tx, write_late

BATCH = 32
TRIES = 5
CHANNEL = "llm_train"
_LOST_RACE = (
    pg.SerializationFailure, pg.DeadlockDetected, pg.UniqueViolation, pg.ForeignKeyViolation,
)  # fmt: skip
_NOTIFY = f"SELECT pg_notify('{CHANNEL}', $1::text)"
_MOST_BYTES = 7_000  # of a notification; PostgreSQL takes 8,000


class _Spoiled(Exception):
    """A job failed after it had written."""


def commit(
    connect: Callable[[], Pipeline], batch: list[Job], rights: KnownRights
) -> list[WriteResult]:
    """Run jobs in one transaction, or else each in its own. Never raises.

    Each may be run several times, the last of which counts. `connect` returns the connection to
    use, made anew where the last one is over.
    """
    if len(batch) > 1:
        try:
            pipeline = connect()
        except BaseException as error:
            return _fail_all(batch, for_caller(error, None))
        try:
            return _run_batch(pipeline, batch, rights)
        except BaseException as error:
            _roll_back(pipeline)
            shown = for_caller(error, pipeline.connection)
            if shown is not error and pipeline.connection.closed:
                return _fail_all(batch, shown)  # whether it was committed is not known
    return [_run_alone(connect, job, rights) for job in batch]


def _fail_all(batch: list[Job], error: BaseException) -> list[WriteResult]:
    return [WriteResult(job.future, None, error) for job in batch]


def _run_batch(pipeline: Pipeline, batch: list[Job], rights: KnownRights) -> list[WriteResult]:
    outcomes, done = [], []
    cursor = Cursor(pipeline)
    pipeline.command("BEGIN")
    for job in batch:
        tx = open_tx(cursor, "postgresql", job.principal, rights, is_snapshot=False)
        try:
            outcomes.append(WriteResult(job.future, job.work(tx), None))
            done.append(tx)
        except Exception as error:
            if tx.wrote or isinstance(error, psycopg.Error):
                raise _Spoiled from error
            outcomes.append(WriteResult(job.future, None, error))
    _commit(pipeline, cursor, done)
    return outcomes


def _run_alone(connect: Callable[[], Pipeline], job: Job, rights: KnownRights) -> WriteResult:
    for left in reversed(range(TRIES)):
        pipeline: Pipeline | None = None
        try:
            pipeline = connect()
            pipeline.command("BEGIN")
            cursor = Cursor(pipeline)
            tx = open_tx(cursor, "postgresql", job.principal, rights, is_snapshot=False)
            result = job.work(tx)
            _commit(pipeline, cursor, [tx])
        except BaseException as error:
            if pipeline is not None:
                _roll_back(pipeline)
            if left and isinstance(error, _LOST_RACE):
                continue
            used = None if pipeline is None else pipeline.connection
            return WriteResult(job.future, None, for_caller(error, used))
        return WriteResult(job.future, result, None)
    raise AssertionError("TRIES is 1 or more")


def _commit(pipeline: Pipeline, cursor: Cursor, parts: list[Tx]) -> None:
    last = Tx(cursor, "postgresql")
    write_late(last, parts)
    for text in _pack_topics(last.topics.union(*(part.topics for part in parts))):
        pipeline.send(_NOTIFY, [text])
    pipeline.finish("COMMIT")


def _pack_topics(topics: set[str]) -> Iterator[str]:
    """Yield the topics as few texts: each notification is told to every server by itself."""
    text = ""
    for topic in sorted(topics):
        if len(text) + len(topic) > _MOST_BYTES:
            yield text
            text = ""
        text += f" {topic}" if text else topic
    if text:
        yield text


def _roll_back(pipeline: Pipeline) -> None:
    """End a failed transaction, or else the connection.

    What is written in a transaction that is still open would be answered and never committed.
    """
    try:
        pipeline.finish("ROLLBACK")
    except BaseException:
        pipeline.connection.close()
