"""Remembered GraphQL documents: fast to find again, and bounded in bytes."""

import gc
import tracemalloc

from app.graphql.documents import Documents


def large(number: int) -> str:
    """A valid query of as many tokens as one may have, of which each takes little to send."""
    return f"query q{number} {{" + " a" * 1900 + "}"


def test_many_large_queries_take_no_more_memory_than_a_few() -> None:
    documents = Documents(max_bytes=5_000_000)
    tracemalloc.start()
    for number in range(15):
        documents.add(large(number), documents.parse(large(number)))
    gc.collect()  # a document is a cycle
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 6_000_000


def test_the_queries_used_last_are_known_and_not_parsed_again() -> None:
    documents = Documents(max_bytes=5_000_000)
    first = documents.parse("{ a }")
    documents.add("{ a }", first)
    for number in range(15):
        documents.add(large(number), documents.parse(large(number)))
        assert documents.parse("{ a }") is first
    assert documents.is_valid(large(14)) and not documents.is_valid(large(0))
