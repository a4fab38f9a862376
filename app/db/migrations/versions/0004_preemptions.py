"""The number of preemptions of a run, which count as no attempt; the nodes of an attempt.

Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "run", sa.Column("preemptions", sa.Integer(), nullable=False, server_default=sa.text("0"))
    )
    op.add_column("attempt", sa.Column("nodes", sa.Text(), nullable=True))
    op.add_column("attempt", sa.Column("reason", sa.String(), nullable=True))
    op.create_index(
        "ix_attempt_failed",
        "attempt",
        ["reason", "claimed_at"],
        sqlite_where=sa.text("reason IS NOT NULL"),
        postgresql_where=sa.text("reason IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_attempt_failed", "attempt")
    op.drop_column("attempt", "reason")
    op.drop_column("attempt", "nodes")
    op.drop_column("run", "preemptions")
