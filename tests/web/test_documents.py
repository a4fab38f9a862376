"""Every document that the dashboard sends is one that the service answers."""

import pytest
from graphql import parse, validate

from app.graphql.ide import EXAMPLES
from tests.support import graphql_types
from tests.support.graphql_types import GENERATED, documents, generate, schema


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    return documents()


def test_each_document_is_valid_against_the_schema(found: dict[str, str]) -> None:
    assert len(found) > 20
    known = schema()
    wrong = {name: validate(known, parse(text)) for name, text in found.items()}
    assert not {name: errors for name, errors in wrong.items() if errors}


def test_a_field_that_does_not_exist_is_noticed() -> None:
    (error,) = validate(schema(), parse("query Runs { runs(first: 1) { nodes { colour } } }"))
    assert "colour" in error.message
    assert not [each for text in EXAMPLES for each in validate(schema(), parse(text))]


def test_the_types_are_those_of_the_documents_and_the_schema() -> None:
    assert GENERATED.read_text() == generate(), f"run: python -m {graphql_types.__name__}"
