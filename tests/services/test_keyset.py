"""Pages of lists: every order, both directions, one parent or many, on both databases."""

import base64
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from itertools import product
from typing import Any

import orjson
import pytest
from sqlalchemy import select, update

from app.db import counting, keyset, listing
from app.db.counting import Count
from app.db.cursors import Order, Window
from app.db.database import Database
from app.db.list_statements import Listing
from app.db.sql import Tx, columns, query, statement
from app.db.tables import MetricLatest, Run
from app.domain.lifecycle import RunStatus
from app.domain.reports import ReportRequest
from app.domain.requests import ExperimentRequest, MarkRequest, RunRequest
from app.errors import InvalidInput
from app.services import checkpoints, experiments, marks, reports, resuming, runs
from tests.services.conftest import writing
from tests.support.database import opened, postgresql_heavy, sqlite_only

pytestmark = pytest.mark.anyio

VALUES = (2.5, "Infinity", None, -1.0, "NaN", 2.5)


def _story(tx: Tx) -> list[str]:
    """Three experiments with 12, 7 and 0 runs of every kind; their ids."""
    ids = []
    for number, runs_of_it in enumerate((12, 7, 0)):
        request = ExperimentRequest(
            name=f"e{number}", task_type="sft", tags=["all", f"t{number}"], owner=f"o{number}"
        )
        experiment = experiments.create(tx, request)
        ids.append(experiment.id)
        for index in range(runs_of_it):
            run = runs.submit(tx, experiment.id, RunRequest(model=f"m{index % 3}"), {})
            value = VALUES[index % len(VALUES)]
            if value is not None:
                report = {"step": index, "points": [{"key": "loss", "step": 1, "value": value}]}
                reports.ingest(tx, run.id, ReportRequest.model_validate(report))
            path = f"/ckpts/{experiment.id}/{run.id}/c"
            if index % 2:
                mark = MarkRequest(run_id=run.id, ckpt_path=path, tag_type="candidate")
                marks.mark(tx, experiment.id, mark)
            else:
                checkpoints.declare(tx, run, path)
            if index % 4 == 0:
                runs.cancel(tx, run.id)
    return ids


@pytest.fixture(scope="module")
def told(module_database_url: str) -> tuple[str, list[str]]:
    """A database with that story, for tests that only read; the ids of its experiments."""
    with writing(module_database_url) as write:
        return module_database_url, write(_story)


@pytest.fixture
async def story(
    told: tuple[str, list[str]], anyio_backend: str
) -> AsyncIterator[tuple[Database, list[str]]]:
    url, ids = told
    db = opened(url)
    await db.start()
    yield db, ids
    await db.stop()


def _key(listed: Listing[Any], row: Any) -> Any:
    return row.seq if listed is listing.EVENTS else row.id


async def _walk(
    db: Database, listed: Listing[Any], order: Order, size: int, backward: bool, **filters: Any
) -> list[tuple[Any, Any]]:
    """All rows of a list, page by page: what each is sorted by, and its key."""
    seen: list[tuple[Any, Any]] = []
    cursor = None
    while True:
        window = Window(
            size, before=cursor if backward else None, after=None if backward else cursor,
            backward=backward,
        )  # fmt: skip
        page = await db.scan(keyset.page, listed, filters, order, window)
        values = page.values or [getattr(row, order.field) for row in page.rows]
        part = [(v, _key(listed, row)) for v, row in zip(values, page.rows, strict=True)]
        seen = part + seen if backward else seen + part
        if not (page.has_previous if backward else page.has_next):
            return seen
        cursor = page.cursor(0 if backward else len(page.rows) - 1)


ORDERS: list[tuple[Listing[Any], Order]] = [
    (listed, Order(field, descending, "loss" if field == "metric" else None))
    for listed in (listing.EXPERIMENTS, listing.RUNS, listing.CHECKPOINTS)
    for field, descending in product(listed.orders, (False, True))
]


