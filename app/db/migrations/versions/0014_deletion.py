"""Deletion: what stays of a deleted run or experiment, and what is still to be removed.

Revises: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_REFERENCES = (
    ("metric_series", "run_id", "run"),
    ("attempt_usage", "run_id", "run"),
    ("attempt_usage", "experiment_id", "experiment"),
)
_NAMES = {"fk": "%(table_name)s_%(column_0_name)s_fkey"}
"""PostgreSQL's names of foreign keys; SQLite's have none until this gives them one."""


def upgrade() -> None:
    """Apply this revision."""
    op.create_table(
        "deletion",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("experiment_id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("checkpoints", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("requested_at", sa.String(), nullable=False),
        sa.Column("finished_at", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_deletion_run", "deletion", ["run_id"])
    op.create_index("ix_deletion_of", "deletion", ["experiment_id"])
    op.create_table(
        "removal",
        sa.Column("owner_id", sa.String(), nullable=False),
        sa.Column("experiment_id", sa.String(), nullable=False),
        sa.Column("deletion_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["deletion_id"], ["deletion.id"]),
        sa.PrimaryKeyConstraint("owner_id"),
    )
    op.create_index("ix_removal_deletion_id", "removal", ["deletion_id"])
    op.create_index("ix_run_tag_run", "run_tag", ["run_id"])
    op.create_index("ix_verification_finding_checkpoint", "verification_finding", ["checkpoint_id"])
    for table, column, _ in _REFERENCES:
        with op.batch_alter_table(table, naming_convention=_NAMES) as batch:
            batch.drop_constraint(f"{table}_{column}_fkey", type_="foreignkey")
    if op.get_bind().dialect.name == "sqlite":
        for name in ("run_search", "experiment_search"):
            index = f"{name}_index"
            op.execute(
                f"CREATE TRIGGER {name}_removed AFTER DELETE ON {name} BEGIN"  # noqa: S608
                f" INSERT INTO {index}({index}, rowid, text)"
                " VALUES ('delete', old.number, old.text); END"
            )


def downgrade() -> None:
    """Take this revision back. What belongs to deleted runs goes: it has nothing to refer to."""
    if op.get_bind().dialect.name == "sqlite":
        for name in ("run_search", "experiment_search"):
            op.execute(f"DROP TRIGGER {name}_removed")
    op.execute(
        "DELETE FROM metric_chunk WHERE series_id IN"
        " (SELECT id FROM metric_series WHERE run_id NOT IN (SELECT id FROM run))"
    )
    for table, column, target in _REFERENCES:
        op.execute(f"DELETE FROM {table} WHERE {column} NOT IN (SELECT id FROM {target})")  # noqa: S608
        with op.batch_alter_table(table) as batch:
            batch.create_foreign_key(f"{table}_{column}_fkey", target, [column], ["id"])
    op.drop_index("ix_verification_finding_checkpoint", "verification_finding")
    op.drop_index("ix_run_tag_run", "run_tag")
    op.drop_table("removal")
    op.drop_table("deletion")
