"""What is remembered of users' rights is what the database says, in each transaction's snapshot.

Seen red: without the second look at `known`, a read that is overtaken sees what came after its
user had left the project; with a table left out of RIGHTS, the walk finds what is not its user's.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy import Executable, delete, insert, select, text, update

from app.db import rights, visibility
from app.db.current_principal import acting_as
from app.db.database import Database
from app.db.list_statements import Shape, page_statement
from app.db.listing import RUNS
from app.db.postgresql import PostgresDatabase
from app.db.postgresql_pipeline import Answer, Pipeline
from app.db.rights import KnownRights
from app.db.sql import Statement, Tx, columns, query
from app.db.sqlite import SqliteDatabase
from app.db.tables import ApiToken, Experiment, Membership, Project, User
from app.domain.ids import timestamp, timestamp_after
from app.domain.permissions import DEFAULT_PROJECT, Permission, Role
from app.domain.principals import Principal
from app.domain.requests import ExperimentRequest
from app.domain.team import (
    MemberRequest,
    ProjectRequest,
    TokenRequest,
    UserRequest,
    UserUpdate,
    new_token,
)
from app.errors import NotFound, NotPermitted, Unauthorized
from app.services import api_tokens, deletion, experiments, projects, users
from tests.support.database import postgresql_only

pytestmark = pytest.mark.anyio


@query(tuple[str])
def _ids() -> Executable:
    return select(columns(Experiment).id)


def seen(tx: Tx) -> set[str]:
    return {row[0] for row in tx.all(_ids)}


def member(tx: Tx, project_id: str, role: Role) -> None:
    projects.set_member(tx, project_id, MemberRequest(user="alice", role=role))


def experiment(tx: Tx, project: str) -> str:
    request = ExperimentRequest(name="e", task_type="t", project=project)
    return experiments.create(tx, request).id


async def a_user(db: Database, **more: Any) -> tuple[str, Principal]:
    """Alice and her principal."""
    user = await db.write(users.create, UserRequest(name="alice"))
    secret = new_token()
    await db.write(api_tokens.create, TokenRequest(user="alice", **more), secret)
    known = await db.read(api_tokens.find, secret)
    assert known is not None
    return user.id, known.principal


@pytest.mark.parametrize("table", [User, ApiToken, Membership, Project])
def test_every_write_of_what_decides_is_told(table: Any) -> None:
    column = next(iter(columns(table)))
    for clause in (
        insert(table), update(table).values({column.name: "x"}), delete(table),
        delete(table).where(column.in_(select(columns(Experiment).id))),
    ):  # fmt: skip
        for dialect in ("sqlite", "postgresql"):
            assert Statement[Any](clause).compiled(dialect).changes_rights, clause
    assert not Statement[Any](select(column)).compiled("sqlite").changes_rights
    assert Statement[Any](delete(Experiment)).compiled("sqlite").changes_rights
    assert not Statement[Any](insert(Experiment)).compiled("sqlite").changes_rights
    is_used = {"last_used_at": "x"}
    for more, is_change in (({}, False), ({"revoked_at": "x"}, True), ({"expires_at": "x"}, True)):
        for values in (is_used | more, more | is_used):
            clause = update(ApiToken).where(columns(ApiToken).id == "x").values(values)
            for dialect in ("sqlite", "postgresql"):
                assert Statement[Any](clause).compiled(dialect).changes_rights == is_change


async def test_the_use_of_a_token_is_no_change_of_rights(db: Database) -> None:
    _, alice = await a_user(db)
    with acting_as(alice):
        await db.read(seen)
    before = db._rights.known
    assert before is not None and alice.token_id in before.rights
    await db.write(api_tokens.note_use, str(alice.token_id))
    with acting_as(alice):
        await db.read(seen)
    assert db._rights.known is before


KINDS = {
    "token revoked": "UPDATE api_token SET revoked_at = '2026-01-01' WHERE id = '{token}'",
    "token expired": "UPDATE api_token SET expires_at = '2026-01-01' WHERE id = '{token}'",
    "token deleted": "DELETE FROM api_token WHERE id = '{token}'",
    "user disabled": "UPDATE account SET disabled_at = '2026-01-01' WHERE id = '{user}'",
    "user made administrator": "UPDATE account SET is_admin = {true} WHERE id = '{user}'",
    "role lowered": "UPDATE membership SET role = 'viewer' WHERE user_id = '{user}'",
    "role raised": "UPDATE membership SET role = 'maintainer' WHERE user_id = '{user}'",
    "member removed": "DELETE FROM membership WHERE project_id = '{project}'",
    "project made": "INSERT INTO project (id, name, created_at) VALUES ('prj_x', 'x', '2026')",
    "experiment deleted": "DELETE FROM event; DELETE FROM experiment WHERE id = '{experiment}'",
}
"""Each kind of change of what somebody may do, as the statement that makes it."""


def powers(tx: Tx, project: str) -> frozenset[Permission]:
    return tx.permissions([project])[0]


async def may(db: Database, project: str, experiment: str) -> list[Any]:
    """What Alice may do: see, in three kinds of transactions, write, and administer."""
    found: list[Any] = []
    for work, *args in (
        (db.read, seen), (db.scan, seen), (db.write, seen), (db.write, allowed, experiment),
        (db.read, allowed, experiment), (db.read, powers, project),
    ):  # fmt: skip
        try:
            found.append(await cast(Any, work)(*args))
        except Unauthorized:
            found.append("unauthorized")
    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_of_change_counts_at_once_whoever_makes_it(db: Database, kind: str) -> None:
    """What is remembered gives the answers of a server that remembers nothing. The change is one
    statement: on PostgreSQL of another client, which knows nothing of this service."""
    user_id, alice = await a_user(db, scope=Role.ADMIN)
    project = (await db.write(projects.create, ProjectRequest(name="p"))).id
    for each in (project, DEFAULT_PROJECT):
        await db.write(member, each, Role.MEMBER)
    own = await db.write(experiment, "p")
    with acting_as(alice):
        before = await may(db, project, own)
        assert before[:5] == [{own}] * 3 + [True] * 2
    change = KINDS[kind].format(
        token=alice.token_id, user=user_id, project=project, experiment=own,
        true="true" if db.dialect == "postgresql" else 1,
    )  # fmt: skip
    if isinstance(db, PostgresDatabase):
        with psycopg.connect(db.dsn) as stranger:
            stranger.execute(change.encode())
    else:
        for part in change.split(";"):
            await db.write(Tx.run, Statement[Any](text(part)))
    if kind == "project made":
        await db.write(experiment, "x")  # of which she is no member
    with acting_as(alice):
        after = await may(db, project, own)
        db._rights = rights.KnownRights()
        if isinstance(db, PostgresDatabase):
            db._reads._rights = db._rights
        assert after == await may(db, project, own)
    assert (after == before) == (kind == "project made")


def list_by_place() -> str:
    """The statement that lists the first runs of a status, up to its limit."""
    filters = frozenset(("experiment_id", "active", "model"))
    shape = Shape(
        RUNS, filters, "created_at", True, True, frozenset(), "sqlite", "status", peek=4_000
    )
    text = " ".join(page_statement(shape).compiled("sqlite").text.split())
    return text.partition(" LIMIT :most")[0]


BY_PLACE = list_by_place()  # as lists make it: what is written down here would not follow them


@pytest.mark.parametrize(
    ("text", "is_plain"),
    [
        ("{} ORDER BY run.id LIMIT :most", True),
        ("{} AND run.status IN (SELECT value FROM json_each(:status))", True),
        ("{} OR run.id = :id", False),
        ("{} AND run.id IN (SELECT run_id FROM checkpoint)", False),
        ("{} AND run.id IN (SELECT parent_run_id FROM run)", False),
        ("{} UNION ALL SELECT * FROM run", False),
        (
            "SELECT run.id FROM run WHERE (run.experiment_id = :experiment_id OR run.name = :n)",
            False,
        ),
        ("SELECT run.id FROM run WHERE NOT run.experiment_id = :experiment_id", False),
        ("SELECT run.id FROM run, alert WHERE run.experiment_id = :experiment_id", False),
        (BY_PLACE, True),
        (BY_PLACE + " AND run.id IN (SELECT run_id FROM run_tag WHERE run_tag.tag = :run)", True),
        (BY_PLACE + " AND run.id IN (SELECT parent_run_id FROM run)", False),
        (BY_PLACE + " AND run.id IN (SELECT run_id FROM run_tag, run)", False),
        (BY_PLACE + " AND run.id IN (SELECT run_id FROM checkpoint)", False),
        (BY_PLACE + " UNION ALL SELECT run.id FROM run", False),
        (BY_PLACE.replace("run.experiment_id = :experiment_id AND ", ""), False),
        (BY_PLACE.replace("run.rowid = first_rows.place", "run.rowid > first_rows.place"), False),
        (BY_PLACE.replace("SELECT run.id", "SELECT (SELECT max(id) FROM run)"), False),
    ],
)
def test_only_what_says_itself_that_it_is_of_one_experiment_goes_without_a_view(
    text: str, is_plain: bool
) -> None:
    text = text.format("SELECT run.id FROM run WHERE run.experiment_id = :experiment_id")
    assert (visibility.limit(text, "sqlite", of_one=True) is None) == is_plain
    assert visibility.limit(text, "sqlite") is not None


@pytest.mark.parametrize(
    ("text", "is_so"),
    [
        ("SELECT run.id, run.experiment_id FROM run WHERE run.id = :id", True),
        (
            "SELECT checkpoint.experiment_id, checkpoint.id FROM checkpoint"
            " WHERE checkpoint.run_id = :run LIMIT :n",
            True,
        ),
        ("SELECT experiment.id, experiment.name FROM experiment WHERE experiment.id = :id", True),
        ("SELECT experiment.name, experiment.goal FROM experiment WHERE experiment.id = :i", False),
        ("SELECT experiment.id, experiment.name FROM experiment WHERE experiment.name = :n", False),
        ("SELECT run.id, run.name FROM run WHERE run.id = :id", False),
        ("SELECT run.id FROM run WHERE run.id = :id AND run.experiment_id = :of", False),
        ("SELECT run.experiment_id FROM run WHERE run.parent_run_id = :id", False),
        ("SELECT run.experiment_id FROM run WHERE run.id = :id OR run.name = :name", False),
        ("SELECT count(*) FROM run WHERE run.id = :id", False),
        ("SELECT run.experiment_id FROM run WHERE run.id = (SELECT run_id FROM checkpoint)", False),
        ("SELECT project.experiment_id FROM project WHERE project.id = :id", False),
        (
            "SELECT run.experiment_id FROM run JOIN alert ON run.id = alert.run_id"
            " WHERE run.id = :id",
            False,
        ),
    ],
)
def test_only_rows_of_one_run_are_judged_after_they_are_read(text: str, is_so: bool) -> None:
    assert visibility.is_of_one_run(text) == is_so


class Overtaken(KnownRights):
    """Lets something be committed just after a transaction's first look at what is known, or just
    before its second one, when its snapshot is fixed."""

    def __init__(self) -> None:
        self.looks: list[Any] = []
        super().__init__()

    @property
    def known(self) -> Any:
        value, what = self._value, self.looks.pop(0) if self.looks else None
        if what is None:
            return value
        when, change = what
        change()
        return self._value if when == "before" else value

    @known.setter
    def known(self, value: Any) -> None:
        self._value = value


@pytest.mark.parametrize("look", ["after the first", "before the second"])
async def test_a_read_that_is_overtaken_leaves_no_right_that_was_taken_away(
    db: Database, look: str
) -> None:
    if not isinstance(db, SqliteDatabase):
        return  # there what is remembered has the name of its state
    user_id, alice = await a_user(db)
    project = (await db.write(projects.create, ProjectRequest(name="p"))).id
    for each in (project, DEFAULT_PROJECT):  # all there are, so that nothing is looked up
        await db.write(member, each, Role.VIEWER)
    before = {await db.write(experiment, "p")}
    overtaken = db._rights = Overtaken()
    with acting_as(alice):
        assert await db.read(seen) == before
    loop = asyncio.get_running_loop()

    def change() -> None:  # in the thread of the scan
        for work in (
            db.write(projects.remove_member, project, user_id),
            db.write(experiment, "p"),
        ):
            asyncio.run_coroutine_threadsafe(work, loop).result(30)

    with acting_as(alice):
        if look == "after the first":
            overtaken.looks = [("after", change)]
            assert await db.scan(seen) == set()
        else:
            overtaken.looks = [None, ("before", change)]
            assert await db.scan(seen) == before  # its snapshot is older than the change
        assert not overtaken.looks
        assert await db.read(seen) == set()


async def test_what_is_remembered_is_what_is_so_whatever_is_changed(db: Database) -> None:
    """A random walk over all that decides, against a model of it."""
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = random.Random(seed)
    user_id, alice = await a_user(db)
    roles: dict[str, Role] = {}
    names: dict[str, str] = {}
    of: dict[str, str] = {}
    admin = disabled = False
    for number in range(150):
        step = dice.randrange(7)
        project = dice.choice(list(names)) if names else ""
        if step == 0 or not names:
            made = await db.write(projects.create, ProjectRequest(name=f"p{number}"))
            names[made.id] = made.name
        elif step == 1:
            roles[project] = dice.choice([Role.VIEWER, Role.MEMBER, Role.MAINTAINER])
            await db.write(member, project, roles[project])
        elif step == 2 and roles:
            project = dice.choice(list(roles))
            del roles[project]
            await db.write(projects.remove_member, project, user_id)
        elif step == 3:
            of[await db.write(experiment, names[project])] = project
        elif step == 4 and of:
            gone = dice.choice(list(of))
            del of[gone]
            await db.write(deletion.delete_experiment, gone)
        elif step == 5:
            admin = not admin
            await db.write(users.update, user_id, UserUpdate(is_admin=admin))
        elif step == 6:
            disabled = dice.random() < 0.3
            await db.write(users.update, user_id, UserUpdate(disabled=disabled))
        with acting_as(alice):
            if disabled:
                with pytest.raises(Unauthorized):
                    await db.read(seen)
                continue
            expected = {id for id, within in of.items() if admin or within in roles}
            assert await db.read(seen) == expected
            assert await db.scan(seen) == expected
            for id, within in [*of.items(), ("exp_" + "0" * 26, "")]:
                role = Role.ADMIN if admin else roles.get(within)
                assert await db.read(allowed, id) == (
                    None if role is None else role.may(Permission.WRITE)
                )


def allowed(tx: Tx, experiment_id: str) -> bool | None:
    """Whether an experiment may be written to; None: it is not there."""
    try:
        tx.require(Permission.WRITE, experiment_id)
    except NotFound:
        return None
    except NotPermitted:
        return False
    return True


async def test_a_change_that_is_rolled_back_changes_nothing_that_is_remembered(
    db: Database,
) -> None:
    _, alice = await a_user(db)
    project = (await db.write(projects.create, ProjectRequest(name="p"))).id
    made = await db.write(experiment, "p")

    def fails(tx: Tx) -> None:
        member(tx, project, Role.MEMBER)
        raise RuntimeError("planted")

    for _ in range(3):
        with acting_as(alice):
            assert await db.read(seen) == set()
        with pytest.raises(RuntimeError, match="planted"):
            await db.write(fails)
    await db.write(member, project, Role.VIEWER)
    with acting_as(alice):
        assert await db.read(seen) == {made}


async def test_rights_are_read_again_when_the_token_ends_and_after_a_while(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_id, alice = await a_user(db)
    with acting_as(alice):
        assert await db.read(seen) == set()
    if isinstance(db, SqliteDatabase):
        known = db._rights.known
        assert known is not None
        ((token_id, remembered),) = known.rights.items()
        assert token_id == alice.token_id
        # An operator has changed the file by hand, and what is remembered has got old.
        await by_hand(db, user_id)
        known.rights[token_id] = rights.Rights(None, {}, until="2020")
        assert remembered.until > "2020"
    else:
        await by_hand(db, user_id)
    with acting_as(alice), pytest.raises(Unauthorized):
        await db.read(seen)


async def test_a_token_is_good_until_it_expires_whatever_is_remembered(db: Database) -> None:
    soon = timestamp_after(timestamp(), 0.5)
    _, alice = await a_user(db, expires_at=soon)
    with acting_as(alice):
        assert await db.read(seen) == set()
        await asyncio.sleep(0.6)
        with pytest.raises(Unauthorized):
            await db.read(seen)


async def by_hand(db: Database, user_id: str) -> None:
    def disable(tx: Tx) -> None:
        tx._known_rights = KnownRights()
        users.update(tx, user_id, UserUpdate(disabled=True))

    await db.write(disable)


@postgresql_only
async def test_the_check_of_a_token_is_sent_together_with_the_first_statement(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read of one statement costs a user no more round trips than anybody else."""
    _, alice = await a_user(db)
    sent: list[str] = []
    send, flush = Pipeline.send, Pipeline.flush

    def sending(self: Pipeline, text: str, values: Sequence[object] = ()) -> Answer:
        sent.append(text)
        return send(self, text, values)

    def flushing(self: Pipeline) -> bool:
        sent.append("flush")
        return flush(self)

    monkeypatch.setattr(Pipeline, "send", sending)
    monkeypatch.setattr(Pipeline, "flush", flushing)
    with acting_as(alice):
        assert await db.read(seen) == set()
        sent.clear()
        assert await db.read(seen) == set()
    check, statement, *rest = sent
    assert "FROM access_epoch" in check and "FROM experiment" in statement
    assert rest[0] == "flush" and set(rest) == {"flush"}
