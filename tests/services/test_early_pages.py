"""Pages of runs that have to be read to be found: they end early, and lose and repeat nothing."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from app.db import counting, keyset, matching, narrowing
from app.db.cursors import Order, Page, Window, parse
from app.db.listing import RUNS
from app.db.rows import RunRow
from app.db.sql import Tx
from app.domain.reports import ReportRequest
from app.domain.requests import (
    ExperimentRequest,
    RunRequest,
    UpdateExperimentRequest,
    UpdateRunRequest,
)
from app.services import edits, experiments, reports, runs
from tests.services.conftest import Write, writing

MANY = 40
LOOKED_AT = 5
RARE: dict[str, Any] = {
    "model": "rare-model", "name": "rare-name", "tags": ["rare-tag", "common"], "search": "rare-n",
    "metric": ("loss", 900, None),
}  # fmt: skip


def fill(tx: Tx) -> str:
    """Make runs of which every seventh has a large `lr`, and the second one rare values."""
    request = ExperimentRequest(name="many", task_type="t", tags=["common"])
    experiment = experiments.create(tx, request).id
    for number in range(MANY):
        fields: dict[str, Any] = {"model": "m", "hyperparams": {"lr": number % 7}}
        if number == 1:
            fields |= {"model": "rare-model", "name": "rare-name", "tags": ["rare-tag"]}
        run = runs.submit(tx, experiment, RunRequest.model_validate(fields), {})
        if number % 3:
            point = {"key": "loss", "step": 1, "value": 1_000 if number == 1 else number % 5}
            body = {"step": number, "points": [point]}
            reports.ingest(tx, run.id, ReportRequest.model_validate(body))
        if number % 4 == 0:
            runs.cancel(tx, run.id)
    return experiment


@pytest.fixture(scope="module")
def many(module_database_url: str) -> Iterator[tuple[Write, str]]:
    """An experiment with those runs, for tests that only read."""
    with writing(module_database_url) as write:
        yield write, write(fill)


@pytest.fixture(autouse=True)
def long_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the lists of these tests for long ones."""
    monkeypatch.setattr(counting, "READ", LOOKED_AT)
    monkeypatch.setattr(matching, "LOOKED_AT", LOOKED_AT)
    monkeypatch.setattr(matching, "FEW", 0)
    monkeypatch.setattr(matching, "MATCHES", 3)
    monkeypatch.setattr(counting, "SORTED", 0)


def walk(write: Write, filters: dict[str, Any], order: Order, backward: bool) -> list[Page[RunRow]]:
    """Read a list page by page, as a client does."""
    pages: list[Page[RunRow]] = []
    cursor = None
    while len(pages) < 2 * MANY:
        window = Window(3, before=cursor) if backward else Window(3, cursor)
        page = write(keyset.page, RUNS, filters, order, window._replace(backward=backward))
        pages.append(page)
        if not (page.has_previous if backward else page.has_next):
            return pages
        cursor = page.start_cursor() if backward else page.end_cursor()
    raise AssertionError("the list has no end")


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("field", ["created_at", "started_at", "finished_at", "step", "metric"])
def test_pages_that_end_early_hold_each_match_once_in_its_order(
    many: tuple[Write, str], monkeypatch: pytest.MonkeyPatch, field: str, backward: bool
) -> None:
    write, experiment = many
    filters = {"experiment_id": experiment, "hyperparam": ("lr", 6, None)}
    for more in ({}, {"status": ["queued", "running"]}, {"model": "m"}):
        for descending in (True, False):
            order = Order(field, descending, "loss" if field == "metric" else None)
            pages = walk(write, filters | more, order, backward)
            in_order = reversed(pages) if backward else pages
            ids = [row.id for page in in_order for row in page.rows]
            with monkeypatch.context() as patch:
                patch.setattr(counting, "READ", MANY)
                whole = write(keyset.page, RUNS, filters | more, order, Window(MANY))
            assert whole.stopped_at is None and len(whole.rows) >= 3
            assert ids == [row.id for row in whole.rows], (more, order)
            early = [page for page in pages if page.stopped_at is not None]
            assert len(early) >= 2, "each looks at some rows only"
            assert any(not page.rows for page in early), "also where none of them matches"


