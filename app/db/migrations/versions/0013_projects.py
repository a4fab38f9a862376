"""Projects, users, their tokens and memberships; every experiment is in the default project.

Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_DEFAULT = "prj_00000000000000000000000000"


def upgrade() -> None:
    """Apply this revision."""
    project = op.create_table(
        "project",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    created_at = "2026-01-01T00:00:00.000000+00:00"
    op.bulk_insert(project, [{"id": _DEFAULT, "name": "default", "created_at": created_at}])
    op.create_table(
        "account",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=True),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column("issuer", sa.String(), nullable=True),
        sa.Column("subject", sa.String(), nullable=True),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("disabled_at", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "membership",
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["account.id"]),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("user_id", "project_id"),
    )
    op.create_table(
        "api_token",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("expires_at", sa.String(), nullable=True),
        sa.Column("revoked_at", sa.String(), nullable=True),
        sa.Column("last_used_at", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["account.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ux_project_name", "project", ["name"], unique=True)
    op.create_index("ux_account_name", "account", ["name"], unique=True)
    op.create_index("ux_account_subject", "account", ["issuer", "subject"], unique=True)
    op.create_index("ix_membership_project", "membership", ["project_id"])
    op.create_index("ux_api_token_sha256", "api_token", ["sha256"], unique=True)
    op.create_index("ix_api_token_user", "api_token", ["user_id"])
    op.add_column(
        "experiment", sa.Column("project_id", sa.String(), nullable=False, server_default=_DEFAULT)
    )
    op.create_index("ix_experiment_project", "experiment", ["project_id", "created_at", "id"])


def downgrade() -> None:
    """Take this revision back."""
    op.drop_index("ix_experiment_project", "experiment")
    op.drop_column("experiment", "project_id")
    for table in ("api_token", "membership", "account", "project"):
        op.drop_table(table)
