"""The account of work: what each attempt took.

Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.create_table(
        "attempt_usage",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("experiment_id", sa.String(), nullable=False),
        sa.Column("ended_at", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("used_seconds", sa.Float(53), nullable=False),
        sa.Column("wasted_seconds", sa.Float(53), nullable=False),
        sa.Column("waited_seconds", sa.Float(53), nullable=False),
        sa.Column("saved_seconds", sa.Float(53), nullable=False),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiment.id"]),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"]),
        sa.PrimaryKeyConstraint("run_id", "attempt"),
    )
    op.create_index("ix_attempt_usage_experiment", "attempt_usage", ["experiment_id", "ended_at"])
    op.create_index("ix_attempt_usage_ended", "attempt_usage", ["ended_at"])


def downgrade() -> None:
    """Take this revision back."""
    op.drop_table("attempt_usage")
