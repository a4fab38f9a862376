"""Alembic's entry: runs the migrations on one connection, all of them or none.

The connection is a new one, or that of the caller's transaction (`migrate.upgrade_within`).
"""

from contextlib import nullcontext

from alembic import context

from app.db.migrate import METADATA, in_one_transaction


def _ours(name: str | None, kind: str, parents: object) -> bool:
    """Leave out the indexes of texts: SQLite's are tables, PostgreSQL's may not be there."""
    return kind not in ("table", "index") or "_search_index" not in (name or "")


_attributes = context.config.attributes
_given = _attributes.get("connection")

with nullcontext(_given) if _given else in_one_transaction(_attributes["url"]) as connection:
    context.configure(
        connection=connection,
        target_metadata=METADATA,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        include_name=_ours,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()
