"""On PostgreSQL each state of what decides who may do what has a name.

Revises: 0025
"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_ALL = "INSERT OR UPDATE OR DELETE OR TRUNCATE"
_TABLES = {
    "account": _ALL,
    "api_token": (
        "INSERT OR UPDATE OF user_id, scope, expires_at, revoked_at OR DELETE OR TRUNCATE"
    ),
    "membership": _ALL,
    "project": _ALL,
    "experiment": "DELETE OR TRUNCATE",
}


def upgrade() -> None:
    """Apply this revision."""
    op.create_table(
        "access_epoch",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(
        "CREATE FUNCTION begin_access_epoch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO access_epoch (id, name) VALUES (1, gen_random_uuid())"
        " ON CONFLICT (id) DO UPDATE SET name = excluded.name; RETURN NULL; END $$"
    )
    op.execute("INSERT INTO access_epoch (id, name) VALUES (1, gen_random_uuid())")
    for table, changes in _TABLES.items():
        op.execute(
            f"CREATE TRIGGER {table}_access AFTER {changes} ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION begin_access_epoch()"
        )


def downgrade() -> None:
    """Take this revision back."""
    if op.get_bind().dialect.name == "postgresql":
        for table in _TABLES:
            op.execute(f"DROP TRIGGER {table}_access ON {table}")
        op.execute("DROP FUNCTION begin_access_epoch()")
    op.drop_table("access_epoch")
