"""Migrations: up, check, down on both databases; killed halfway; from several servers at once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import MetaData, create_engine, inspect, text

from app.db import keyset, listing, matching, migrate
from app.db.connect import connect
from app.db.cursors import Order, Window
from app.db.sql import Statement, columns, select_all
from app.db.tables import Run
from app.domain.ids import new_id
from app.domain.permissions import DEFAULT_PROJECT
from app.domain.requests import ResumeRequest
from app.services import checkpoints, metrics, progress, resuming, retention, runs
from tests.support.database import postgresql_only

TABLES = {
    "access_epoch",
    "alert", "alert_rule", "alias", "attempt", "checkpoint", "data_dir", "deletion", "event",
    "experiment", "experiment_tag", "expiration", "health_finding", "idempotency_key", "removal",
    "label", "logged_model", "run_link",
    "metric_latest", "metric_chunk", "metric_series", "run", "service_secret",
    "run_search", "experiment_search", "run_tag", "webhook", "webhook_delivery",
    "attempt_usage", "audit_entry", "account", "api_token", "membership", "project",
    "verification", "verification_finding", "tally",
}  # fmt: skip

READS_NO_EXPRESSION = pytest.mark.filterwarnings("ignore:.* expression-based index '?ix_run_end")
"""SQLAlchemy reads no index of an expression on SQLite, and warns: in tests alone."""


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    found = set(inspect(engine).get_table_names())
    engine.dispose()
    return {each for each in found if "_search_index" not in each} - {"alembic_version"}


def test_head_is_the_newest_revision() -> None:
    from alembic.script import ScriptDirectory

    assert ScriptDirectory.from_config(migrate.config("sqlite://")).get_heads() == [migrate.HEAD]


def schema(url: str) -> Mapping[str, object]:
    """Columns, keys and indexes of every table."""
    engine = create_engine(url)
    found = inspect(engine)
    described = {
        table: (
            sorted((each["name"], str(each["type"]), each["nullable"]) for each in columns),
            found.get_pk_constraint(table)["constrained_columns"],
            sorted(str(key["constrained_columns"]) for key in found.get_foreign_keys(table)),
            sorted(
                (str(i["name"]), str(i["column_names"]))
                for i in found.get_indexes(table)
                if "_search_index" not in str(i["name"])
            ),
        )
        for table in found.get_table_names()
        if (columns := found.get_columns(table))
    }
    engine.dispose()
    return described


_PROGRAMS = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    " OR name IN ('ix_run_end', 'run_search_index', 'experiment_search_index',"
    " 'run_search_index_grams', 'experiment_search_index_grams')",
    "postgresql": "SELECT proname, prosrc FROM pg_proc"
    " WHERE pronamespace = current_schema()::regnamespace"
    " UNION ALL SELECT indexname, indexdef FROM pg_indexes"
    " WHERE indexname LIKE '%search_index' OR indexname = 'ix_run_end'"
    " UNION ALL SELECT tgname, pg_get_triggerdef(pg_trigger.oid) FROM pg_trigger"
    " JOIN pg_class ON pg_class.oid = tgrelid WHERE NOT tgisinternal"
    " AND relnamespace = current_schema()::regnamespace"
    " UNION ALL SELECT relname || '.' || attname, 'without statistics' FROM pg_attribute"
    " JOIN pg_class ON pg_class.oid = attrelid WHERE attstattarget = 0 AND attnum > 0"
    " AND relnamespace = current_schema()::regnamespace",
}


def programs(url: str) -> list[tuple[str, str]]:
    """Triggers and functions, and the indexes that SQLAlchemy does not read."""
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = connection.execute(
            text(_PROGRAMS[engine.dialect.name].replace("::", "\\:\\:"))
        ).all()
    engine.dispose()
    return sorted((name, " ".join(made.split())) for name, made in rows)


def test_what_an_insert_leaves_out_is_null(database_url: str) -> None:
    """`Tx.insert` names no column whose value is None."""
    engine = create_engine(database_url)
    for table in tables(database_url):
        for column in inspect(engine).get_columns(table):
            if column["nullable"]:
                assert column["default"] is None, (table, column["name"])
    engine.dispose()


@READS_NO_EXPRESSION
def test_an_empty_database_gets_what_the_migrations_would_make(empty_database_url: str) -> None:
    assert migrate.create(empty_database_url)
    made = schema(empty_database_url)
    made_programs = programs(empty_database_url)
    assert len(made_programs) >= 5
    assert not migrate.create(empty_database_url)
    migrate.downgrade(empty_database_url, "base")
    migrate.upgrade(empty_database_url)
    assert schema(empty_database_url) == made
    assert programs(empty_database_url) == made_programs


@READS_NO_EXPRESSION
def test_up_leaves_no_difference_to_the_tables_and_down_leaves_nothing(
    empty_database_url: str,
) -> None:
    from alembic import command

    migrate.upgrade(empty_database_url)
    assert tables(empty_database_url) == TABLES
    assert migrate.revision(empty_database_url) == migrate.HEAD
    command.check(migrate.config(empty_database_url))  # raises when autogenerate finds any

    migrate.downgrade(empty_database_url, "base")
    assert tables(empty_database_url) == set()
    migrate.bring_up(empty_database_url)
    assert tables(empty_database_url) == TABLES


KILLED = """
import os, signal, sys
from itertools import count
from sqlalchemy import Engine, event
from app.db import migrate