async def test_pages_in_either_direction_are_the_whole_list_in_order(db: Database) -> None:
    await db.write(_story)
    for listed, order in ORDERS:
        whole = await _walk(db, listed, order, 100, backward=False)
        assert Count(len(whole)) == await db.read(counting.count, listed, {})
        valued = [each for each in whole if each[0] is not None]
        assert valued == sorted(valued, reverse=order.descending), order
        assert all(value is None for value, _ in whole[len(valued) :]), order
        for backward in (False, True):
            assert await _walk(db, listed, order, 3, backward) == whole, (order, backward)


@sqlite_only  # the planner of PostgreSQL decides by what the table holds
@pytest.mark.parametrize("filters", [{}, {"experiment_id": "exp_1"}], ids=["all", "of one"])
def test_every_order_but_those_that_say_so_walks_an_index(
    database_url: str, filters: dict[str, Any]
) -> None:
    # Of the steps of runs, and the values of an experiment's, two walks are sorted: of those that a
    # trainer reports, and of the others. No face lists checkpoints of all experiments so.
    said = {(listing.RUNS, "step"), (listing.CHECKPOINTS, "step")}
    said.add((listing.RUNS, "metric") if filters else (listing.CHECKPOINTS, "marked_at"))
    path = database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        for listed, order in ORDERS:
            if filters and listed is listing.EXPERIMENTS:
                continue
            asked: list[str] = []
            connection.set_trace_callback(asked.append)
            keyset.page(Tx(connection.cursor(), "sqlite"), listed, filters, order, Window())
            connection.set_trace_callback(None)
            page = next(each for each in asked if "ORDER BY" in each)
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {page}")]
            sorts = any("TEMP B-TREE" in step for step in plan)
            assert sorts == ((listed, order.field) in said), (order, plan)


