"""Events have an actor, and what users write is on record.

Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.add_column("event", sa.Column("actor_kind", sa.String(), nullable=True))
    op.add_column("event", sa.Column("actor_name", sa.String(), nullable=True))
    op.create_table(
        "audit_entry",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("at", sa.String(), nullable=False),
        sa.Column("actor_kind", sa.String(), nullable=False),
        sa.Column("actor_name", sa.String(), nullable=True),
        sa.Column("token_id", sa.String(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("target_id", sa.String(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_audit_entry_actor", "audit_entry", ["actor_name", "id"])
    op.create_index("ix_audit_entry_target", "audit_entry", ["target_id", "id"])


def downgrade() -> None:
    """Take this revision back."""
    op.drop_table("audit_entry")
    op.drop_column("event", "actor_name")
    op.drop_column("event", "actor_kind")
