"""Run tokens: derived from the server's secret, never stored.

A token may report on its one run and do nothing else.
"""

import base64
import hashlib
import hmac


def run_token(secret: str, run_id: str) -> str:
    """The token that may report on this run."""
    digest = hmac.digest(secret.encode(), b"run:" + run_id.encode(), hashlib.sha256)
    return "rt_" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def same(given: str, expected: str) -> bool:
    """Compares two tokens in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())
