"""Answers that fit into an agent's context: what is too long is cut, and it is said."""

import json
from typing import Any

MAX_TEXT = 2_000
MAX_ITEMS = 200
MAX_KEYS = 100
MAX_DEPTH = 6
MAX_BYTES = 60_000
"""Of a whole answer as JSON."""


def cut_answer(answer: dict[str, Any], rows: str | None = None) -> dict[str, Any]:
    """Return the answer, cut to `MAX_BYTES`, with `truncated`: whether anything is missing.

    Args:
        rows: the field whose list loses its end where the whole is still too large.
    """
    already = bool(answer.pop("truncated", False))
    cut, truncated = _cut(answer, 0)
    while rows and len(cut[rows]) > 1 and _size(cut) > MAX_BYTES:
        cut[rows] = cut[rows][: len(cut[rows]) // 2]
        truncated = True
    if _size(cut) > MAX_BYTES:
        text = json.dumps(cut, ensure_ascii=False)[: MAX_BYTES // 4]
        cut, truncated = {"beginning": text}, True
    return {**cut, "truncated": already or truncated}


def _size(value: Any) -> int:
    return len(json.dumps(value).encode())


def _cut(value: Any, depth: int) -> tuple[Any, bool]:
    if isinstance(value, str):
        return (value, False) if len(value) <= MAX_TEXT else (value[:MAX_TEXT] + "…", True)
    if not isinstance(value, dict | list):
        return value, False
    if depth == MAX_DEPTH:
        return "…", True
    if isinstance(value, list):
        parts = [_cut(item, depth + 1) for item in value[:MAX_ITEMS]]
        return [part for part, _ in parts], len(value) > MAX_ITEMS or any(cut for _, cut in parts)
    fields, truncated = {}, len(value) > MAX_KEYS
    for key in list(value)[:MAX_KEYS]:
        fields[key[:MAX_TEXT]], cut = _cut(value[key], depth + 1)
        truncated |= cut
    return fields, truncated
