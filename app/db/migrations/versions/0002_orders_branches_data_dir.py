"""Indexes for every order of a list, the attempts that curves branch from, the data directory.

Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Index, table, columns; and whether it holds only the rows whose time is known.
_INDEXES = (
    ("ix_experiment_name", "experiment", ["name", "id"], None),
    ("ix_run_experiment_started", "run", ["experiment_id", "started_at", "id"], "started_at"),
    ("ix_run_experiment_finished", "run", ["experiment_id", "finished_at", "id"], "finished_at"),
    ("ix_run_started", "run", ["started_at", "id"], "started_at"),
    ("ix_run_finished", "run", ["finished_at", "id"], "finished_at"),
    (
        "ix_checkpoint_experiment_marked",
        "checkpoint",
        ["experiment_id", "marked_at", "id"],
        "marked_at",
    ),
)


def upgrade() -> None:
    """Applies this revision."""
    op.create_table(
        "data_dir",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.add_column("run", sa.Column("source_attempt", sa.Integer(), nullable=True))
    op.add_column("checkpoint", sa.Column("attempt", sa.Integer(), nullable=True))
    for name, table, columns, known in _INDEXES:
        where = None if known is None else sa.text(f"{known} IS NOT NULL")
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    """Takes it back."""
    for name, table, _, _ in _INDEXES:
        op.drop_index(name, table)
    op.drop_column("checkpoint", "attempt")
    op.drop_column("run", "source_attempt")
    op.drop_table("data_dir")
