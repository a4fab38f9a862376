"""Whatever PostgreSQL's planner expects, lists and counts fetch a few hundred of 12,000 rows.

It plans the first five executions of a statement for their values and later ones for any, so each
is executed more often than that.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import Select, column, func, select, table

from app.db import counting, groups, keyset, matching
from app.db.cursors import Order, Window
from app.db.database import Database
from app.db.groups import RunFacet
from app.db.listing import RUNS
from app.db.objects import replace
from app.db.sql import Statement, Tx
from app.db.tables import MetricLatest, RunTag
from app.domain.ids import new_id, timestamp
from app.domain.requests import ExperimentRequest, RunRequest
from app.services import experiments, runs
from tests.services.conftest import writing
from tests.support.database import dsn, opened, postgresql_only

pytestmark = [pytest.mark.anyio, postgresql_only]

SIZES = {"small": 60, "little": 60, "old": 6_000, "new": 6_000}
"""Runs of four experiments, the oldest first."""
MOST = 300
"""Rows of each table that a read may fetch."""
PLANNED_FOR_ANY = 8
"""So often executed, a prepared statement has a plan for any values."""
BY_LOSS = Order("metric", True, "loss")


def _fill(tx: Tx, experiment: str, size: int) -> None:
    """Add so many runs that have ended, each newer than the one before, with a tag and a value."""
    stored = runs.submit(tx, experiment, RunRequest(model="m0"), {})
    names = [new_id("run") for _ in range(size)]
    now = timestamp()
    tx.insert(
        *(
            replace(
                stored, id=id, root_run_id=id, status=_status(place, size),
                created_at=timestamp(), started_at=now, finished_at=now,
            )
            for place, id in enumerate(names)
        )
    )  # fmt: skip
    tx.insert(*(RunTag(tag=f"t{place % 2}", run_id=id) for place, id in enumerate(names)))
    tx.insert(
        *(
            MetricLatest(run_id=id, key="loss", step=1, value=place, experiment_id=experiment)
            for place, id in enumerate(names)
        )
    )


def _status(place: int, size: int) -> str:
    if place % 3:
        return "succeeded"
    return "cancelled" if size == SIZES["small"] else "failed"


@pytest.fixture(scope="module")
def filled(module_database_url: str) -> tuple[str, dict[str, str]]:
    """A database that has the experiments, which the planner knows, and their ids."""

    def fill(tx: Tx) -> dict[str, str]:
        ids = {}
        for name, size in SIZES.items():
            ids[name] = experiments.create(tx, ExperimentRequest(name=name, task_type="sft")).id
            _fill(tx, ids[name], size)
        return ids

    with writing(module_database_url) as write:
        ids = write(fill)
    with psycopg.connect(dsn(module_database_url), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        for setting in ("min_parallel_table_scan_size", "parallel_setup_cost"):  # as of more rows
            connection.execute(
                f"ALTER DATABASE {connection.info.dbname} SET {setting} = 0".encode()
            )
    return module_database_url, ids


@pytest.fixture
async def db(filled: tuple[str, dict[str, str]], anyio_backend: str) -> AsyncIterator[Database]:
    db = opened(filled[0])
    await db.start()
    yield db
    await db.stop()


@pytest.fixture
def ids(filled: tuple[str, dict[str, str]]) -> dict[str, str]:
    return filled[1]


def _fetched(of: str) -> Statement[tuple[int]]:
    """Return the query for the rows of a table that this transaction has fetched."""
    return _counted(column("seq_tup_read") + func.coalesce(column("idx_tup_fetch"), 0), of)


def _counted(numbers: Any, of: str) -> Statement[tuple[int]]:
    """Return the query for what PostgreSQL counts of a table in this transaction."""
    counts: Select[Any] = select(numbers).select_from(table("pg_stat_xact_user_tables"))
    return Statement(counts.where(column("relname") == of))


_TAGS_LOOKED_UP = _counted(column("idx_scan"), "run_tag")
_TABLES = {name: _fetched(name) for name in ("run", "run_tag", "metric_latest")}


def _reading(tx: Tx, read: Callable[[Tx], object]) -> dict[str, int]:
    """Return how many rows of each table a read fetches."""

    def fetched() -> dict[str, int]:
        rows = {name: tx.first(statement) for name, statement in _TABLES.items()}
        return {name: row[0] if row else 0 for name, row in rows.items()}

    before = fetched()
    read(tx)
    return {name: number - before[name] for name, number in fetched().items()}


async def _check(read_by: Any, read: Callable[[Tx], object], what: object) -> None:
    for _ in range(PLANNED_FOR_ANY):
        fetched = await read_by(_reading, read)
        assert max(fetched.values()) < MOST, (what, fetched)


@pytest.mark.parametrize("name", ["small", "old"])
@pytest.mark.parametrize("field", ["created_at", "started_at", "finished_at"])
async def test_a_page_of_an_experiment_passes_none_of_the_newer_runs_of_others(
    db: Database, ids: dict[str, str], name: str, field: str
) -> None:
    """PostgreSQL walked all runs by a time, in whose order they lie: 30 ms of 60,000 newer ones."""
    filters: list[dict[str, Any]] = [
        {}, {"active": True}, {"status": ["succeeded"]}, {"model": "m0"},
    ]  # fmt: skip
    if name == "small":  # of others all runs are read to find that none matches
        filters += [{"model": "none"}, {"tags": ["none"]}, {"recipe": "none", "active": True}]
    for more in filters:
        of = {"experiment_id": ids[name], **more}

        def read(tx: Tx, of: dict[str, Any] = of) -> object:
            return keyset.page(tx, RUNS, of, Order(field, True), Window(size=50))

        await _check(db.read, read, of)


async def test_pages_of_several_experiments_by_a_time_walk_the_runs_of_no_other(
    db: Database, ids: dict[str, str]
) -> None:
    """For those that lack the time the primary key of all runs was walked."""

    def read(tx: Tx) -> object:
        both, order = [ids["small"], ids["little"]], Order("finished_at", True)
        return keyset.read_pages(tx, RUNS, "experiment_id", both, {}, order, Window(10))

    await _check(db.scan, read, "finished_at")


async def test_no_statement_is_compiled_or_read_by_more_than_one_process(db: Database) -> None:
    """Where PostgreSQL has LLVM, as Debian's, it compiled counts by a tag for 180 ms."""
    names = ("jit", "max_parallel_workers_per_gather")
    settings = Statement[tuple[str, str]](select(*map(func.current_setting, names)))
    for read_by in (db.read, db.scan, db.write):
        assert await read_by(lambda tx: tx.first(settings)) == ("off", "0")


