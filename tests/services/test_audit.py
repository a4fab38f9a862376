"""The audit is kept for so many days, and then goes bit by bit, oldest first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.db.database import Database
from app.db.sql import Tx
from app.db.tables import AuditEntry
from app.domain.ids import lowest_id, new_id, timestamp, timestamp_after
from app.services import audit


@pytest.mark.anyio
async def test_entries_older_than_their_days_are_deleted_oldest_first(
    db: Database,
) -> None:
    ages = [400.0, 370.0, 365.1, 364.9, 1.0, 0.0]

    def insert(tx: Tx) -> None:
        for age in ages:
            at = timestamp_after(tx.now, -age * 24 * 3600)
            id = lowest_id("aud", at)[:-4] + new_id("aud")[-4:]
            tx.insert(
                AuditEntry(
                    id=id, at=at, actor_kind="user", action=f"{age}", outcome="done"
                )
            )  # fmt: skip

    def left(tx: Tx) -> list[str]:
        return [entry.action for entry in audit.list_entries(tx, {}, 10)]

    await db.write(insert)
    assert await db.write(audit.expire, 10_000.0) == 0
    assert await db.write(audit.expire, 365.0) == 3
    assert await db.read(left) == ["0.0", "1.0", "364.9"]
    assert await db.write(audit.expire, 365.0) == 0


@given(st.integers(-1_000_000, 1_000_000))
def test_the_lowest_id_of_a_time_parts_ids_before_from_those_after(micros: int) -> None:
    now = timestamp()
    then = timestamp_after(now, micros / 1e6)
    assert (lowest_id("aud", then) > lowest_id("aud", now)) == (then > now)
    assert lowest_id("aud", now) <= new_id("aud")
    assert len(lowest_id("aud", now)) == len(new_id("aud"))
