"""Prefixed, time-sortable ids: `exp_…`, `run_…`, `ckpt_…`; and the clock: times as text.

An id is its prefix and 26 characters of lower-case Crockford base 32: 56 bits of
microseconds since 1970, then 74 random bits. Ids of one server sort by creation time.
"""

import os
import re
import time
from datetime import UTC, datetime, timedelta

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_OF_BYTES = bytes(map(ord, _ALPHABET)) * 8
"""The character of each byte: of its five lower bits."""
PATTERN = "^{}_[0-9a-hjkmnp-tv-z]{{26}}$"
"""What an id looks like, to be formatted with its prefix."""
SHORTEST_END = 4
"""So many of its last characters, 20 random bits, are enough to look for an id."""
_PATTERN = re.compile(PATTERN.format("(exp|run|ckpt|vfy|whk|dlv|del|prj|usr|tok|aud)"))


def new_id(prefix: str) -> str:
    """Return a fresh id, e.g. `run_0695t3q0c4…`."""
    noise = os.urandom(15)
    start = _encode(time.time_ns() // 1000 << 4 | noise[0] & 15)
    return f"{prefix}_{start}{noise[1:].translate(_OF_BYTES).decode()}"


def lowest_id(prefix: str, moment: str) -> str:
    """Return the id that is lower than all of a time or later, and higher than all before it."""
    micros = (datetime.fromisoformat(moment) - _EPOCH) // timedelta(microseconds=1)
    return f"{prefix}_{_encode(micros << 4)}{14 * _ALPHABET[0]}"


def _encode(start: int) -> str:
    """Return the first 12 characters: the time, and four random bits."""
    return "".join([_PAIRS[start >> shift & 1023] for shift in range(50, -1, -10)])


def is_id(text: str, prefix: str) -> bool:
    """Return True if `text` has the shape of an id with this prefix."""
    return text.startswith(prefix + "_") and _PATTERN.fullmatch(text) is not None


def timestamp(moment: datetime | None = None) -> str:
    """Return UTC in ISO 8601, always 32 characters, so that text order is time order."""
    moment = moment or datetime.now(UTC)
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def parse_timestamp(text: object) -> str:
    """Return a time from outside in the form of `timestamp`. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError("must be a string such as 2026-01-31T12:00:00Z")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("must have an offset, such as Z or +01:00")
    try:
        return timestamp(moment)
    except OverflowError:
        raise ValueError("is out of range") from None


def seconds_between(earlier: str, later: str) -> float:
    """Return the seconds from one timestamp to another."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def timestamp_after(moment: str, seconds: float) -> str:
    """Return the timestamp `seconds` after another one."""
    return timestamp(datetime.fromisoformat(moment) + timedelta(seconds=seconds))
