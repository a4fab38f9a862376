"""Code shared by all mutations: the payload, its `userErrors`, and `perform`.

Errors that the caller can correct become `userErrors`; a server that is busy or unavailable is a
top-level error. With an `idempotencyKey` the first response is stored, as rows.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import is_dataclass
from typing import Any, TypeVar

import orjson
import strawberry
from pydantic import BaseModel, ValidationError
from strawberry.utils.str_converters import to_camel_case

from app.db import tables
from app.db.objects import Table, as_dict, from_dict
from app.db.sql import Tx, dump, load
from app.errors import Busy, ServiceError, Unavailable
from app.graphql.describe import Info, attribute, field, output
from app.graphql.filters import check_text, get_given
from app.graphql.queries import Query
from app.services import audit, idempotency
from app.services.api_tokens import Token
from app.services.audit import Action
from app.services.idempotency import StoredResponse
from app.services.perform import perform as perform_write
from app.services.projects import Member

KEY = "The same key with the same input replays the first response."

_TABLES: dict[str, type[Any]] = {
    "experiment": tables.Experiment,
    "run": tables.Run,
    "checkpoint": tables.Checkpoint,
    "deletion": tables.Deletion,
    "project": tables.Project,
    "user": tables.User,
    "webhook": tables.Webhook,
    "delivery": tables.WebhookDelivery,
    "alert_rule": tables.AlertRule,
}
_TUPLES: dict[str, type[Any]] = {"member": Member, "api_token": Token}
ROWS = frozenset(_TABLES.keys() | _TUPLES.keys())
"""The fields of payloads that are rows, from which a replay makes them again."""
M = TypeVar("M", bound=BaseModel)
P = TypeVar("P", bound="Payload")
Rows = dict[str, Any]
"""Rows by the payload's fields."""


@output
class UserError:
    """Something that the caller can understand and mend. Nothing was changed."""

    code: str = attribute("Stable code, such as `invalid_input` or `run_finished`.")
    message: str = attribute("The problem and its remedy, in one sentence.")
    field: list[str] | None = attribute("Path of the input field that is wrong.")


@output
class Payload:
    """Fields of every payload."""

    user_errors: list[UserError] = strawberry.field(
        default_factory=list, description="Errors that the caller can correct; empty on success."
    )
    replayed: bool = strawberry.field(
        default=False, description="True if this is the stored response to an earlier request."
    )

    @field
    def query(self) -> Query:
        """The root query, as of after this mutation."""
        return Query()


async def perform(
    info: Info,
    input: Any,
    payload: type[P],
    work: Callable[[Tx], Rows],
    prepare: Callable[[], Awaitable[None]] | None = None,
) -> P:
    """Run a use case as one write, at most once per `idempotencyKey`, and return its payload.

    Args:
        work: may raise pydantic's ValidationError and any ServiceError.
        prepare: a slow, read-only step before the transaction; skipped on a replay.
    """

    def store(tx: Tx) -> StoredResponse:
        rows = {name: _columns(row) for name, row in work(tx).items()}
        made = next((row for name, row in rows.items() if name != "deletion"), None)
        audit.record(tx, action, made)  # a deletion is of what its input names
        return StoredResponse(200, dump(rows))

    context, values = info.context, get_given_values(input)
    action = Action(
        audit.name_of(info.field_name),
        next((values[name] for name in _TARGETS if name in values), None),
    )
    try:
        keyed = _parse_key(info, values)
        stored = await perform_write(context.db, context.in_flight, keyed, store, prepare)
    except ValidationError as error:
        return payload(user_errors=list(map(_field_error, error.errors())))
    except (Busy, Unavailable):
        raise
    except ServiceError as error:
        return payload(user_errors=list(_service_errors(error)))
    rows = {name: _row(name, row) for name, row in load(stored.body).items()}
    return payload(replayed=stored.replayed, **rows)


def _columns(row: Any) -> dict[str, Any]:
    if isinstance(row, Table):
        return as_dict(row)
    named: dict[str, Any] = row._asdict()
    return named


def _row(name: str, stored: dict[str, Any]) -> Any:
    return _TUPLES[name](**stored) if name in _TUPLES else from_dict(_TABLES[name], stored)


def request_of(model: type[M], input: Any, *others: str) -> M:
    """Return an input as REST's request. Raises ValidationError.

    Args:
        others: fields of the input that are no fields of the request.
    """
    values = get_given_values(input)
    return model(
        **{key: value for key, value in values.items() if key not in (*_NO_FIELD, *others)}
    )


def get_given_values(input: Any) -> dict[str, Any]:
    """Return the fields of an input that were given, inputs within it as dictionaries."""
    return {
        name: get_given(value) if is_dataclass(value) else value
        for name, value in get_given(input).items()
    }


_TARGETS = (
    "delivery_id", "webhook_id", "rule_id", "run_id", "user_id", "token_id", "experiment_id",
    "project_id",
)  # fmt: skip
"""Fields of inputs that name a row, the most particular first: the audit records one of them."""
_NO_FIELD = ("idempotency_key",)


def _parse_key(info: Info, values: dict[str, Any]) -> idempotency.KeyedRequest | None:
    key = values.pop("idempotency_key", None)
    # An id is looked up as it is; PostgreSQL takes no NUL.
    check_text("".join(str(values.get(name, "")) for name in _TARGETS))
    if key is None:
        return None
    body = orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
    return idempotency.parse_key(
        info.context.principal.caller, "MUTATION", info.field_name, key, body
    )


def _field_error(error: Any) -> UserError:
    path = [to_camel_case(str(part)) for part in error["loc"]]
    message = error["msg"].removeprefix("Value error, ")
    return UserError(
        code="invalid_input", message=f"{'.'.join(path)}: {message}.", field=["input", *path]
    )


def _service_errors(error: ServiceError) -> Iterator[UserError]:
    for details in error.errors:
        path = ["input", *map(to_camel_case, details["pointer"].split("/")[1:])]
        yield UserError(code=error.code, message=error.detail, field=path)
    if not error.errors:
        yield UserError(code=error.code, message=error.detail, field=None)
