"""Races of a token's revocation against its use: hundreds, and thousands with `-m heavy`.

What begins after the answer to a revocation is refused, read or write, and on SQLite (where one
transaction writes at a time) nothing of the token's is written after it either.

Seen red on PostgreSQL: when an answer about a token is kept for the next snapshot of a connection,
when it is not forgotten by a revocation in its transaction, and when it is not looked at.
"""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Awaitable
from typing import Any

import pytest

from app.db.connect import connect
from app.db.current_principal import acting_as
from app.db.database import FEWEST, Database
from app.db.sql import Tx
from app.db.tables import Experiment
from app.domain.principals import Principal
from app.domain.requests import ExperimentRequest, UpdateExperimentRequest
from app.domain.team import MemberRequest, ProjectRequest, TokenRequest, UserRequest, new_token
from app.errors import Unauthorized
from app.services import api_tokens, edits, experiments, projects, users

LANES = 50
"""Races at a time, each with an experiment of its own."""


def begin(tx: Tx, number: int) -> list[str]:
    """Make Alice a member of a project; return the ids of so many experiments of it."""
    users.create(tx, UserRequest(name="alice"))
    project = projects.create(tx, ProjectRequest(name="p"))
    projects.set_member(tx, project.id, MemberRequest.model_validate_json(
        '{"user": "alice", "role": "member"}'
    ))  # fmt: skip
    request = ExperimentRequest(name="e", task_type="t", project="p")
    return [experiments.create(tx, request).id for _ in range(number)]


async def race(db: Database, experiment: str, number: int, random: random.Random) -> str:
    """One race; returns which of the two came first."""
    secret = new_token()
    made = await db.write(api_tokens.create, TokenRequest(user="alice"), secret)
    known = await db.read(api_tokens.find, secret)
    assert known is not None
    with acting_as(known.principal):  # so that what it may do is known
        await db.read(experiments.get, experiment)
    note = f"race {number}"

    async def use() -> bool:
        for _ in range(random.randrange(3)):
            await asyncio.sleep(0)
        try:
            with acting_as(known.principal):
                request = UpdateExperimentRequest(notes=note)
                await db.write(edits.update_experiment, experiment, request)
        except Unauthorized:
            return False
        return True

    def revoke(tx: Tx) -> str | None:
        api_tokens.revoke(tx, made.id)
        return experiments.get(tx, experiment).notes

    async def end() -> str | None:
        for _ in range(random.randrange(3)):
            await asyncio.sleep(0)
        return await db.write(revoke)

    used, then = await asyncio.gather(use(), end())
    now = (await db.read(experiments.get, experiment)).notes
    assert used == (now == note)
    if db.dialect == "sqlite":
        assert now == then, "it was written after the revocation"
    await refused(db, known.principal, experiment)
    return "use" if used else "revocation"


async def refused(db: Database, principal: Principal, experiment: str) -> None:
    with acting_as(principal):
        with pytest.raises(Unauthorized):
            await db.read(experiments.get, experiment)
        with pytest.raises(Unauthorized):
            await db.write(edits.update_experiment, experiment, UpdateExperimentRequest(notes="x"))
        with pytest.raises(Unauthorized):
            await db.read(api_tokens.list_tokens, None)


@pytest.mark.anyio
@pytest.mark.parametrize("races", [500, pytest.param(10_000, marks=pytest.mark.heavy)])
async def test_what_begins_after_a_revocation_was_answered_is_refused(
    db: Database, races: int
) -> None:
    if db.dialect == "postgresql":
        races = min(races, 2_500)  # each takes the processor seven times as long there
    lanes = await db.write(begin, LANES)
    seed = random.randrange(2**32)
    generator = random.Random(seed)
    numbers = iter(range(races))
    first: Counter[str] = Counter()

    async def run(experiment: str) -> None:
        for number in numbers:
            first[await race(db, experiment, number, generator)] += 1

    results: list[Any] = await asyncio.gather(*map(run, lanes), return_exceptions=True)
    failed = [result for result in results if result is not None]
    assert not failed, (f"seed {seed}", failed[0])
    assert sum(first.values()) == races
    assert min(first["use"], first["revocation"]) > races // 50, f"hardly a race: {first}"


@pytest.mark.anyio
async def test_a_write_that_shares_a_transaction_with_the_revocation_before_it_is_refused(
    database_url: str,
) -> None:
    db = connect(database_url, FEWEST)  # one thread writes
    await db.start()
    try:
        experiment = (await db.write(begin, 1))[0]
        secret = new_token()
        made = await db.write(api_tokens.create, TokenRequest(user="alice"), secret)
        known = await db.read(api_tokens.find, secret)
        assert known is not None
        busy, go_on = threading.Event(), threading.Event()

        def wait(tx: Tx) -> None:
            busy.set()
            assert go_on.wait(30)

        def use(note: str) -> Awaitable[Any]:
            with acting_as(known.principal):
                request = UpdateExperimentRequest(notes=note)
                return asyncio.ensure_future(db.write(edits.update_experiment, experiment, request))

        waiting = asyncio.ensure_future(db.write(wait))
        await asyncio.to_thread(busy.wait, 30)
        before = use("before")
        revocation = asyncio.ensure_future(db.write(api_tokens.revoke, made.id))
        after = use("after")
        await asyncio.sleep(0)  # all three are waiting now, and are taken together
        go_on.set()
        outcomes = await asyncio.gather(before, revocation, after, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes[::2]] == [Experiment, Unauthorized]
        assert (await db.read(experiments.get, experiment)).notes == "before"
        await waiting
    finally:
        await db.stop()
