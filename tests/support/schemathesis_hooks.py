"""A hook for schemathesis, which loads this file itself: see `contract/test_schemathesis.py`."""

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
