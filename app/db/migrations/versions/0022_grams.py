"""Texts are found by their grams on both databases: short ones, and those of any script, as well.

Revises: 0021
"""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_TABLES = ("run_search", "experiment_search")
_END = "char(31, 31)"
_GRAMS = (
    "CREATE FUNCTION search_grams(value text) RETURNS tsvector LANGUAGE plpgsql"
    " IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS $$"
    " DECLARE letters text[] := string_to_array(value, NULL); grams text[] := '{}';"
    " BEGIN FOR i IN 1 .. cardinality(letters) LOOP"
    " grams[i] := concat(letters[i], letters[i + 1], letters[i + 2]);"
    " END LOOP; RETURN array_to_tsvector(grams); END $$"
)


def upgrade() -> None:
    """Apply this revision. It reads all texts."""
    if op.get_bind().dialect.name != "sqlite":
        op.execute(_GRAMS)
    for table in _TABLES:
        if op.get_bind().dialect.name == "sqlite":
            _drop_sqlite(table)
            _on_sqlite(table, f" || {_END}", "content=''")
            op.execute(
                f"CREATE VIRTUAL TABLE {table}_index_grams"
                f" USING fts5vocab({table}_index, 'instance')"
            )
            op.execute(
                f"INSERT INTO {table}_index(rowid, text)"  # noqa: S608 - our own names
                f" SELECT number, text || {_END} FROM {table}"
            )
        else:
            op.execute(f"DROP INDEX IF EXISTS {table}_index")
            op.execute(f"CREATE INDEX {table}_index ON {table} USING gin (search_grams(text))")


def downgrade() -> None:
    """Take this revision back. The version before makes its own index of PostgreSQL's texts."""
    for table in _TABLES:
        if op.get_bind().dialect.name == "sqlite":
            op.execute(f"DROP TABLE {table}_index_grams")
            _drop_sqlite(table)
            _on_sqlite(table, "", f"content='{table}', content_rowid='number'")
            op.execute(f"INSERT INTO {table}_index({table}_index) VALUES ('rebuild')")  # noqa: S608
        else:
            op.execute(f"DROP INDEX {table}_index")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION search_grams")


def _drop_sqlite(table: str) -> None:
    for name in ("added", "changed", "removed"):
        op.execute(f"DROP TRIGGER {table}_{name}")
    op.execute(f"DROP TABLE {table}_index")


def _on_sqlite(table: str, end: str, content: str) -> None:
    index = f"{table}_index"
    add = f"INSERT INTO {index}(rowid, text) VALUES (new.number, new.text{end});"  # noqa: S608
    remove = (
        f"INSERT INTO {index}({index}, rowid, text)"  # noqa: S608
        f" VALUES ('delete', old.number, old.text{end});"
    )
    op.execute(
        f"CREATE VIRTUAL TABLE {index} USING fts5(text, {content},"
        " tokenize='trigram case_sensitive 1', detail='none', columnsize=0)"
    )
    op.execute(f"CREATE TRIGGER {table}_added AFTER INSERT ON {table} BEGIN {add} END")
    op.execute(f"CREATE TRIGGER {table}_changed AFTER UPDATE ON {table} BEGIN {remove} {add} END")
    op.execute(f"CREATE TRIGGER {table}_removed AFTER DELETE ON {table} BEGIN {remove} END")
