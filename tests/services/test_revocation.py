"""Races of a token's revocation against its use: hundreds, and ten thousand with `-m heavy`.

What begins after the answer to a revocation is refused, read or write, and on SQLite (where one
transaction writes at a time) nothing of the token's is written after it either.
"""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from app.db.acting import acting_as
from app.db.database import Database
from app.db.sql import Tx
from app.domain.principals import Principal
from app.domain.requests import ExperimentRequest, UpdateExperimentRequest
from app.domain.team import MemberRequest, ProjectRequest, TokenRequest, UserRequest, new_token
from app.errors import Unauthorized
from app.services import api_tokens, edits, experiments, projects, users

LANES = 50
"""Races at a time, each with an experiment of its own."""


async def race(db: Database, experiment: str, number: int, random: random.Random) -> str:
    """One race; returns which of the two came first."""
    secret = new_token()
    made = await db.write(api_tokens.create, TokenRequest(user="alice"), secret)
    known = await db.read(api_tokens.find, secret)
    assert known is not None
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

    def begin(tx: Tx) -> list[str]:
        users.create(tx, UserRequest(name="alice"))
        project = projects.create(tx, ProjectRequest(name="p"))
        projects.set_member(tx, project.id, MemberRequest.model_validate_json(
            '{"user": "alice", "role": "member"}'
        ))  # fmt: skip
        request = ExperimentRequest(name="e", task_type="t", project="p")
        return [experiments.create(tx, request).id for _ in range(LANES)]

    lanes = await db.write(begin)
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
