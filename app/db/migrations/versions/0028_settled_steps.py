"""Runs that no trainer reports are sorted by their step.

Revises: 0027
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

_INDEXES = {
    "ix_run_experiment_step": ["experiment_id", "settled_step", "id"],
    "ix_run_step": ["settled_step", "id"],
}


def upgrade() -> None:
    """Apply this revision. It writes all runs."""
    op.add_column("run", sa.Column("settled_step", sa.BigInteger(), nullable=True))
    settled = "status NOT IN ('starting', 'running', 'cancelling')"
    if op.get_bind().dialect.name == "postgresql":
        # An UPDATE would add an entry for each run to every index; this makes them again, once.
        op.execute(
            "ALTER TABLE run ALTER COLUMN settled_step TYPE BIGINT"
            f" USING CASE WHEN {settled} THEN step END"
        )
    else:
        op.execute(f"UPDATE run SET settled_step = step WHERE {settled}")  # noqa: S608
    has_step = sa.text("settled_step IS NOT NULL")
    for name, columns in _INDEXES.items():
        op.create_index(name, "run", columns, sqlite_where=has_step, postgresql_where=has_step)
    op.execute("CREATE INDEX ix_run_reported ON run (experiment_id, id) WHERE settled_step IS NULL")


def downgrade() -> None:
    """Take this revision back."""
    for name in (*_INDEXES, "ix_run_reported"):
        op.drop_index(name, "run")
    op.drop_column("run", "settled_step")
