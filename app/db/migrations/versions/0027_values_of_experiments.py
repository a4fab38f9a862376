"""Values of runs that no trainer reports are sorted by experiment, too.

Revises: 0026
"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision. It writes the latest values of all runs."""
    op.add_column("metric_latest", sa.Column("experiment_id", sa.String(), nullable=True))
    op.execute(
        "UPDATE metric_latest SET experiment_id ="
        " (SELECT run.experiment_id FROM run WHERE run.id = metric_latest.run_id"
        " AND run.status NOT IN ('starting', 'running', 'cancelling'))"
    )
    op.create_index(
        "ix_metric_latest_experiment",
        "metric_latest",
        ["experiment_id", "key", "value", "run_id"],
        sqlite_where=sa.text("experiment_id IS NOT NULL"),
        postgresql_where=sa.text("experiment_id IS NOT NULL"),
    )


def downgrade() -> None:
    """Take this revision back."""
    op.drop_index("ix_metric_latest_experiment", "metric_latest")
    op.drop_column("metric_latest", "experiment_id")
