"""State that stood in sentences, or in columns of two meanings, gets columns of its own.

Revises: 0002
"""

import json
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_RUN = (
    "host",
    "launcher",
    "engine_id",
    "submitted_at",
    "claimed_at",
    "termination_reason",
    "termination_detail",
    "pace_clock",
    "next_attempt_at",
    "last_progress_at",
    "promised_checkpoint_id",
)
_CHECKPOINT = ("saved_at", "files_removed_at")

_run = sa.table(
    "run",
    sa.column("id", sa.String),
    sa.column("recipe", sa.String),
    sa.column("nonce", sa.String),
    sa.column("sessions", sa.Text),
    sa.column("status", sa.String),
    sa.column("status_detail", sa.String),
    sa.column("attempt", sa.Integer),
    sa.column("effective_attempt", sa.Integer),
)
_LIVE = "status IN ('cancelling', 'running', 'starting')"
_INDEXES = {
    "ix_run_launched": f"{_LIVE} AND recipe IS NOT NULL",
    "ix_run_submitted": "status = 'queued' AND submitted_at IS NOT NULL",
    "ix_run_ending": f"{_LIVE} AND recipe IS NULL"
    " AND (finished OR status = 'cancelling' OR termination_reason IS NOT NULL)",
}
_IGNORED = "The trainer ignored "


