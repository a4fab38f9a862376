"""Redaction: what should never have been sent is taken out of every document it was copied into.

A document is JSON of any shape: a run's hyperparameters, an event, a message, a stored answer. A
hyperparameter goes by its name and value together; a text of `TEXT_CHARACTERS` and more also
wherever it stands within another text, such as a command line.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

REDACTED = "[redacted]"
TEXT_CHARACTERS = 8
"""A shorter text stands in others by chance."""


def _key(value: object) -> bytes:
    """Return a value as its JSON: 1, 1.0 and true are equal in Python, and are not the same."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


class Secrets(NamedTuple):
    """The secrets to remove: values by name, texts wherever they occur, metrics by key."""

    fields: Mapping[str, frozenset[bytes]]
    texts: tuple[str, ...]
    metrics: frozenset[str]

    @classmethod
    def of(cls, fields: Mapping[str, list[Any]], metrics: frozenset[str]) -> "Secrets":
        """Return the secrets of these values by name."""
        kept = {
            name: [value for value in values if value not in (None, REDACTED)]
            for name, values in fields.items()
        }
        texts = {
            value
            for values in kept.values()
            for value in values
            if isinstance(value, str) and len(value) >= TEXT_CHARACTERS
        }
        longest_first = tuple(sorted(texts, key=lambda text: (-len(text), text)))
        return cls(
            {name: frozenset(map(_key, values)) for name, values in kept.items()},
            longest_first,
            metrics,
        )

    def holds(self, name: str, value: object) -> bool:
        """Return True if this field has a value that is taken out."""
        return name in self.fields and _key(value) in self.fields[name]

    def redact(self, value: Any) -> Any:
        """Return a document without the secrets; the same where it holds none."""
        if isinstance(value, str):
            return self.redact_text(value)
        if isinstance(value, list):
            kept = [item for item in value if not self._is_metric(item)]
            return [self.redact(item) for item in kept]
        if isinstance(value, dict):
            return self._redact_object(value)
        return value

    def _is_metric(self, item: object) -> bool:
        return isinstance(item, dict) and item.get("key") in self.metrics

    def _redact_object(self, fields: dict[str, Any]) -> dict[str, Any]:
        about = fields.get("key")  # a receipt or a finding names its field beside the values
        redacted: dict[str, Any] = {}
        for name, value in fields.items():
            if self.holds(name, value) or (
                isinstance(about, str) and name != "key" and self.holds(about, value)
            ):
                redacted[name] = REDACTED
            elif name == "metrics" and isinstance(value, dict):
                kept = {key: item for key, item in value.items() if key not in self.metrics}
                redacted[name] = self.redact(kept)
            elif name == "value" and about in self.metrics:
                redacted[name] = None
            else:
                redacted[name] = self.redact(value)
        return redacted

    def redact_text(self, text: str) -> str:
        """Return a text without the secrets; one that is JSON is taken for a document."""
        if text[:1] in ("{", "["):
            try:
                value = orjson.loads(text)
            except orjson.JSONDecodeError:
                pass
            else:
                redacted = self.redact(value)
                return text if redacted == value else orjson.dumps(redacted).decode()
        for secret in self.texts:
            text = text.replace(secret, REDACTED)
        return text
