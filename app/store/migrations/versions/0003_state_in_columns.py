"""State that stood in sentences, or in columns of two meanings, gets columns of its own.

Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_RUN = (
    "host",
    "termination_reason",
    "termination_detail",
    "next_attempt_at",
    "last_progress_at",
)
_CHECKPOINT = ("saved_at", "files_removed_at")


def upgrade() -> None:
    """Apply this revision."""
    op.add_column("run", sa.Column("sessions", sa.Text(), nullable=False, server_default="[]"))
    for name in _RUN:
        op.add_column("run", sa.Column(name, sa.String(), nullable=True))
    for name in _CHECKPOINT:
        op.add_column("checkpoint", sa.Column(name, sa.String(), nullable=True))
    # Until now the decision to end a trainer stood in status_reason, and nothing else did there.
    op.execute(
        "UPDATE run SET termination_reason = status_reason, termination_detail = status_detail"
        " WHERE status IN ('starting', 'running') AND status_reason IS NOT NULL"
    )


def downgrade() -> None:
    """Take it back."""
    op.execute(
        "UPDATE run SET status_reason = termination_reason, status_detail = termination_detail"
        " WHERE status IN ('starting', 'running') AND termination_reason IS NOT NULL"
    )
    for name in _CHECKPOINT:
        op.drop_column("checkpoint", name)
    for name in (*_RUN, "sessions"):
        op.drop_column("run", name)
