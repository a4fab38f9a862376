"""The number of GPUs that a run holds, which its recipe may say.

Revises: 0018
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.add_column("run", sa.Column("gpus_held", sa.Integer(), nullable=True))


def downgrade() -> None:
    """Take this revision back."""
    op.drop_column("run", "gpus_held")
