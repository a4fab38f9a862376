"""The schema as SDL, for `schema.graphql`."""

from app.graphql.schema import Schema


def sdl() -> str:
    """The schema definition, sorted, with a final newline."""
    return Schema().as_str() + "\n"
