"""Gates of projects: what a checkpoint of theirs must meet to become a release.

Revises: 0020
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("release_metrics", sa.Text()),
    ("release_verified_hours", sa.Float(53)),
    ("release_approval", sa.Boolean()),
)


def upgrade() -> None:
    """Apply this revision."""
    for name, kind in _COLUMNS:
        op.add_column("project", sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    """Take this revision back. The gates go."""
    for name, _ in reversed(_COLUMNS):
        op.drop_column("project", name)
