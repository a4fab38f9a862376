"""PostgreSQL walks the index of an experiment for its lists, however many runs are newer.

Revises: 0028
"""

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

_COLUMNS = {
    "run": ("created_at", "started_at", "finished_at"),
    "checkpoint": ("created_at",),
    "experiment": ("created_at",),
}


def upgrade() -> None:
    """Apply this revision."""
    # To give a column its own type again forgets its statistics.
    _alter("ALTER {0} TYPE VARCHAR, ALTER {0} SET STATISTICS 0")


def downgrade() -> None:
    """Take this revision back."""
    _alter("ALTER {0} SET STATISTICS -1")


def _alter(change: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table, names in _COLUMNS.items():
            op.execute(f"ALTER TABLE {table} {', '.join(map(change.format, names))}")