async def test_the_newest_runs_in_a_state_are_read_by_its_index(db: Database) -> None:
    """Those that were cancelled are of the oldest experiment."""

    def read(tx: Tx) -> object:
        of = {"status": ["cancelled"]}
        return keyset.page(tx, RUNS, of, Order("created_at", True), Window(size=50))

    await _check(db.read, read, "of all experiments")


@pytest.mark.parametrize(
    "more", [{"tags": ["none"]}, {"tags": ["t1"]}, {"model": "none"}, {"model": "m0"}], ids=str
)
async def test_a_small_experiment_is_read_alone_however_many_runs_others_have(
    db: Database, ids: dict[str, str], more: dict[str, Any]
) -> None:
    """All runs, and the metrics of all, were read to count its runs, or to sort them by a metric.

    The runs that lack it are sorted by their id: it took 60 ms beside 120,000 runs of others.
    """
    of = {"experiment_id": ids["small"], "active": True, **more}
    reads: dict[str, Callable[[Tx], object]] = {
        "page": lambda tx: keyset.page(tx, RUNS, of, BY_LOSS, Window()),
        "count": lambda tx: counting.count(tx, RUNS, of),
        "by status": lambda tx: groups.by_status(tx, of),
        "models": lambda tx: groups.facet(tx, RunFacet.MODEL, of, "", 50),
        "tags": lambda tx: groups.facet(tx, RunFacet.TAG, of, "", 50),
        "keys of metrics": lambda tx: groups.metric_keys(tx, of, "", 50),
    }
    for name, read in reads.items():
        await _check(db.scan, read, name)


async def test_the_tags_of_the_newest_runs_are_read_without_those_of_others(
    db: Database, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tags of all runs were read for them: 15 ms of 120,000 beside a thousand looked up."""
    monkeypatch.setattr(groups, "NEWEST", 2 * MOST // 3)
    of = {"experiment_id": ids["old"]}
    await _check(db.scan, lambda tx: groups.facet(tx, RunFacet.TAG, of, "", 50), of)


async def test_values_of_runs_in_a_rare_state_are_counted_without_reading_the_others(
    db: Database, ids: dict[str, str]
) -> None:
    """All runs of an experiment were read for those in a state that none is in: 60 ms."""
    for states in (["running"], ["queued", "running"]):
        of = {"experiment_id": ids["old"], "active": True, "status": states}

        def read(tx: Tx, of: dict[str, Any] = of) -> object:
            return [
                *(groups.facet(tx, field, of, "", 50) for field in RunFacet),
                groups.metric_keys(tx, of, "", 50),
                counting.count(tx, RUNS, {**of, "created_after": "2000"}),
            ]

        await _check(db.scan, read, states)


async def test_a_tag_is_looked_for_in_the_first_runs_of_a_list_without_those_of_others(
    db: Database, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tag was thought so dear that any index seemed as good: 800,000 newer runs were passed."""
    monkeypatch.setattr(counting, "READ", MOST // 3)
    monkeypatch.setattr(matching, "LOOKED_AT", MOST // 3)
    of = {"experiment_id": ids["old"], "active": True, "tags": ["none"]}
    by_age = Order("created_at", True)
    await _check(db.scan, lambda tx: keyset.page(tx, RUNS, of, by_age, Window()), "page")
    await _check(db.scan, lambda tx: counting.count(tx, RUNS, of), "count")


@pytest.mark.parametrize(
    "order", [BY_LOSS, Order("step"), Order("finished_at", True)], ids=lambda order: order.field
)
async def test_a_tag_that_few_runs_have_is_looked_up_before_the_runs_of_an_experiment(
    db: Database, ids: dict[str, str], order: Order
) -> None:
    """Of 5,000 runs each was asked for it, and twice in the order of a metric: 100 ms."""
    request = RunRequest.model_validate({"model": "m", "tags": [f"few by {order.field}"]})
    few = await db.write(runs.submit, ids["old"], request, {})
    for tag, rows in ((request.tags[0], [few.id]), ("none", [])):

        def read(tx: Tx, tag: str = tag, rows: list[str] = rows) -> None:
            before = tx.first(_TAGS_LOOKED_UP)
            of = {"experiment_id": ids["old"], "tags": [tag]}
            page = keyset.page(tx, RUNS, of, order, Window())
            after = tx.first(_TAGS_LOOKED_UP)
            assert [row.id for row in page.rows] == rows
            assert before and after and after[0] - before[0] < 10

        await _check(db.scan, read, tag)
