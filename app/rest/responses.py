"""Responses: a write and its JSON, the replay of a stored one, and JSON of a read.

The response to a POST is rendered inside the transaction that does the work, because it is stored
there when the request came with an Idempotency-Key.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import orjson
from fastapi import Request, Response

from app.db.current_principal import get_principal
from app.db.sql import Tx, dump
from app.domain.tokens import run_token
from app.errors import InvalidInput
from app.services import audit, idempotency
from app.services.audit import Action
from app.services.idempotency import KeyedRequest, StoredResponse
from app.services.perform import perform as perform_write

R = TypeVar("R")


async def perform(
    request: Request,
    work: Callable[[Tx], R],
    view: Callable[[R], Mapping[str, object]],
    status: int | Callable[[R], int] = 200,
    prepare: Callable[[], Awaitable[None]] | None = None,
    is_audited: bool = True,
) -> StoredResponse:
    """Run a use case as one write, at most once per Idempotency-Key, and render its result.

    Args:
        prepare: a slow, read-only step before the transaction; skipped on a replay.
    """

    action = action_of(request)

    def render(tx: Tx) -> StoredResponse:
        result = work(tx)
        code = status if isinstance(status, int) else status(result)
        answer = view(result)
        if is_audited:
            audit.record(tx, action, answer)
        return StoredResponse(code, dump(answer))

    state = request.app.state
    keyed = await _read_key(request)
    return await perform_write(state.db, state.in_flight, keyed, render, prepare)


async def write(request: Request, work: Callable[[Tx], R]) -> R:
    """Run a use case as one write whose response has no body."""
    result: R = await request.app.state.db.write(audit.with_audit(action_of(request), work))
    return result


def action_of(request: Request) -> Action:
    """Return what a request does, for the audit: its operation, and the last id of its path."""
    ids = [value for name, value in request.path_params.items() if name.endswith("_id")]
    return Action(audit.name_of(request.scope["route"].name), ids[-1] if ids else None)


async def _read_key(request: Request) -> KeyedRequest | None:
    """Return the request with its Idempotency-Key, or None without one. Raises InvalidInput."""
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1:
        raise InvalidInput(
            "Send one Idempotency-Key.",
            errors=[{"pointer": "", "header": "Idempotency-Key", "detail": "repeated"}],
        )
    caller, path, body = get_principal().caller, request.scope["path"], await request.body()
    return idempotency.parse_key(caller, request.method, path, keys[0], body)


def respond(
    stored: StoredResponse,
    location: str | None = None,
    secrets: Callable[[dict[str, Any]], Mapping[str, object]] | None = None,
) -> Response:
    """Return the stored or fresh response, byte for byte.

    Args:
        location: where a new resource is, with `{field}` for fields of the response.
        secrets: returns what is added on the way out, so that what is stored under an
            Idempotency-Key never holds it.
    """
    headers = {"Idempotent-Replayed": "true"} if stored.replayed else {}
    body = stored.body
    answer = orjson.loads(body) if location is not None or secrets is not None else {}
    if location is not None:
        headers["Location"] = location.format_map(answer)
    if secrets is not None and (added := secrets(answer)):
        body = f"{body[:-1]},{dump(added)[1:]}"
    return Response(body, stored.status, headers, "application/json")


def run_token_of(secret: str) -> Callable[[dict[str, Any]], dict[str, str]]:
    """Return a function that returns the run's token, for the response about an external run."""

    def token(run: dict[str, Any]) -> dict[str, str]:
        return {} if run["recipe"] is not None else {"run_token": run_token(secret, run["run_id"])}

    return token


def json(view: Mapping[str, object]) -> Response:
    """Return a response of this JSON."""
    return Response(orjson.dumps(view), media_type="application/json")
