"""Quotas: how much the runs of a project may have at a time.

Revises: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_COLUMNS = (("max_runs", sa.Integer()), ("max_gpus", sa.Integer()), ("max_bytes", sa.BigInteger()))


def upgrade() -> None:
    """Apply this revision."""
    for name, kind in _COLUMNS:
        op.add_column("project", sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    """Take this revision back. Quotas go."""
    for name, _ in reversed(_COLUMNS):
        op.drop_column("project", name)