def test_values_of_other_experiments_are_not_looked_at(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an experiment of 40,000 runs among a million 100,000 values were looked up for a page."""
    filters = {"experiment_id": write(fill), "hyperparam": ("lr", 1_000, None)}
    monkeypatch.setattr(matching, "LOOKED_AT", 4 * LOOKED_AT)
    order = Order("metric", True, "loss")

    def looks() -> int:
        pages = walk(write, filters, order, backward=False)
        places = [parse(page.stopped_at or "", order, "", nullable=True) for page in pages[:-1]]
        return sum(value is not None for value, _ in places)

    alone = looks()
    for _ in range(3):
        write(fill)
    assert looks() == alone > 3


@pytest.mark.parametrize("name", RARE)
def test_a_value_that_few_runs_have_is_found_by_an_index_however_old_they_are(
    many: tuple[Write, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write, experiment = many
    filters = {"experiment_id": experiment, name: RARE[name]}
    page = write(keyset.page, RUNS, filters, Order("created_at"), Window(3))
    assert [row.name for row in page.rows] == ["rare-name"]
    assert not page.has_next and page.stopped_at is None
    monkeypatch.setattr(matching, "MATCHES", 1)
    page = write(keyset.page, RUNS, filters, Order("created_at"), Window(3))
    assert not page.rows and page.stopped_at is not None, "an index that finds many is no help"


def test_each_of_many_experiments_has_a_page_that_ends_early(write: Write) -> None:
    ids = [write(fill), write(fill)]
    filters = {"hyperparam": ("lr", 6, None)}
    pages = write(
        keyset.read_pages, RUNS, "experiment_id", ids, filters, Order("created_at"), Window(3)
    )
    assert all(page.stopped_at is not None and page.has_next for page in pages)


def read_whole(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the filters of lists whose rows are all read and then sorted, as they come."""
    read, whole = list[Any](), keyset._read_all

    def noted(*args: Any, **more: Any) -> Any:
        read.append(args[2])
        return whole(*args, **more)

    monkeypatch.setattr(keyset, "_read_all", noted)
    return read


@pytest.mark.parametrize("field", ["created_at", "finished_at", "step", "metric"])
def test_runs_of_an_owner_or_a_type_that_has_few_are_found_among_very_many(
    write: Write, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """A million of others were read for them, where more than one status was asked for."""
    request = ExperimentRequest(name="few", task_type="rare", owner="rare")
    few = write(experiments.create, request).id
    made = [write(runs.submit, few, RunRequest(model="m"), {}).id for _ in range(2)]
    write(fill)
    order = Order(field, True, "loss" if field == "metric" else None)
    read = read_whole(monkeypatch)
    wanted: list[dict[str, Any]] = [{"owner": "rare"}, {"task_type": "rare"}]
    more: list[dict[str, Any]] = [{}, {"status": ["queued", "running"]}, {"active": True}]
    for filters, also in product(wanted, more):
        page = write(keyset.page, RUNS, filters | also, order, Window(3))
        assert sorted(row.id for row in page.rows) == sorted(made), filters
        assert not page.has_next and page.stopped_at is None
    assert len(read) == len(wanted) * len(more) and all("found" in filters for filters in read)
    monkeypatch.setattr(matching, "MATCHES", 2)
    monkeypatch.setattr(narrowing, "MERGED_RUNS", 1)
    page = write(keyset.page, RUNS, wanted[0], order, Window(3))
    assert page.stopped_at is not None, "an owner of many is no help"


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("descending", [False, True])
def test_runs_of_an_owner_by_a_metric_are_those_of_each_experiment(
    write: Write, monkeypatch: pytest.MonkeyPatch, descending: bool, backward: bool
) -> None:
    """Owners of 4,000 to 10,000 runs among a million got a few of them a page."""
    monkeypatch.setattr(matching, "MATCHES", 1)
    ids = [write(fill) for _ in range(3)]
    for id in ids[:2]:
        write(edits.update_experiment, id, UpdateExperimentRequest(owner="ann"))
    order = Order("metric", descending, "loss")
    for more in ({}, {"status": ["queued", "running"]}, {"hyperparam": ("lr", 6, None)}):
        pages = walk(write, {"owner": "ann"} | more, order, backward)
        in_order = reversed(pages) if backward else pages
        rows = [row for page in in_order for row in page.rows]
        with monkeypatch.context() as patch:
            patch.setattr(counting, "READ", 3 * MANY)
            whole = write(keyset.page, RUNS, {"owner": "ann"} | more, order, Window(3 * MANY))
        assert [row.id for row in rows] == [row.id for row in whole.rows]
        assert {row.experiment_id for row in rows} == set(ids[:2])
        early = [page for page in pages if page.values and len(page.rows) < 3]
        valued = [page for page in early if None not in page.values]
        assert "hyperparam" in more or len(valued) <= 1, "but where those that lack it begin"


@pytest.mark.parametrize("field", ["created_at", "finished_at", "step", "metric"])
def test_the_few_that_are_archived_are_found_among_very_many(
    write: Write, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """A million of others were read for them."""
    experiment, other = write(fill), write(fill)
    order = Order(field, True, "loss" if field == "metric" else None)
    for within in (experiment, other):
        run = write(runs.submit, within, RunRequest(model="old"), {})
        write(runs.cancel, run.id)
        write(edits.update_run, run.id, UpdateRunRequest(archived=True))
    for filters, number in (({}, 2), ({"experiment_id": other}, 1), ({"model": "m"}, 0)):
        page = write(keyset.page, RUNS, {**filters, "archived": True}, order, Window(3))
        assert len(page.rows) == number and page.stopped_at is None
        narrowed = write(narrowing.of_archived, RUNS, {**filters, "archived": True})
        assert narrowed is not None and len(narrowed["found"]) == (number or 2)
    monkeypatch.setattr(matching, "MATCHES", 1)
    assert write(narrowing.of_archived, RUNS, {"archived": True}) is None, "many are no help"


@pytest.mark.parametrize("field", ["created_at", "finished_at", "step", "metric"])
def test_the_few_that_are_not_archived_are_found_among_very_many(
    write: Write, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """All others were read for them: nearly a second of a million."""
    experiment = write(experiments.create, ExperimentRequest(name="old", task_type="t")).id
    rates = [0] * (3 * LOOKED_AT + 1) + [1]
    *old, other, one = [
        write(runs.submit, experiment, RunRequest(model="m", hyperparams={"lr": lr}), {}).id
        for lr in rates
    ]
    for run_id in old:
        write(runs.cancel, run_id)
        write(edits.update_run, run_id, UpdateRunRequest(archived=True))
    order = Order(field, True, "loss" if field == "metric" else None)
    read = read_whole(monkeypatch)
    of: dict[str, Any] = {"experiment_id": experiment, "active": True}
    statuses = {"status": ["queued", "running", "cancelled"]}
    rare: dict[str, Any] = {"hyperparam": ("lr", 1, None)}
    for also in ({}, statuses, rare, statuses | rare):
        page = write(keyset.page, RUNS, of | also, order, Window(3))
        found = [one] if "hyperparam" in also else [one, other]
        assert sorted(row.id for row in page.rows) == sorted(found), also
        assert not page.has_next and page.stopped_at is None, also
    assert len(read) == 4 and all("found" in filters for filters in read)
    monkeypatch.setattr(matching, "MATCHES", 2)
    assert write(narrowing.of_active, RUNS, of) is None, "many are no help"


@pytest.mark.parametrize("backward", [False, True])
def test_runs_that_lack_the_metric_of_an_order_are_looked_for_in_some_rows_at_a_time(
    write: Write, monkeypatch: pytest.MonkeyPatch, backward: bool
) -> None:
    """A million runs that have it were read for the few that do not."""
    experiment, _ = write(fill), write(fill)
    of: dict[str, Any] = {"experiment_id": experiment}
    for filters in (of, of | {"status": ["queued"]}, {}, {"active": True}):
        for descending in (True, False):
            order = Order("metric", descending, "loss")
            pages = walk(write, filters, order, backward)
            in_order = reversed(pages) if backward else pages
            ids = [row.id for page in in_order for row in page.rows]
            with monkeypatch.context() as patch:
                patch.setattr(counting, "READ", 2 * MANY)
                whole = write(keyset.page, RUNS, filters, order, Window(2 * MANY))
            assert whole.stopped_at is None and None in whole.values
            assert ids == [row.id for row in whole.rows], (filters, order)
            assert any(page.stopped_at is not None for page in pages)
    ids = [experiment, write(fill)]
    order, window = Order("metric", True, "none"), Window(7)
    pages = write(keyset.read_pages, RUNS, "experiment_id", ids, {}, order, window)
    assert all(page.stopped_at is not None and page.has_next for page in pages)