@sqlite_only
@pytest.mark.parametrize("more", [{}, {"experiment_id": "exp_1"}, {"search": "m", "active": True}])
@pytest.mark.parametrize("field", ["created_at", "finished_at", "metric"])
def test_a_run_is_found_by_the_end_of_its_id_however_many_others_there_are(
    database_url: str, field: str, more: dict[str, Any]
) -> None:
    """All of a million were read for it: a short id is what the dashboard shows."""
    path = database_url.removeprefix("sqlite:///")
    order = Order(field, True, "loss" if field == "metric" else None)
    filters = more | {"id_ends": "0q3z8"}
    with closing(sqlite3.connect(path)) as connection:
        asked: list[str] = []
        connection.set_trace_callback(asked.append)
        tx = Tx(connection.cursor(), "sqlite")
        keyset.page(tx, listing.RUNS, filters, order, Window())
        keyset.read_pages(
            tx, listing.RUNS, "experiment_id", ["exp_1"] * 2, filters, order, Window()
        )
        counting.count(tx, listing.RUNS, filters)
        connection.set_trace_callback(None)
        plans = [
            [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {each}")] for each in asked
        ]
    of_runs = [[step for step in plan if step.split()[1] == "run"] for plan in plans]
    assert len(of_runs) >= 4
    assert all("ix_run_end" in step for steps in of_runs for step in steps), of_runs


def _plan(path: str, filters: dict[str, Any], order: Order) -> list[str]:
    """Return how SQLite reads a page of runs."""
    with closing(sqlite3.connect(path)) as connection:
        asked: list[str] = []
        connection.set_trace_callback(asked.append)
        keyset.page(Tx(connection.cursor(), "sqlite"), listing.RUNS, filters, order, Window())
        connection.set_trace_callback(None)
        page = next(each for each in asked if "ORDER BY" in each)
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {page}")]


@sqlite_only
@pytest.mark.parametrize("field", ["created_at", "started_at", "finished_at"])
@pytest.mark.parametrize("more", [{}, {"status": ["failed"]}])
def test_a_list_of_active_runs_walks_the_index_of_its_order(
    database_url: str, field: str, more: dict[str, Any]
) -> None:
    """Where most experiments have few active runs, all of a million in another would be sorted."""
    path, of = database_url.removeprefix("sqlite:///"), {"experiment_id": "exp_1", "active": True}
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ANALYZE")
        others = connection.execute(
            "SELECT name FROM sqlite_master WHERE tbl_name = 'run' AND name <> 'ix_run_active'"
            " AND sql LIKE 'CREATE INDEX%'"
        )
        known = [(name, "1000000 1000 900 1") for (name,) in others]
        known.append(("ix_run_active", "5000 5 1"))
        insert = "INSERT INTO sqlite_stat1 VALUES ('run', ?, ?)"
        connection.executemany(insert, known)
    plan = _plan(path, of | more, Order(field, True))
    assert not any("ix_run_active" in step for step in plan), plan


@sqlite_only
async def test_few_runs_among_very_many_are_found_first_and_then_sorted(
    db: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An experiment of 2,000 runs among a million read half of them for a page by a metric."""
    long, short, _ = await db.write(_story)
    path = database_url.removeprefix("sqlite:///")
    monkeypatch.setattr(counting, "SORTED", 5)
    by_loss, by_time = Order("metric", True, "loss"), Order("finished_at", True)
    cases: list[tuple[dict[str, Any], Order, str]] = [
        ({"experiment_id": short}, by_time, "ix_run_experiment_finished"),
        ({"status": ["failed"]}, by_time, "ix_run_status (status=?)"),
        ({"status": ["failed"]}, by_loss, "ix_run_status (status=?)"),
        (
            {"experiment_id": long, "status": ["failed"]},
            by_time,
            "ment_status (experiment_id=? AND status=?",
        ),
        (
            {"experiment_id": long, "status": ["failed"]},
            by_loss,
            "ment_status (experiment_id=? AND status=?",
        ),
    ]
    for filters, order, index in cases:
        plan = _plan(path, filters, order)
        assert index in plan[0], (filters, order.field, plan)


async def test_the_runs_in_a_rare_state_are_sorted_once_they_are_found(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL walked all of 200,000 by when they finished, 0.8 s, as it could not know."""
    await db.write(_story)
    monkeypatch.setattr(counting, "SORTED", 5)
    for field in ("finished_at", "step"):
        of, order = {"status": ["failed"]}, Order(field)
        assert await db.read(counting.must_sort, listing.RUNS, of, order)


@sqlite_only
def test_an_experiment_in_the_order_of_a_metric_reads_no_values_of_others(
    database_url: str,
) -> None:
    """A large one walked all lower values of another before its first run: 1.7 s of a million."""
    path = database_url.removeprefix("sqlite:///")
    of: dict[str, Any] = {"experiment_id": "exp_1"}
    for more in ({}, {"active": True}, {"status": ["failed", "running"]}, {"model": "m"}):
        plan = _plan(path, of | more, Order("metric", True, "loss"))
        searched = [step for step in plan if step.startswith("SEARCH")]
        read = [step.partition(" INDEX ")[2].split()[0] for step in searched if " INDEX " in step]
        ended, reported = read[: read.index("ix_run_reported")], read
        assert ended == ["ix_metric_latest_experiment", "sqlite_autoindex_run_1"], plan
        assert "ix_metric_latest_value" not in reported, plan


@sqlite_only
@pytest.mark.parametrize("experiment", [{}, {"experiment_id": "exp_1"}], ids=["all", "of one"])
@pytest.mark.parametrize("more", [{}, {"active": True}, {"model": "m"}, {"tags": ["t"]}])
@pytest.mark.parametrize("descending", [True, False])
def test_runs_in_the_order_of_their_step_are_walked_by_an_index(
    database_url: str, experiment: dict[str, Any], more: dict[str, Any], descending: bool
) -> None:
    """All of a list were read for each page: 0.4 to 1.6 s of a million."""
    path = database_url.removeprefix("sqlite:///")
    plan = _plan(path, experiment | more, Order("step", descending))
    read = [step.partition(" INDEX ")[2].split()[0] for step in plan if " INDEX ix_run_" in step]
    of = "experiment_" if experiment else ""
    assert [index for index in read if "tag" not in index][:2] == [
        f"ix_run_{of}step", "ix_run_reported",
    ], plan  # fmt: skip


async def test_steps_are_sorted_while_no_trainer_reports_them(db: Database) -> None:
    experiment = (await db.write(_story))[2]
    run = await db.write(runs.submit, experiment, RunRequest(model="m"), {})
    other = await db.write(runs.submit, experiment, RunRequest(model="m"), {})
    assert other.settled_step == 0

    async def report(step: int) -> Run:
        await db.write(reports.ingest, run.id, ReportRequest.model_validate({"step": step}))
        return await db.read(runs.get, run.id)

    async def listed() -> list[tuple[str, int]]:
        of, window = {"experiment_id": experiment}, Window()
        page = await db.scan(keyset.page, listing.RUNS, of, Order("step"), window)
        return [(row.id, row.step) for row in page.rows]

    for step in (3, 7):
        now = await report(step)
        assert now.settled_step is None, "each report may change it"
        assert await listed() == [(run.id, step), (other.id, 0)]
    now = await db.write(runs.move, now, RunStatus.QUEUED)
    assert now.settled_step == 7, "a retry may wait for long"
    assert await listed() == [(run.id, 7), (other.id, 0)]
    now = await db.write(runs.move, now, RunStatus.STARTING, attempt=now.attempt + 1, step=2)
    assert now.settled_step is None
    assert await listed() == [(run.id, 2), (other.id, 0)]
    now = await report(9)
    now = await db.write(runs.move, now, RunStatus.FAILED)
    assert now.settled_step == 9
    assert await listed() == [(run.id, 9), (other.id, 0)]


async def test_the_pages_of_many_runs_of_one_experiment_are_those_of_each(db: Database) -> None:
    """Among them all together no more were found by a metric than fill one of their pages."""
    experiment = (await db.write(_story))[1]
    of = {"experiment_id": experiment}
    page = await db.scan(keyset.page, listing.RUNS, of, Order("created_at"), Window(100))
    parents = [row.id for row in page.rows][:3]

    def resume(tx: Tx, parent: str) -> None:
        child = resuming.rerun(tx, parent, {})
        tx.run(_set_parent, run=child.id, parent=parent)
        points = [{"key": "loss", "step": 1, "value": 1.0}]
        reports.ingest(tx, child.id, ReportRequest.model_validate({"step": 1, "points": points}))

    for parent in parents * 3:
        await db.write(resume, parent)
    for order, backward in product((Order("metric", True, "loss"), Order("step")), (False, True)):
        window = Window(2, backward=backward)
        many = await db.scan(
            keyset.read_pages, listing.RUNS, "parent_run_id", parents, of, order, window
        )
        for parent, page in zip(parents, many, strict=True):
            assert len(page.rows) == 2
            one = ("parent_run_id", parent)
            assert page == await db.scan(keyset.page, listing.RUNS, of, order, window, one)


@statement
def _set_parent(*, run: str, parent: str) -> Any:
    return update(Run).where(columns(Run).id == run).values(parent_run_id=parent)


@query(tuple[str])
def _unsorted() -> Any:
    return select(columns(MetricLatest).run_id).where(columns(MetricLatest).experiment_id.is_(None))


async def test_values_are_sorted_by_experiment_while_no_trainer_reports_them(db: Database) -> None:
    experiment = (await db.write(_story))[2]
    run = await db.write(runs.submit, experiment, RunRequest(model="m"), {})

    async def report(*keys: str) -> Run:
        points = [{"key": key, "step": 0, "value": 1.0} for key in keys]
        await db.write(reports.ingest, run.id, ReportRequest.model_validate({"points": points}))
        return await db.read(runs.get, run.id)

    async def listed(key: str) -> list[str]:
        order, of = Order("metric", True, key), {"experiment_id": experiment}
        page = await db.scan(keyset.page, listing.RUNS, of, order, Window())
        return [row.id for row in page.rows]

    async def unsorted() -> int:
        return [id for (id,) in await db.read(lambda tx: tx.all(_unsorted))].count(run.id)

    now = await report("loss", "acc")
    assert await unsorted() == 2, "each report may change them"
    assert await listed("loss") == await listed("acc") == [run.id]
    now = await db.write(runs.move, now, RunStatus.QUEUED)
    assert await unsorted() == 0, "a retry may wait for long"
    assert await listed("loss") == [run.id]
    now = await db.write(runs.move, now, RunStatus.STARTING, attempt=now.attempt + 1)
    now = await report("loss")
    assert await unsorted() == 1
    assert await listed("loss") == await listed("acc") == [run.id]
    await db.write(runs.move, now, RunStatus.FAILED)
    assert await unsorted() == 0
    assert await listed("loss") == [run.id]


async def test_many_parents_at_once_are_the_pages_of_each(db: Database) -> None:
    ids = await db.write(_story)
    orders: list[tuple[Listing[Any], Order]] = [
        *ORDERS[4:],
        (listing.EVENTS, Order("seq", False)),
        (listing.EVENTS, Order("seq")),
    ]
    for (listed, order), backward in product(orders, (False, True)):
        window = Window(4, backward=backward)
        many = await db.scan(keyset.read_pages, listed, "experiment_id", ids, {}, order, window)
        for id, page in zip(ids, many, strict=True):
            parent = ("experiment_id", id)
            one = await db.scan(keyset.page, listed, {}, order, window, parent)
            assert page == one, (order, backward)
            assert await _counts(db, listed, ids) == [
                await db.read(counting.count, listed, {}, ("experiment_id", each)) for each in ids
            ]


async def _counts(db: Database, listed: Listing[Any], ids: list[str]) -> list[Count]:
    return await db.read(counting.counts, listed, "experiment_id", ids, {})


@pytest.mark.parametrize(
    "tag",
    [
        '"',
        "\\",
        'a"b',
        "{x,y}",
        "NULL",
        "it's",
        "a,b",
        " ",
        "指令微调",
        "\\n",
        "$1",
        "%s",
        "\U0001f600",
    ],
)
async def test_a_tag_is_found_whatever_its_characters(db: Database, tag: str) -> None:
    made = await db.write(
        experiments.create, ExperimentRequest(name="e", task_type="sft", tags=[tag, "other"])
    )
    run = await db.write(runs.submit, made.id, RunRequest(model="m"), {})
    for tags, found in (
        ([tag], True),
        ([tag, "other"], True),
        ([tag, tag + "x"], False),
        ([tag[1:] + "x"], False),
    ):
        filters = {"experiment_id": made.id, "tags": tags}
        page = await db.scan(keyset.page, listing.RUNS, filters, Order("created_at"), Window())
        assert [row.id for row in page.rows] == ([run.id] if found else [])


async def test_a_page_neither_repeats_nor_skips_when_rows_come_and_change(db: Database) -> None:
    ids = await db.write(_story)
    order = Order("created_at")
    first = await db.scan(keyset.page, listing.RUNS, {}, order, Window(5))
    await db.write(runs.submit, ids[0], RunRequest(model="new"), {})
    await db.write(runs.cancel, first.rows[2].id)
    after = Window(5, after=first.cursor(4))
    second = await db.scan(keyset.page, listing.RUNS, {}, order, after)
    assert not {row.id for row in first.rows} & {row.id for row in second.rows}
    back = Window(5, before=second.cursor(0), backward=True)
    again = await db.scan(keyset.page, listing.RUNS, {}, order, back)
    assert [row.id for row in again.rows] == [row.id for row in first.rows]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"status": ["queued", "cancelled"]}, lambda r: r.status in ("queued", "cancelled")),
        ({"status": ["running"]}, lambda r: r.status == "running"),
        ({"model": "m1"}, lambda r: r.model == "m1"),
        ({"tags": ["all", "t1"]}, lambda r: r.owner == "o1"),
        ({"tags": ["t0", "t1"]}, lambda r: False),
        ({"owner": "o0", "search": "M2"}, lambda r: r.owner == "o0" and r.model == "m2"),
        ({"search": "m_"}, lambda r: False),
        ({"search": "%"}, lambda r: False),
        ({"metric": ("loss", 0.0, None)}, lambda r: (r.loss or -1) >= 0),
        ({"metric": ("loss", None, 2.5)}, lambda r: r.loss is not None and r.loss <= 2.5),
        ({"metric": ("none", None, None)}, lambda r: False),
        ({"created_after": "2020", "created_before": "2200"}, lambda r: True),
        ({"created_before": "2020"}, lambda r: False),
    ],
)
async def test_filters_choose_what_they_say(
    story: tuple[Database, list[str]], filters: Any, expected: Any
) -> None:
    db, ids = story

    class Row:
        def __init__(self, row: Any, loss: float | None) -> None:
            self.status, self.model, self.loss = row.status, row.model, loss
            self.owner = f"o{ids.index(row.experiment_id)}"

    everything = await db.scan(keyset.page, listing.RUNS, {}, Order("created_at"), Window(100))
    latest = await db.scan(listing.latest_metrics, [row.id for row in everything.rows])
    wanted = [
        row.id
        for row, metrics in zip(everything.rows, latest, strict=True)
        if expected(Row(row, metrics[0].value if metrics else None))
    ]
    for size in (1, 3, 100):
        found = await _walk(db, listing.RUNS, Order("created_at"), size, False, **filters)
        assert [id for _, id in found] == wanted
    assert await db.read(counting.count, listing.RUNS, filters) == Count(len(wanted))
    for (listed, order), id in product(ORDERS, ids):
        if listed is listing.RUNS:  # every order and the experiment's own list agree
            own = {"experiment_id": id} | filters
            found = await _walk(db, listed, order, 4, True, **own)
            assert {key for _, key in found} <= set(wanted)


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "%%%", "AAAA", "WyJhIl0", "W10", "e30", "MQ", "WyJzdGVwIixudWxsLDEsInJ1bl8iXQ", "é",
     "WyJjcmVhdGVkX2F0IixudWxsLDEsMV0", "WyJjcmVhdGVkX2F0IixudWxsLCJcdTAwMDAiLCIiXQ"],
)  # fmt: skip
async def test_whatever_is_no_cursor_of_this_list_is_refused(db: Database, cursor: str) -> None:
    for window in (Window(5, after=cursor), Window(5, before=cursor, backward=True)):
        with pytest.raises(InvalidInput, match="cursor"):
            await db.read(keyset.page, listing.RUNS, {}, Order("created_at"), window)


