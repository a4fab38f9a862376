"""An index for the events of a run.

Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies this revision."""
    op.create_index("ix_event_run", "event", ["run_id", "seq"])


def downgrade() -> None:
    """Takes it back."""
    op.drop_index("ix_event_run", "event")
