"""Runs and checkpoints are counted as they change, by triggers.

Revises: 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_ADD = (
    "INSERT INTO tally (listed, experiment_id, state, archived, number)"
    " VALUES ('{listed}', {row}.experiment_id, {row}.{state},"
    " CASE WHEN {row}.{archived} THEN 1 ELSE 0 END, {number});"
)
_LISTED = {
    "run": (
        "status", "archived_at IS NOT NULL", "status, archived_at",
        "old.status <> new.status"
        " OR (old.archived_at IS NOT NULL) <> (new.archived_at IS NOT NULL)",
    ),
    "checkpoint": ("state", "state IS NULL", "state", "old.state <> new.state"),
}  # fmt: skip


def upgrade() -> None:
    """Apply this revision."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "tally",
        sa.Column("id", number, nullable=False),
        sa.Column("listed", sa.String(), nullable=False),
        sa.Column("experiment_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("archived", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    columns = ["experiment_id", "listed", "state", "archived", "number"]
    op.create_index("ix_tally", "tally", columns)
    sqlite = op.get_bind().dialect.name == "sqlite"
    for listed, (state, archived, of, moved) in _LISTED.items():
        op.execute(
            "INSERT INTO tally (listed, experiment_id, state, archived, number)"  # noqa: S608
            f" SELECT '{listed}', experiment_id, {state}, CASE WHEN {archived} THEN 1 ELSE 0 END,"
            f" count(*) FROM {listed} GROUP BY 1, 2, 3, 4"
        )
        tallied = {"listed": listed, "state": state, "archived": archived}
        more = _ADD.format(row="new", number="1", **tallied)
        less = _ADD.format(row="old", number="-1", **tallied)
        for text in (_on_sqlite if sqlite else _on_postgresql)(listed, of, moved, more, less):
            op.execute(text)


def _on_sqlite(listed: str, of: str, moved: str, more: str, less: str) -> tuple[str, ...]:
    return (
        f"CREATE TRIGGER {listed}_tally_added AFTER INSERT ON {listed} BEGIN {more} END",
        f"CREATE TRIGGER {listed}_tally_removed AFTER DELETE ON {listed} BEGIN {less} END",
        f"CREATE TRIGGER {listed}_tally_moved AFTER UPDATE OF {of} ON {listed}"
        f" WHEN {moved} BEGIN {less} {more} END",
    )


def _on_postgresql(listed: str, of: str, moved: str, more: str, less: str) -> tuple[str, ...]:
    return (
        f"CREATE FUNCTION {listed}_tally() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF TG_OP <> 'INSERT' THEN {less} END IF; IF TG_OP <> 'DELETE' THEN {more} END IF;"
        " RETURN NULL; END $$",
        f"CREATE TRIGGER {listed}_tally AFTER INSERT OR DELETE ON {listed}"
        f" FOR EACH ROW EXECUTE FUNCTION {listed}_tally()",
        f"CREATE TRIGGER {listed}_tally_moved AFTER UPDATE OF {of} ON {listed}"
        f" FOR EACH ROW WHEN ({moved}) EXECUTE FUNCTION {listed}_tally()",
    )


def downgrade() -> None:
    """Take this revision back."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    for listed in _LISTED:
        if sqlite:
            for name in ("added", "removed", "moved"):
                op.execute(f"DROP TRIGGER {listed}_tally_{name}")
        else:
            op.execute(f"DROP FUNCTION {listed}_tally() CASCADE")
    op.drop_table("tally")
