"""Runs that are not archived are found where nearly all of an experiment are.

Revises: 0024
"""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision. It reads all runs."""
    active = "coalesce(archived_at, '') = ''"
    op.execute(f"CREATE INDEX ix_run_active ON run (experiment_id, id) WHERE {active}")


def downgrade() -> None:
    """Take this revision back."""
    op.execute("DROP INDEX ix_run_active")
