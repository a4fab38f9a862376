"""The quality of a checkpoint: if its metrics or weights hold NaN.

Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("checkpoint", sa.Column("healthy", sa.Boolean(), nullable=True))


def downgrade() -> None:
    op.drop_column("checkpoint", "healthy")
