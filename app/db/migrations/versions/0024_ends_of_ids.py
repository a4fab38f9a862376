"""Runs are found by the end of their id, which people use as a short one.

Revises: 0023
"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision. It reads all runs."""
    op.execute("CREATE INDEX ix_run_end ON run (substr(id, 27))")


def downgrade() -> None:
    """Take this revision back."""
    op.execute("DROP INDEX ix_run_end")
