"""Alert rules of projects, what they have found, and webhooks of projects.

Revises: 0017
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.add_column("webhook", sa.Column("project_id", sa.String(), nullable=True))
    op.create_table(
        "alert_rule",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=True),
        sa.Column("direction", sa.String(), nullable=True),
        sa.Column("value", sa.Float(53), nullable=True),
        sa.Column("points", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("paused_at", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_alert_rule_project", "alert_rule", ["project_id"])
    op.create_table(
        "alert",
        sa.Column("rule_id", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("experiment_id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("value", sa.Float(53), nullable=True),
        sa.Column("fired_at", sa.String(), nullable=False),
        sa.Column("recovered_at", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["rule_id"], ["alert_rule.id"]),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"]),
        sa.PrimaryKeyConstraint("rule_id", "subject"),
    )
    op.create_index("ix_alert_run", "alert", ["run_id"])
    op.create_index("ix_alert_fired", "alert", ["fired_at"])


def downgrade() -> None:
    """Take this revision back. Alert rules go, and webhooks of projects."""
    op.drop_table("alert")
    op.drop_table("alert_rule")
    op.execute(
        "DELETE FROM webhook_delivery WHERE webhook_id IN"
        " (SELECT id FROM webhook WHERE project_id IS NOT NULL)"
    )
    op.execute("DELETE FROM webhook WHERE project_id IS NOT NULL")
    op.drop_column("webhook", "project_id")
