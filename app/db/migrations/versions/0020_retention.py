"""Retention of logs and points: rules of projects, and what was removed of a run.

Revises: 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("project", "logs_days", sa.Float(53)),
    ("project", "points_days", sa.Float(53)),
    ("run", "log_removed_at", sa.String()),
    ("run", "points_thinned_at", sa.String()),
)


def upgrade() -> None:
    """Apply this revision."""
    for table, name, kind in _COLUMNS:
        op.add_column(table, sa.Column(name, kind, nullable=True))
    op.create_table(
        "expiration",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("part", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "part"),
    )


def downgrade() -> None:
    """Take this revision back. The rules go, and the record of what was removed."""
    op.drop_table("expiration")
    for table, name, _ in reversed(_COLUMNS):
        op.drop_column(table, name)
