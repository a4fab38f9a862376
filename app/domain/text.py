"""Text that every database can store and every client can read."""

import re

_SURROGATE = re.compile(r"[\ud800-\udfff]")


def on_one_line(text: str) -> str:
    """Return the text with a space for each control character: line breaks, terminal escapes."""
    return "".join(c if c.isprintable() else " " for c in text)


def clean(text: str) -> str:
    """Return the text. Raises ValueError where it holds NUL or lone surrogates."""
    # The first test is for speed: it settles nearly every text.
    if not text.isprintable() and ("\x00" in text or _SURROGATE.search(text)):
        raise ValueError("must not hold NUL or lone surrogate characters")
    return text
