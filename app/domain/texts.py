"""Texts as they are compared in a search: without case, and composed."""

import unicodedata
from collections.abc import Iterable

BETWEEN = "\x1f"
"""Between the fields of one searchable text, so that no term is found across them."""


def fold(text: str) -> str:
    """Return the text as it is compared: `É` as one character or as two, large or small."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def searchable(fields: Iterable[str | None]) -> str:
    """Return one folded text of several fields."""
    return fold(BETWEEN.join(field for field in fields if field))