def upgrade() -> None:
    """Apply this revision."""
    op.create_table(
        "service_secret",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.add_column("run", sa.Column("sessions", sa.Text(), nullable=False, server_default="[]"))
    op.add_column(
        "run", sa.Column("session_closed", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column(
        "run", sa.Column("pace_steps", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.add_column(
        "run", sa.Column("pace_seconds", sa.Float(53), nullable=False, server_default="0")
    )
    op.add_column(
        "run", sa.Column("history_bytes", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.add_column("run", sa.Column("effective_attempt", sa.Integer(), nullable=True))
    for name in _RUN:
        op.add_column("run", sa.Column(name, sa.String(), nullable=True))
    for name in _CHECKPOINT:
        op.add_column("checkpoint", sa.Column(name, sa.String(), nullable=True))
    for name, rows in _INDEXES.items():
        where = sa.text(rows)
        op.create_index(name, "run", ["status", "id"], sqlite_where=where, postgresql_where=where)
    # Until now the decision to end a trainer stood in status_reason, and nothing else did there.
    op.execute(
        "UPDATE run SET termination_reason = status_reason, termination_detail = status_detail"
        " WHERE status IN ('starting', 'running') AND status_reason IS NOT NULL"
    )
    # A living run keeps the launcher that it has, and a clock for what comes after its claim.
    op.execute(
        "UPDATE run SET launcher = 'local', submitted_at = launched_at, claimed_at = launched_at"  # noqa: S608
        f" WHERE {_LIVE} AND recipe IS NOT NULL"
    )
    # What the trainer of a running run ignored stood in the detail; it follows from the overrides.
    ignores = sa.and_(_run.c.status == "running", _run.c.status_detail.contains(_IGNORED))
    _move(
        "status_detail", ignores, lambda held: {
            "status_detail": held.partition(_IGNORED)[0].strip() or None,
            "effective_attempt": _run.c.attempt,
        },
    )  # fmt: skip
    # A latest value that is infinite is NULL, as one that is NaN. In PostgreSQL, NaN is above all.
    op.execute(
        "UPDATE metric_latest SET value = NULL"
        " WHERE value > 1.7976931348623157e308 OR value < -1.7976931348623157e308"
    )
    # The nonce of an external run held the sessions of its trainers, with blanks between them.
    external = sa.and_(_run.c.recipe.is_(None), _run.c.nonce.is_not(None))
    _move("nonce", external, lambda held: {"sessions": json.dumps(held.split()), "nonce": None})
    _fill_saved_at()
    _mark_deleted()
    _name_promised()
    op.create_index("ix_checkpoint_run_saved", "checkpoint", ["run_id", "saved_at", "id"])
    _add_search()
    _create_verifications()
    _create_attempts()


def downgrade() -> None:
    """Take it back."""
    for name in _INDEXES:
        op.drop_index(name, "run")
    # The version before takes any reason of a running run for the decision to end it.
    op.execute(
        "UPDATE run SET status_reason = NULL, status_detail = NULL"
        " WHERE status IN ('starting', 'running') AND termination_reason IS NULL"
    )
    op.drop_table("attempt")
    op.drop_table("verification_finding")
    op.drop_table("verification")
    op.drop_index("ix_checkpoint_run_saved", "checkpoint")
    for gone, reason in (("NULL", _DELETING), ("NOT NULL", _DELETED)):
        op.execute(
            f"UPDATE checkpoint SET state = 'lost', reason = '{reason}' "  # noqa: S608
            f"WHERE state = 'deleted' AND files_removed_at IS {gone}"
        )
    op.drop_table("service_secret")
    for table in _SEARCHED:
        if op.get_bind().dialect.name == "sqlite":
            op.execute(f"DROP TABLE {table}_search_index")
        op.drop_table(f"{table}_search")
    op.execute(
        "UPDATE run SET status_reason = termination_reason, status_detail = termination_detail"
        " WHERE status IN ('starting', 'running') AND termination_reason IS NOT NULL"
    )
    external = sa.and_(_run.c.recipe.is_(None), _run.c.sessions != "[]")
    _move("sessions", external, lambda held: {"nonce": " ".join(json.loads(held))})
    for name in _CHECKPOINT:
        op.drop_column("checkpoint", name)
    for name in (
        *_RUN,
        "session_closed",
        "sessions",
        "pace_steps",
        "pace_seconds",
        "history_bytes",
        "effective_attempt",
    ):
        op.drop_column("run", name)


def _move(
    column: str, where: sa.ColumnElement[bool], changes: Callable[[str], dict[str, Any]]
) -> None:
    """Write what follows from a column of some runs into other columns."""
    connection = op.get_bind()
    for run_id, held in connection.execute(sa.select(_run.c.id, _run.c[column]).where(where)).all():
        connection.execute(sa.update(_run).where(_run.c.id == run_id).values(changes(held)))


_DELETING, _DELETED = "Retention is deleting it.", "Deleted by retention."


def _fill_saved_at() -> None:
    """A checkpoint was saved when it last became pending, else when it became known."""
    connection = op.get_bind()
    announced = {}
    for at, data in connection.execute(
        sa.text(
            "SELECT at, data FROM event WHERE type = 'checkpoint.pending' "
            "ORDER BY experiment_id, seq"
        )
    ):
        announced[json.loads(data).get("checkpoint_id")] = at
    rows = connection.execute(
        sa.text(
            "SELECT id, created_at FROM checkpoint "
            "WHERE step IS NOT NULL AND state <> 'empty' AND stored_as_id IS NULL"
        )
    ).all()
    if rows:
        connection.execute(
            sa.text("UPDATE checkpoint SET saved_at = :at WHERE id = :id"),
            [{"id": id, "at": announced.get(id, created_at)} for id, created_at in rows],
        )
    # Once for each link of the longest chain of aliases.
    while connection.execute(
        sa.text(
            "UPDATE checkpoint SET saved_at = (SELECT stored.saved_at FROM checkpoint AS stored "
            "WHERE stored.id = checkpoint.stored_as_id) WHERE saved_at IS NULL AND EXISTS ("
            "SELECT 1 FROM checkpoint AS stored WHERE stored.id = checkpoint.stored_as_id "
            "AND stored.saved_at IS NOT NULL)"
        )
    ).rowcount:
        pass


def _mark_deleted() -> None:
    """Mark checkpoints that retention removed: they were `lost`, with one of two sentences why."""
    op.execute(
        "UPDATE checkpoint SET state = 'deleted', files_removed_at = created_at "  # noqa: S608
        f"WHERE state = 'lost' AND reason = '{_DELETED}'"
    )
    op.execute(
        "UPDATE checkpoint SET state = 'deleted' "  # noqa: S608
        f"WHERE state = 'lost' AND reason = '{_DELETING}'"
    )


def _name_promised() -> None:
    """The promise of a cancelled run was known by its name alone."""
    op.execute(
        "UPDATE run SET promised_checkpoint_id = (SELECT id FROM checkpoint "
        "WHERE ckpt_path = '/ckpts/' || run.experiment_id || '/' || run.id || '/cancel-' || "
        "run.attempt) WHERE cancel_requested_at IS NOT NULL"
    )


_SEARCHED = {
    "experiment": ("name", "goal", "owner", "base_model", "task_type"),
    "run": ("model", "recipe", "notes"),
}


def _add_search() -> None:
    """Add the tables of folded texts, of the rows that there are, and on SQLite their index."""
    connection = op.get_bind()
    for table, fields in _SEARCHED.items():
        name = f"{table}_search"
        op.create_table(
            name,
            sa.Column(
                "number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
            ),
            sa.Column("id", sa.String(), nullable=False),
            sa.Column("text", sa.Text(), nullable=False),
            sa.PrimaryKeyConstraint("number"),
        )
        op.create_index(f"ux_{name}", name, ["id"], unique=True)
        source = sa.table(table, *map(sa.column, ("id", *fields)))
        texts = sa.table(name, sa.column("id"), sa.column("text"))
        last = ""
        while rows := connection.execute(
            sa.select(source).where(source.c.id > last).order_by(source.c.id).limit(500)
        ).all():
            connection.execute(
                texts.insert(), [{"id": row[0], "text": _folded(row[1:])} for row in rows]
            )
            last = rows[-1][0]
        if connection.dialect.name == "sqlite":
            for statement in _index(name):
                op.execute(statement)


def _folded(fields: Iterable[str | None]) -> str:
    text = "\x1f".join(field for field in fields if field)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _index(name: str) -> tuple[str, ...]:
    index = f"{name}_index"
    return (
        f"CREATE VIRTUAL TABLE {index} USING fts5(text, content='{name}',"
        " content_rowid='number', tokenize='trigram case_sensitive 1', detail='none',"
        " columnsize=0)",
        f"CREATE TRIGGER {name}_added AFTER INSERT ON {name} BEGIN"  # noqa: S608 - our own names
        f" INSERT INTO {index}(rowid, text) VALUES (new.number, new.text); END",
        f"INSERT INTO {index}({index}) VALUES ('rebuild')",  # noqa: S608
    )


def _create_verifications() -> None:
    op.create_table(
        "verification",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("experiment_id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("ckpt_path", sa.String(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("finished_at", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiment.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_verification_finished", "verification", ["finished_at", "id"])
    op.create_table(
        "verification_finding",
        sa.Column("verification_id", sa.String(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("checkpoint_id", sa.String(), nullable=False),
        sa.Column("ckpt_path", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["verification_id"], ["verification.id"]),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoint.id"]),
        sa.PrimaryKeyConstraint("verification_id", "seq"),
    )


def _create_attempts() -> None:
    op.create_table(
        "attempt",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("resume_path", sa.String(), nullable=True),
        sa.Column("claim_sha256", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=True),
        sa.Column("host", sa.String(), nullable=True),
        sa.Column("claimed_at", sa.String(), nullable=True),
        sa.Column("pulse_at", sa.String(), nullable=True),
        sa.Column("ran_seconds", sa.Float(53), nullable=False),
        sa.Column("stop", sa.String(), nullable=True),
        sa.Column("exit", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"]),
        sa.PrimaryKeyConstraint("run_id", "number"),
    )