def _forged(*place: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")


@postgresql_heavy
async def test_a_forged_cursor_is_refused_whatever_it_holds(db: Database) -> None:
    ids = await db.write(_story)
    odd: tuple[Any, ...] = (True, False, None, [], {}, 1.5, "x", 7, "nan", "1e999", -(2**63))
    lists = [(listing.EVENTS, Order("seq")), *ORDERS]
    for (listed, order), value, tie in product(lists, odd, odd):
        cursor = _forged(order.field, order.metric_key, value, tie)
        filters: dict[str, Any] = {"experiment_id": ids[0]} if listed is listing.EVENTS else {}
        spread = {listed.spread: ["queued", "ready"]} if listed.spread else {}
        for window, more in product(
            (Window(5, cursor), Window(5, None, cursor, True)), ({}, spread)
        ):
            try:
                await db.read(keyset.page, listed, filters | more, order, window)
            except InvalidInput:
                continue
            sound = type(tie) is (int if order.field == "seq" else str)
            assert sound and not isinstance(value, bool | list | dict), (order, value, tie)


async def test_a_cursor_of_another_order_is_refused(db: Database) -> None:
    await db.write(_story)
    page = await db.scan(keyset.page, listing.RUNS, {}, Order("step"), Window(5))
    for order in (Order("created_at"), Order("metric", True, "loss")):
        with pytest.raises(InvalidInput, match="cursor"):
            window = Window(5, after=page.cursor(0))
            await db.read(keyset.page, listing.RUNS, {}, order, window)
