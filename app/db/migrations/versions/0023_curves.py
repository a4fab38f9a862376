"""Retention of curves: rules of projects, and when the points of a run were removed.

Revises: 0022
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.add_column("project", sa.Column("curves_days", sa.Float(53), nullable=True))
    op.add_column("run", sa.Column("points_removed_at", sa.String(), nullable=True))


def downgrade() -> None:
    """Take this revision back. The rules go, and the record of what was removed."""
    op.drop_column("run", "points_removed_at")
    op.drop_column("project", "curves_days")
