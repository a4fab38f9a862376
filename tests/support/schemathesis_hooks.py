"""For schemathesis, which loads this file itself: see `contract/test_schemathesis.py`."""

import secrets
from typing import Any

import schemathesis

from app.rest.parameters import EXAMPLE_KEY

HEADER = "Idempotency-Key"


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]
) -> None:
    """Replace the example of an idempotency key by a new key.

    Requests that share a key are one request: "add alice", "remove alice" and the same "add alice"
    replay the first answer and add nobody, which schemathesis takes for something lost.
    """
    if case.headers and case.headers.get(HEADER) == EXAMPLE_KEY:
        case.headers[HEADER] = f"key-{secrets.token_hex(8)}"


@schemathesis.check
def no_bug_is_told(
    context: schemathesis.CheckContext,
    response: schemathesis.Response,
    case: schemathesis.Case[Any],
) -> None:
    """For GraphQL, in the place of `not_a_server_error`, which takes NOT_FOUND for one."""
    assert response.status_code < 500
    assert "INTERNAL_SERVER_ERROR" not in response.text
