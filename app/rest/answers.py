"""From a use case to a response: one transaction, the Idempotency-Key, the bytes.

A POST's answer is rendered inside the transaction that does the work, since it is stored
there when the request came with a key.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson
from fastapi import Request, Response

from app.db.sql import Tx, dump
from app.domain.tokens import run_token
from app.errors import InvalidInput
from app.services import idempotency
from app.services.idempotency import Answer

R = TypeVar("R")


async def perform(
    request: Request,
    use_case: Callable[..., R],
    *args: Any,
    view: Callable[[R], dict[str, Any]],
    status: int | Callable[[R], int] = 200,
    before: Callable[[], Awaitable[Any]] | None = None,
) -> Answer:
    """Runs a use case as one write, at most once per Idempotency-Key.

    `before`: what takes long, changes nothing and is left out where an answer is replayed; the
    use case's last argument is what it finds.
    """
    found: list[Any] = []

    def work(tx: Tx) -> Answer:
        result = use_case(tx, *args, *found)
        return Answer(status if isinstance(status, int) else status(result), dump(view(result)))

    state = request.app.state
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        if before is not None:
            found.append(await before())
        answer: Answer = await state.db.write(work)
        return answer
    if len(keys) > 1:
        raise InvalidInput(
            "Send one Idempotency-Key.",
            errors=[{"pointer": "", "header": "Idempotency-Key", "detail": "repeated"}],
        )
    keyed = idempotency.keyed(
        request.scope["caller"], request.method, request.url.path, keys[0], await request.body()
    )
    with state.in_flight.claim(keyed):
        if before is not None:
            stored: Answer | None = await state.db.read(idempotency.stored, keyed)
            if stored is not None:
                return stored
            found.append(await before())
        answer = await state.db.write(idempotency.once, keyed, work)
        return answer


def respond(answer: Answer) -> Response:
    """The stored or fresh answer, byte for byte."""
    headers = {"Idempotent-Replayed": "true"} if answer.replayed else None
    return Response(answer.body, answer.status, headers, "application/json")


def with_run_token(answer: Answer, secret: str) -> Answer:
    """Adds the run's token to the answer about an external run.

    Added on the way out, so that what is stored under an Idempotency-Key never holds it.
    """
    run = orjson.loads(answer.body)
    if run["recipe"] is not None:
        return answer
    token = run_token(secret, run["run_id"])
    return answer._replace(body=f'{answer.body[:-1]},"run_token":"{token}"}}')


def json(view: Any) -> Response:
    """A response of this JSON."""
    return Response(orjson.dumps(view), media_type="application/json")
