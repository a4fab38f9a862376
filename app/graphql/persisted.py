"""Automatic persisted queries: a client sends the hash of a query it has sent before."""

import hashlib
from collections import OrderedDict

MOST = 1_000
MOST_CHARACTERS = 4_000_000


class PersistedQueries:
    """The queries that were registered last, bounded in number and in size."""

    def __init__(self) -> None:
        self._queries: OrderedDict[str, str] = OrderedDict()
        self._characters = 0

    def find(self, sha256: str) -> str | None:
        """The query with this hash."""
        query = self._queries.get(sha256)
        if query is not None:
            self._queries.move_to_end(sha256)
        return query

    def add(self, sha256: str, query: str) -> bool:
        """Remembers a query; False if this is not its hash."""
        if hashlib.sha256(query.encode("utf-8", "surrogatepass")).hexdigest() != sha256:
            return False
        if sha256 not in self._queries:
            self._queries[sha256] = query
            self._characters += len(query)
            while len(self._queries) > MOST or self._characters > MOST_CHARACTERS:
                self._characters -= len(self._queries.popitem(last=False)[1])
        return True
