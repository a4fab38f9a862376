"""The first tables.

Revises: nothing
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies this revision."""
    op.create_table(
        "experiment",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("task_type", sa.String(), nullable=False),
        sa.Column("goal", sa.String(), nullable=True),
        sa.Column("version", sa.String(), nullable=True),
        sa.Column("base_model", sa.String(), nullable=True),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("param_config", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_experiment_created", "experiment", ["created_at", "id"], unique=False)

    op.create_table(
        "idempotency_key",
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("request_sha256", sa.String(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key"),
    )
    op.create_index("ix_idempotency_created", "idempotency_key", ["created_at"], unique=False)

    op.create_table(
        "event",
        sa.Column("experiment_id", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("at", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("data", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiment.id"],
        ),
        sa.PrimaryKeyConstraint("experiment_id", "seq"),
    )
    op.create_table(
        "experiment_tag",
        sa.Column("tag", sa.String(), nullable=False),
        sa.Column("experiment_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiment.id"],
        ),
        sa.PrimaryKeyConstraint("tag", "experiment_id"),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("experiment_id", sa.String(), nullable=False),
        sa.Column("parent_run_id", sa.String(), nullable=True),
        sa.Column("root_run_id", sa.String(), nullable=False),
        sa.Column("source_checkpoint_id", sa.String(), nullable=True),
        sa.Column("source_ckpt_path", sa.String(), nullable=True),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("recipe", sa.String(), nullable=True),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("hyperparams", sa.Text(), nullable=False),
        sa.Column("override_hyperparams", sa.Text(), nullable=False),
        sa.Column("effective_hyperparams", sa.Text(), nullable=True),
        sa.Column("resources", sa.Text(), nullable=False),
        sa.Column("notes", sa.String(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("status_reason", sa.String(), nullable=True),
        sa.Column("status_detail", sa.String(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("start_step", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("total_steps", sa.BigInteger(), nullable=True),
        sa.Column("last_batch", sa.BigInteger(), nullable=False),
        sa.Column("finished", sa.Boolean(), nullable=False),
        sa.Column("gpus", sa.String(), nullable=False),
        sa.Column("nonce", sa.String(), nullable=True),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("started_at", sa.String(), nullable=True),
        sa.Column("finished_at", sa.String(), nullable=True),
        sa.Column("heartbeat_at", sa.String(), nullable=True),
        sa.Column("launched_at", sa.String(), nullable=True),
        sa.Column("cancel_requested_at", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiment.id"],
        ),
        sa.ForeignKeyConstraint(
            ["parent_run_id"],
            ["run.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_run_created", "run", ["created_at", "id"], unique=False)
    op.create_index("ix_run_experiment", "run", ["experiment_id", "created_at", "id"], unique=False)
    op.create_index(
        "ix_run_experiment_status",
        "run",
        ["experiment_id", "status", "created_at", "id"],
        unique=False,
    )
    op.create_index("ix_run_parent", "run", ["parent_run_id"], unique=False)
    op.create_index(
        "ix_run_queue",
        "run",
        ["status", "id"],
        unique=False,
        sqlite_where=sa.text("status = 'queued' AND recipe IS NOT NULL"),
        postgresql_where=sa.text("status = 'queued' AND recipe IS NOT NULL"),
    )
    op.create_index("ix_run_root", "run", ["root_run_id"], unique=False)
    op.create_index("ix_run_status", "run", ["status", "created_at", "id"], unique=False)

    op.create_table(
        "checkpoint",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("experiment_id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("ckpt_path", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("stored_as_id", sa.String(), nullable=True),
        sa.Column("tag_type", sa.String(), nullable=True),
        sa.Column("release_tag", sa.String(), nullable=True),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("marked_at", sa.String(), nullable=True),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiment.id"],
        ),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["run.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_checkpoint_created", "checkpoint", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_checkpoint_experiment",
        "checkpoint",
        ["experiment_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_checkpoint_experiment_state",
        "checkpoint",
        ["experiment_id", "state", "created_at", "id"],
        unique=False,
    )
    op.create_index("ix_checkpoint_run", "checkpoint", ["run_id", "created_at", "id"], unique=False)
    op.create_index(
        "ix_checkpoint_state", "checkpoint", ["state", "created_at", "id"], unique=False
    )
    op.create_index("ix_checkpoint_stored_as", "checkpoint", ["stored_as_id"], unique=False)
    op.create_index("ux_checkpoint_path", "checkpoint", ["ckpt_path"], unique=True)
    op.create_index(
        "ux_checkpoint_release", "checkpoint", ["experiment_id", "release_tag"], unique=True
    )

    op.create_table(
        "metric_latest",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Float(precision=53), nullable=True),
        sa.Column("wall_time", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["run.id"],
        ),
        sa.PrimaryKeyConstraint("run_id", "key"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_metric_latest_value", "metric_latest", ["key", "value", "run_id"], unique=False
    )

    op.create_table(
        "metric_series",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("start_step", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["run.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ux_metric_series", "metric_series", ["run_id", "attempt", "key"], unique=True)

    op.create_table(
        "metric_chunk",
        sa.Column("series_id", sa.BigInteger(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("sketch", sa.LargeBinary(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_id"],
            ["metric_series.id"],
        ),
        sa.PrimaryKeyConstraint("series_id", "first_step"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Takes this revision back."""
    op.drop_table("metric_chunk")
    op.drop_index("ux_metric_series", "metric_series")

    op.drop_table("metric_series")
    op.drop_index("ix_metric_latest_value", "metric_latest")

    op.drop_table("metric_latest")
    op.drop_index("ux_checkpoint_release", "checkpoint")
    op.drop_index("ux_checkpoint_path", "checkpoint")
    op.drop_index("ix_checkpoint_stored_as", "checkpoint")
    op.drop_index("ix_checkpoint_state", "checkpoint")
    op.drop_index("ix_checkpoint_run", "checkpoint")
    op.drop_index("ix_checkpoint_experiment_state", "checkpoint")
    op.drop_index("ix_checkpoint_experiment", "checkpoint")
    op.drop_index("ix_checkpoint_created", "checkpoint")

    op.drop_table("checkpoint")
    op.drop_index("ix_run_status", "run")
    op.drop_index("ix_run_root", "run")
    op.drop_index("ix_run_queue", "run")
    op.drop_index("ix_run_parent", "run")
    op.drop_index("ix_run_experiment_status", "run")
    op.drop_index("ix_run_experiment", "run")
    op.drop_index("ix_run_created", "run")

    op.drop_table("run")
    op.drop_table("experiment_tag")
    op.drop_table("event")
    op.drop_index("ix_idempotency_created", "idempotency_key")

    op.drop_table("idempotency_key")
    op.drop_index("ix_experiment_created", "experiment")

    op.drop_table("experiment")
