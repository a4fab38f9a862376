"""Object stores for checkpoints, as the operator configured them in the file of LLM_TRAIN_RECIPES.

    [stores.main]
    url = "s3://bucket/prefix"            # LLM_TRAIN_STORAGE=main chooses it
    endpoint = "https://s3.example.com"   # of a server that is not Amazon's
    region = "eu-central-1"
    trainers = "signed"                   # or "service": their files go through the service
    verify = "bytes"                      # or "attested": by the checksums that the store keeps

Credentials are never in this file: they are the environment's (AWS_ACCESS_KEY_ID, a role, …).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class StoreTable(NamedTuple):
    """One table `[stores.NAME]`."""

    name: str
    url: str
    options: Mapping[str, str]


_CHOICES = {"trainers": ("signed", "service"), "verify": ("bytes", "attested")}
KEYS = ("url", "endpoint", "region", *_CHOICES)
"""Every key that a store may have."""


def parse_store(name: str, table: Mapping[str, Any]) -> StoreTable:
    """Check one table. Raises ValueError led by the key."""
    for key, value in table.items():
        if key not in KEYS:
            raise ValueError(f"{key}: unknown; known are {', '.join(KEYS)}")
        if not isinstance(value, str) or not value or not value.isprintable():
            raise ValueError(f"{key}: must be a string of printable characters")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise ValueError(f"{key}: must be one of {', '.join(_CHOICES[key])}")
    if "url" not in table:
        raise ValueError("url: required")
    _check_url("url", table["url"])
    if "endpoint" in table:
        _check_url("endpoint", table["endpoint"])
    options = {key: value for key, value in table.items() if key != "url"}
    return StoreTable(name, table["url"], options)


def _check_url(key: str, value: str) -> None:
    try:
        parts = urlsplit(value)
        good = bool(parts.scheme and parts.netloc) and not (parts.query or parts.fragment)
        has_secret = parts.password is not None
    except ValueError:
        good, has_secret = False, False
    if has_secret:
        raise ValueError(f"{key}: a URL may not hold credentials; they are the environment's")
    if not good:
        raise ValueError(f"{key}: {value!r:.200} is not a URL")
