"""`connect`: the database of a URL. Importing this loads neither driver."""

from typing import TypeVar

from app import tracing
from app.db.database import CONNECTIONS, Database
from app.errors import Unavailable

D = TypeVar("D", bound=Database)


def connect(url: str, connections: int = CONNECTIONS) -> Database:
    """Return the database of a `sqlite:///` or `postgresql+psycopg://` URL. Not yet started.

    `connections`: how many to PostgreSQL at most, `FEWEST` or more. Raises ValueError for another
    URL, Unavailable without PostgreSQL's driver.
    """
    if url.startswith("sqlite:///") and url != "sqlite:///" and ":memory:" not in url:
        if "?" in url:
            raise ValueError(
                "LLM_TRAIN_DATABASE_URL: a SQLite file takes no options, and this service sets its "
                f"own: leave out {url[url.index('?') :]!r}"
            )
        from app.db.sqlite import SqliteDatabase

        return _kind(SqliteDatabase)(url)
    if url.startswith(("postgresql+psycopg://", "postgresql://")):
        try:
            from app.db.postgresql import PostgresDatabase
        except ImportError as error:
            raise Unavailable(
                'PostgreSQL needs its driver: pip install "llm-train-api[postgres]"'
            ) from error
        return _kind(PostgresDatabase)(url, connections)
    raise ValueError(
        "LLM_TRAIN_DATABASE_URL must be sqlite:///FILE or postgresql+psycopg://… "
        f"(it begins with {url.split(':', 1)[0]!r})"
    )


def _kind(kind: type[D]) -> type[D]:
    if not tracing.is_on():
        return kind
    from app.db.traced import trace_database

    return trace_database(kind)
