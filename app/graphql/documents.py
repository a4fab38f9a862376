"""Queries that were parsed and found valid once need not be again.

`operation` looks a query up here before it parses one, and adds it after validation. What an entry
takes is bounded in bytes, not in number: the tree of one query may be as large as a megabyte.
"""

from collections import OrderedDict

from graphql import DocumentNode, parse

from app.graphql import limits

MAX_BYTES = 16_000_000
BYTES_PER_TOKEN = 600
"""A token in memory together with its share of the nodes, as measured (380 to 560)."""


class Documents:
    """Valid documents by their text; those used longest ago are forgotten first."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._valid: OrderedDict[str, tuple[DocumentNode, int]] = OrderedDict()

    def is_valid(self, query: str) -> bool:
        """Return True if this query is known to be valid."""
        return query in self._valid

    def parse(self, query: str) -> DocumentNode:
        """Return the document of a query. Raises GraphQLError, RecursionError."""
        if query in self._valid:
            self._valid.move_to_end(query)
            return self._valid[query][0]
        return parse(query, max_tokens=limits.TOKENS)

    def add(self, query: str, document: DocumentNode) -> None:
        """Remember a valid document."""
        if query in self._valid:
            return
        size = _size(query, document)
        self._valid[query] = document, size
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._bytes -= self._valid.popitem(last=False)[1][1]


def _size(query: str, document: DocumentNode) -> int:
    """Return about how many bytes an entry takes."""
    token = document.loc and document.loc.start_token
    tokens = 0
    while token:
        tokens, token = tokens + 1, token.next
    return tokens * BYTES_PER_TOKEN + 4 * len(query)