statements = count(1)

@event.listens_for(Engine, "before_cursor_execute")
def die(connection, cursor, statement, *rest):
    changes = statement.lstrip().startswith(("CREATE", "ALTER", "INSERT"))
    if changes and next(statements) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

migrate.bring_up(sys.argv[1])
"""
KILLED_AT = [*(pytest.param(nth, marks=pytest.mark.heavy) for nth in (1, 2, 3)), 9]


@pytest.mark.parametrize("statement", KILLED_AT)
def test_a_migration_that_was_killed_halfway_is_as_if_it_never_began(
    empty_database_url: str, statement: int
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, empty_database_url, str(statement)])
    assert killed.returncode == -signal.SIGKILL
    assert tables(empty_database_url) == set()

    migrate.bring_up(empty_database_url)
    assert tables(empty_database_url) == TABLES


@pytest.mark.parametrize("statement", KILLED_AT)
def test_an_upgrade_that_was_killed_halfway_is_as_if_it_never_began(
    empty_database_url: str, statement: int
) -> None:
    migrate.upgrade(empty_database_url, "0001")
    before = schema(empty_database_url)
    killed = subprocess.run([sys.executable, "-c", KILLED, empty_database_url, str(statement)])
    assert killed.returncode == -signal.SIGKILL
    assert schema(empty_database_url) == before
    assert migrate.revision(empty_database_url) == "0001"

    migrate.bring_up(empty_database_url)
    assert tables(empty_database_url) == TABLES


AT = "2026-11-01T00:00:00.000000+00:00"
EXPERIMENT: dict[str, Any] = {
    "id": new_id("exp"), "name": "old", "task_type": "sft", "param_config": "{}", "tags": "[]",
    "created_at": AT, "last_seq": 1,
}  # fmt: skip
RUN: dict[str, Any] = {
    "id": new_id("run"), "experiment_id": EXPERIMENT["id"], "root_run_id": "itself", "model": "m",
    "dataset": "{}", "hyperparams": '{"lr":0.1}', "override_hyperparams": "{}", "resources": "{}",
    "status": "succeeded", "attempt": 1, "start_step": 0, "step": 3, "last_batch": 3,
    "finished": True, "gpus": "[]", "created_at": AT, "notes": "預训练 预训练 Llama",
}  # fmt: skip
CHECKPOINT: dict[str, Any] = {
    "id": new_id("ckpt"), "experiment_id": EXPERIMENT["id"], "run_id": RUN["id"],
    "ckpt_path": f"/ckpts/{EXPERIMENT['id']}/{RUN['id']}/step-3", "state": "ready", "step": 3,
    "metrics": "{}", "created_at": AT,
}  # fmt: skip


def stored_at(url: str, revision: str, **more: list[dict[str, Any]]) -> None:
    """Return what an older version left: its tables with one experiment, and these rows."""
    if migrate.revision(url) is None:
        migrate.upgrade(url, revision)
        more = {"experiment": [EXPERIMENT], **more}
    engine, stored = create_engine(url), MetaData()
    stored.reflect(engine)
    with engine.begin() as connection:
        for name, found in more.items():
            for row in found:
                connection.execute(stored.tables[name].insert(), row)
    engine.dispose()


async def rows(url: str) -> list[Run]:
    """The runs, by id, once this version has started on the database."""
    db = connect(url)
    await db.start()
    try:
        statement = Statement(select_all(Run).order_by(columns(Run).id), Run)
        return await db.read(lambda tx: tx.all(statement))
    finally:
        await db.stop()


@pytest.mark.anyio
async def test_what_the_first_version_stored_is_there_after_the_upgrade_and_can_be_gone_on_with(
    empty_database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    migrate.upgrade(empty_database_url, "0001")
    engine, stored = create_engine(empty_database_url), MetaData()
    stored.reflect(engine)
    with engine.begin() as connection:
        for name, row in (("experiment", EXPERIMENT), ("run", RUN), ("checkpoint", CHECKPOINT)):
            connection.execute(stored.tables[name].insert(), row)
    engine.dispose()

    monkeypatch.setattr(matching, "FEW", 0)  # what is found is found by the index
    monkeypatch.setattr(matching, "PEEKED", 0)
    db = connect(empty_database_url)
    await db.start()
    try:
        stored_texts: list[tuple[Any, str]] = [
            (listing.RUNS, "预训练 LLAMA"), (listing.EXPERIMENTS, "old"),
        ]  # fmt: skip
        for listed, term in stored_texts:
            page = await db.search(
                keyset.page, listed, {"search": term}, Order("created_at"), Window()
            )
            assert len(page.rows) == 1, term
        assert (await db.read(runs.get, RUN["id"])).hyperparams == RUN["hyperparams"]
        child = await db.write(resuming.resume, RUN["id"], ResumeRequest(), {})
    finally:
        await db.stop()
    assert (child.source_ckpt_path, child.start_step) == (CHECKPOINT["ckpt_path"], 3)


@READS_NO_EXPRESSION
def test_a_trainer_that_was_being_ended_during_the_upgrade_is_ended_for_the_same_reason(
    empty_database_url: str,
) -> None:
    decided = {"status_reason": "time_limit", "status_detail": "The time limit is over."}
    ended = {"termination_reason": "time_limit", "termination_detail": "The time limit is over."}
    migrate.upgrade(empty_database_url, "0002")
    engine, stored = create_engine(empty_database_url), MetaData()
    stored.reflect(engine)
    with engine.begin() as connection:
        connection.execute(stored.tables["experiment"].insert(), EXPERIMENT)
        connection.execute(stored.tables["run"].insert(), RUN | {"status": "running"} | decided)
    migrate.upgrade(empty_database_url)
    stored.clear()
    stored.reflect(engine)
    with engine.begin() as connection:
        row = connection.execute(stored.tables["run"].select()).one()._mapping
        assert {key: row[key] for key in ended} == ended
        # As a report would have done that the new version was sent.
        connection.execute(stored.tables["run"].update().values(status_reason=None))
    migrate.downgrade(empty_database_url, "0002")
    stored.clear()
    stored.reflect(engine)
    with engine.begin() as connection:
        row = connection.execute(stored.tables["run"].select()).one()._mapping
        assert {key: row[key] for key in decided} == decided
    engine.dispose()


@pytest.mark.anyio
async def test_what_a_trainer_ignored_follows_from_the_overrides_and_not_from_the_detail(
    empty_database_url: str,
) -> None:
    ignores = RUN | {
        "status": "running", "attempt": 2, "override_hyperparams": '{"lr":0.2}',
        "effective_hyperparams": '{"lr":0.1}',
        "status_detail": "Went back. The trainer ignored lr = 0.2 and uses 0.1.",
    }  # fmt: skip
    infinite = {"run_id": RUN["id"], "key": "loss", "step": 1, "value": float("inf")}
    stored_at(empty_database_url, "0002", run=[ignores], metric_latest=[infinite])
    (run,) = await rows(empty_database_url)
    assert (run.status_detail, run.effective_attempt) == ("Went back.", 2)
    assert progress.status_detail(run) == ignores["status_detail"]
    db = connect(empty_database_url)
    await db.start()
    (latest,) = await db.read(metrics.list_latest, run.id)
    await db.stop()
    assert latest.value is None


@READS_NO_EXPRESSION
def test_values_that_no_trainer_reports_any_more_are_sorted_by_experiment(
    empty_database_url: str,
) -> None:
    by_status = {status: new_id("run") for status in ("succeeded", "queued", "running")}
    stored = [RUN | {"id": id, "status": status} for status, id in by_status.items()]
    latest = [{"run_id": id, "key": "loss", "step": 1, "value": 1.0} for id in by_status.values()]
    tables_of = EXPERIMENT | {"project_id": DEFAULT_PROJECT}
    stored_at(empty_database_url, "0026", experiment=[tables_of], run=stored, metric_latest=latest)
    migrate.bring_up(empty_database_url)
    engine = create_engine(empty_database_url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT run_id, experiment_id FROM metric_latest"))
        found = {run_id: experiment_id for run_id, experiment_id in rows}
    engine.dispose()
    of_run = {status: found[id] for status, id in by_status.items()}
    own = EXPERIMENT["id"]
    assert of_run == {"succeeded": own, "queued": own, "running": None}


@READS_NO_EXPRESSION
def test_steps_that_no_trainer_reports_any_more_are_sorted(empty_database_url: str) -> None:
    by_status = {status: new_id("run") for status in ("succeeded", "queued", "running")}
    stored = [RUN | {"id": id, "status": status, "step": 7} for status, id in by_status.items()]
    tables_of = EXPERIMENT | {"project_id": DEFAULT_PROJECT}
    stored_at(empty_database_url, "0027", experiment=[tables_of], run=stored)
    migrate.bring_up(empty_database_url)
    engine = create_engine(empty_database_url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT status, settled_step FROM run"))
        found = {status: step for status, step in rows}
    engine.dispose()
    assert found == {"succeeded": 7, "queued": 7, "running": None}


@pytest.mark.anyio
async def test_the_sessions_of_an_external_run_get_a_column_of_their_own(
    empty_database_url: str,
) -> None:
    external = RUN | {"id": new_id("run"), "status": "running", "nonce": "one two"}
    launched = external | {"id": new_id("run"), "recipe": "demo", "nonce": "secret"}
    stored_at(empty_database_url, "0002", run=[external, launched])
    found = {run.id: run for run in await rows(empty_database_url)}
    assert (found[external["id"]].sessions, found[external["id"]].nonce) == ('["one", "two"]', None)
    assert (found[launched["id"]].sessions, found[launched["id"]].nonce) == ("[]", "secret")

    migrate.downgrade(empty_database_url, "0002")
    stored_at(empty_database_url, "0002")
    assert (await rows(empty_database_url))[0].sessions == '["one", "two"]'


@pytest.mark.anyio
async def test_checkpoints_and_promises_of_an_old_database_get_their_columns(
    empty_database_url: str,
) -> None:
    """What retention took was "lost" with one of two sentences, a promise was known by its name,
    and the newest was the highest step."""

    def row(name: str, state: str = "ready", **more: Any) -> dict[str, Any]:
        path = f"/ckpts/{EXPERIMENT['id']}/{RUN['id']}/{name}"
        nothing = dict.fromkeys(("reason", "stored_as_id"))
        return CHECKPOINT | nothing | {
            "id": new_id("ckpt"), "ckpt_path": path, "state": state, **more,
        }  # fmt: skip

    def at(minute: int) -> str:
        return AT.replace("T00:00", f"T00:{minute:02}")

    sft, dpo = row("sft", step=400, created_at=at(2)), row("dpo", step=100, created_at=at(3))
    last = row("last", step=300, created_at=at(1))  # written again and again under one name
    alias = row("cancel-1", stored_as_id=dpo["id"], step=100, created_at=at(5))
    gone = row("gone", "lost", reason="Deleted by retention.")
    going = row("going", "lost", reason="Retention is deleting it.")
    damaged = row("damaged", "lost", reason="It is damaged.")
    named = row("named", "declared", step=None)
    rows = [sft, dpo, last, alias, gone, going, damaged, named]
    again = {
        "experiment_id": EXPERIMENT["id"], "type": "checkpoint.pending", "run_id": RUN["id"],
        "data": json.dumps({"checkpoint_id": last["id"]}),
    }  # fmt: skip
    migrate.upgrade(empty_database_url, "0002")
    engine, stored = create_engine(empty_database_url), MetaData()
    stored.reflect(engine)
    run = RUN | {"status": "cancelled", "cancel_requested_at": AT}
    with engine.begin() as connection:
        connection.execute(stored.tables["experiment"].insert(), EXPERIMENT)
        connection.execute(stored.tables["run"].insert(), run)
        connection.execute(stored.tables["checkpoint"].insert(), rows)
        for seq, minute in ((1, 1), (2, 4)):
            connection.execute(
                stored.tables["event"].insert(), again | {"seq": seq, "at": at(minute)}
            )
    engine.dispose()

    db = connect(empty_database_url)
    await db.start()
    try:
        ready = await db.read(checkpoints.list_ready, RUN["id"])
        assert [each.id for each in ready if each.id != alias["id"]] == [
            last["id"], dpo["id"], sft["id"],
        ]  # fmt: skip
        known = {each.id: each for each in await db.read(checkpoints.list_of_run, RUN["id"])}
        assert known[alias["id"]].saved_at == known[dpo["id"]].saved_at
        assert known[named["id"]].saved_at is None
        states = [known[each["id"]].state for each in (gone, going, damaged)]
        assert states == ["deleted", "deleted", "lost"]
        waiting = await db.read(retention.list_pending_deletion)
        assert [each.id for each in waiting] == [going["id"]]
        cancelled = await db.write(runs.cancel, RUN["id"])
        assert cancelled.checkpoint.id == alias["id"]
    finally:
        await db.stop()

    migrate.downgrade(empty_database_url, "0002")
    engine = create_engine(empty_database_url)
    with engine.connect() as connection:
        lost = connection.execute(
            text("SELECT id, reason FROM checkpoint WHERE state = 'lost'")
        ).all()
    engine.dispose()
    assert dict(map(tuple, lost)) == {each["id"]: each["reason"] for each in (gone, going, damaged)}


@postgresql_only  # a SQLite file belongs to one server
def test_servers_that_start_together_on_an_empty_database_all_start(
    empty_database_url: str,
) -> None:
    start = f"from app.db.connect import connect; connect({empty_database_url!r}).prepare()"
    with ThreadPoolExecutor() as pool:
        servers = pool.map(
            lambda _: subprocess.run(
                [sys.executable, "-c", start], capture_output=True, text=True, env=os.environ
            ),
            range(3),
        )
    assert [(server.returncode, server.stderr) for server in servers] == [(0, "")] * 3
    assert tables(empty_database_url) == TABLES


def test_a_database_that_is_up_to_date_needs_no_alembic(database_url: str) -> None:
    start = (
        "import sys; from app.db.connect import connect;"
        f"connect({database_url!r}).prepare(); sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", start]).returncode == 0


def test_connect_prepares_an_empty_database(empty_database_url: str) -> None:
    connect(empty_database_url).prepare()
    assert tables(empty_database_url) == TABLES


def test_every_experiment_is_in_the_default_project_which_each_database_has_once(
    empty_database_url: str,
) -> None:
    stored_at(empty_database_url, "0012")
    migrate.bring_up(empty_database_url)
    engine = create_engine(empty_database_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT project_id FROM experiment")).all() == [
            (DEFAULT_PROJECT,)
        ]
        stored = connection.execute(text("SELECT * FROM project")).all()
    engine.dispose()
    migrate.downgrade(empty_database_url, "base")
    engine = create_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    assert migrate.create(empty_database_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT * FROM project")).all() == stored
        assert stored[0][0] == DEFAULT_PROJECT
    engine.dispose()
