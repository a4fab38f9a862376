"""A read is over when it is over: nothing of its arguments stays in the server."""

import asyncio
import gc
import warnings
import weakref
from functools import partial

import pytest
from sqlalchemy import text

from app.db.current_principal import acting_as
from app.db.database import Database
from app.db.sql import Statement, Tx
from app.domain.principals import LOCAL
from tests.support.graphql import statements

pytestmark = pytest.mark.anyio

_ONE = Statement[tuple[int]](text("SELECT 1"))
READS = 20


class Asked(list[str]):
    """What a caller wants to read, as something whose end can be seen."""


def _two_statements(asked: Asked, tx: Tx, ids: list[str]) -> list[str]:
    tx.first(_ONE)
    tx.first(_ONE)
    return ids


class _Callable:
    def __init__(self, asked: Asked) -> None:
        self.asked = asked

    def __call__(self, tx: Tx, ids: list[str]) -> list[str]:
        return _two_statements(self.asked, tx, ids)


@pytest.mark.parametrize("make", [lambda a: partial(_two_statements, a), _Callable])
async def test_reads_made_anew_for_each_call_are_known_again_and_not_kept(
    db: Database, make: type[_Callable]
) -> None:
    """Every metricSeries is a `partial` of its own; PostgreSQL learns once what it needs."""
    with warnings.catch_warnings(action="ignore"):
        gc.collect()  # what tests of GraphQL's reference implementation have not awaited
    kept: list[weakref.ref[Asked]] = []
    with acting_as(LOCAL), statements() as seen:
        for _ in range(READS):
            asked = Asked(["loss"])
            kept.append(weakref.ref(asked))
            assert await db.scan(make(asked), ["run"]) == ["run"]
    del asked
    for _ in range(500):  # a thread may still be on its way out of the last one
        gc.collect()
        if not any(each() for each in kept):
            break
        await asyncio.sleep(0.01)
    assert [each() for each in kept] == [None] * READS
    assert len(seen) <= 2 * READS + 2, "begun again only the first time"
