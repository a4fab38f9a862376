"""The source of a run: its trainer's commit, command, packages and machine.

Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run", sa.Column("source", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("run", "source")
