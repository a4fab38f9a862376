"""Pulses of agents that are reached over HTTP: their orders are read, their signs of life gathered.

    pulse → get_directive, a short read → … → record, one statement for all pulses of a second

A thousand agents send a hundred pulses a second: a transaction for each would cost more than all
else that they do. What is lost with a server is made up for by the next pulse.
"""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Executable, select, update

from app.agent.mailbox import Directive
from app.db.current_principal import act_as
from app.db.database import Database
from app.db.sql import Tx, columns, query, statement
from app.db.tables import Attempt, Run
from app.domain.attempts import Stop
from app.domain.lifecycle import LAUNCHED, RunStatus
from app.domain.principals import SUPERVISOR
from app.errors import Busy, NotFound, Unavailable

GATHER_SECONDS = 1.0
"""The longest time that a pulse waits for others before it is recorded."""

_attempt, _run = columns(Attempt), columns(Run)
Key = tuple[str, int]
"""A run's id, and the number of its attempt."""


class _Asked(NamedTuple):
    """The fields that decide the instructions for an agent."""

    status: str
    attempt: int
    stop: str | None
    exit: str | None


@query(_Asked)
def _asked(*, run: str, nr: int) -> Executable:
    return (
        select(_run.status, _run.attempt, _attempt.stop, _attempt.exit)
        .select_from(Attempt)
        .join(Run, _run.id == _attempt.run_id)
        .where(_attempt.run_id == run, _attempt.number == nr)
    )


@statement
def _alive(*, run: str, nr: int, at: str, ran: float) -> Executable:
    return (
        update(Attempt)
        .where(_attempt.run_id == run, _attempt.number == nr, _attempt.exit.is_(None))
        .values(pulse_at=at, ran_seconds=ran)
    )


def get_directive(tx: Tx, run_id: str, number: int) -> Directive:
    """Return what the agent of a claimed attempt must do. Raises NotFound."""
    current = tx.first(_asked, run=run_id, nr=number)
    if current is None:
        raise NotFound(f"Run {run_id} has no attempt {number} that is reached over HTTP.")
    status = RunStatus(current.status)
    if current.attempt != number or current.exit is not None or status not in LAUNCHED:
        return "over"
    if current.stop is not None:
        return "kill" if current.stop == Stop.KILL else "stop"
    return "stop" if status is RunStatus.CANCELLING else "go"


def record(tx: Tx, ran_seconds: Mapping[Key, float]) -> None:
    """Record that the agents of these attempts live, and for how long they have run."""
    rows = [
        _alive(run=run, nr=number, at=tx.now, ran=ran_seconds[run, number])
        for run, number in sorted(ran_seconds)  # in one order: two servers may record at once
    ]
    tx.many(_alive, rows)


class Pulses:
    """The pulses that one server has heard and not yet recorded."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._heard: dict[Key, float] = {}
        self._recording: asyncio.Task[None] | None = None

    def add(self, run_id: str, number: int, ran_seconds: float) -> None:
        """Have a pulse recorded within GATHER_SECONDS."""
        self._heard[run_id, number] = ran_seconds
        if self._recording is None:
            self._recording = asyncio.create_task(self._record())

    async def _record(self) -> None:
        act_as(SUPERVISOR)  # no longer on behalf of the agent whose pulse was the first
        try:
            while self._heard:
                await asyncio.sleep(GATHER_SECONDS)
                await self._write()
        finally:
            self._recording = None

    async def _write(self) -> None:
        heard, self._heard = self._heard, {}
        try:
            await self._db.write(record, heard)
        except (Busy, Unavailable):
            return  # silence does not count while writes are rejected, and the next ones come soon

    @property
    def is_idle(self) -> bool:
        """Return True if every pulse is on record."""
        return self._recording is None

    async def stop(self) -> None:
        """Record what is still pending before the database is closed."""
        if self._recording is not None:
            self._recording.cancel()
            await self._write()
