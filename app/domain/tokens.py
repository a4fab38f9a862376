"""Tokens of runs: derived from the server's secret, never stored.

    run_token       rt_…      an external trainer: the reports and the spec of its run
    claim_code      ac_N_…    travels with a job through a cluster: good for one claim
    attempt_token   at_N_…    the answer to that claim: for all else of attempt N

None is good for another run or attempt, or for anything else.
"""

import base64
import hashlib
import hmac
import re

OF_RUNS = ("rt_", "ac_", "at_")
"""How they begin."""
_OF_ATTEMPT = re.compile(r"at_([1-9][0-9]{0,8})_[A-Za-z0-9_-]{43}")


def run_token(secret: str, run_id: str) -> str:
    """Return the token that may report on this run."""
    return f"rt_{_sign(secret, f'run:{run_id}')}"


def claim_code(secret: str, run_id: str, attempt: int) -> str:
    """Return the code that an agent exchanges for the token of its attempt."""
    return f"ac_{attempt}_{_sign(secret, f'claim:{run_id}:{attempt}')}"


def attempt_token(secret: str, run_id: str, attempt: int) -> str:
    """Return the token of one attempt's agent and trainer."""
    return f"at_{attempt}_{_sign(secret, f'attempt:{run_id}:{attempt}')}"


def attempt_of(token: str, secret: str, run_id: str) -> int | None:
    """Return the attempt of this run whose token this is; None if it is no attempt's token."""
    named = _OF_ATTEMPT.fullmatch(token)
    if named is None or not secrets_match(token, attempt_token(secret, run_id, int(named[1]))):
        return None
    return int(named[1])


def digest(code: str) -> str:
    """Return what is stored of a code: its SHA-256."""
    return hashlib.sha256(code.encode("utf-8", "surrogatepass")).hexdigest()


def secrets_match(token: str, expected: str) -> bool:
    """Return True if two tokens are equal; compares in constant time."""
    return hmac.compare_digest(token.encode("utf-8", "surrogatepass"), expected.encode())


def _sign(secret: str, about: str) -> str:
    # Not `hmac.digest`: it lets another thread have the interpreter's lock, and an event loop gets
    # it back from a busy one only milliseconds later.
    signature = hmac.new(secret.encode(), about.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(signature).decode().rstrip("=")
