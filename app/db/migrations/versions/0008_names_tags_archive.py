"""Names, tags, priorities and the archive of runs; notes and the archive of experiments.

Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_NAMED = sa.text("name IS NOT NULL")
_ARCHIVED = sa.text("archived_at IS NOT NULL")
_QUEUE = sa.text("status = 'queued' AND recipe IS NOT NULL")


def upgrade() -> None:
    """Applies this revision."""
    op.add_column("run", sa.Column("name", sa.String(), nullable=True))
    op.add_column("run", sa.Column("tags", sa.Text(), nullable=False, server_default="[]"))
    op.add_column("run", sa.Column("archived_at", sa.String(), nullable=True))
    op.add_column("run", sa.Column("priority", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("experiment", sa.Column("notes", sa.String(), nullable=True))
    op.add_column("experiment", sa.Column("archived_at", sa.String(), nullable=True))
    op.create_table(
        "run_tag",
        sa.Column("tag", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"]),
        sa.PrimaryKeyConstraint("tag", "run_id"),
    )
    op.drop_index("ix_run_queue", "run")
    for name, columns, where in (
        ("ix_run_queue", ["status", "priority", "id"], _QUEUE),
        ("ix_run_name", ["name", "created_at", "id"], _NAMED),
        ("ix_run_archived", ["experiment_id", "status", "created_at", "id"], _ARCHIVED),
    ):
        op.create_index(name, "run", columns, sqlite_where=where, postgresql_where=where)
    if op.get_bind().dialect.name == "sqlite":
        for name in ("run_search", "experiment_search"):
            index = f"{name}_index"
            op.execute(
                f"CREATE TRIGGER {name}_changed AFTER UPDATE ON {name} BEGIN"  # noqa: S608
                f" INSERT INTO {index}({index}, rowid, text)"
                " VALUES ('delete', old.number, old.text);"
                f" INSERT INTO {index}(rowid, text) VALUES (new.number, new.text); END"
            )


def downgrade() -> None:
    """Takes it back."""
    if op.get_bind().dialect.name == "sqlite":
        for name in ("run_search", "experiment_search"):
            op.execute(f"DROP TRIGGER {name}_changed")
    for name in ("ix_run_archived", "ix_run_name", "ix_run_queue"):
        op.drop_index(name, "run")
    op.create_index(
        "ix_run_queue", "run", ["status", "id"], sqlite_where=_QUEUE, postgresql_where=_QUEUE
    )
    op.drop_table("run_tag")
    op.drop_column("experiment", "archived_at")
    op.drop_column("experiment", "notes")
    for column in ("priority", "archived_at", "tags", "name"):
        op.drop_column("run", column)
