"""`perform`: one use case as one write, at most once per idempotency key.

    claim the key in this process → replay the first response, or
    prepare (slow, read-only) → one transaction: the work, and its response under the key

Every write of REST and GraphQL goes through here. Keys are read and stored by `idempotency`.
"""

from collections.abc import Awaitable, Callable

from app.db.database import Database
from app.db.sql import Tx
from app.services import idempotency
from app.services.idempotency import InFlight, KeyedRequest, StoredResponse


async def perform(
    db: Database,
    in_flight: InFlight,
    request: KeyedRequest | None,
    work: Callable[[Tx], StoredResponse],
    prepare: Callable[[], Awaitable[None]] | None = None,
) -> StoredResponse:
    """Run `work` in a transaction, or return the first response to the same key and body.

    Args:
        request: None: it came without a key, so it is never a repetition.
        work: may be run again from the start after a conflict; its response is stored in the
            same transaction.
        prepare: a slow, read-only step before the transaction; skipped on a replay.

    Raises KeyReused, KeyInFlight, and what `work` and `prepare` raise: then nothing is stored.
    """
    if request is None:
        if prepare is not None:
            await prepare()
        return await db.write(work)
    with in_flight.claim(request):
        if prepare is not None:
            first = await db.read(idempotency.find_stored, request)
            if first is not None:
                return first
            await prepare()
        return await db.write(idempotency.run_once, request, work)
