"""Counts and facets over more runs than anybody reads: true, and bounded where they say so."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from app.db import counting, groups, keyset, matching
from app.db.counting import Count
from app.db.cursors import Order, Window
from app.db.groups import RunFacet
from app.db.listing import RUNS
from app.db.sql import Tx
from app.domain.filters import AnyRunFilter, get_conditions
from app.domain.requests import ExperimentRequest, RunRequest, UpdateRunRequest
from app.services import edits, experiments, runs
from tests.services.conftest import Write, writing
from tests.support.database import Databases, sqlite_only

MANY = 1_200


def fill(tx: Tx) -> str:
    """Make runs of three models; every tenth is cancelled, and every hundredth archived."""
    experiment = experiments.create(tx, ExperimentRequest(name="many", task_type="t", owner="ada"))
    for number in range(MANY):
        request = RunRequest(model=f"m{number % 3}", tags=[f"t{number % 2}"])
        run = runs.submit(tx, experiment.id, request, {})
        if number % 10 == 0:
            runs.cancel(tx, run.id)
        if number % 100 == 0:
            edits.update_run(tx, run.id, UpdateRunRequest(archived=True))
    return experiment.id


@pytest.fixture(scope="module")
def database_url(databases: Databases) -> Iterator[str]:
    """One for all tests, which read the runs in it."""
    url = databases.migrated()
    yield url
    databases.drop(url)


@pytest.fixture(scope="module")
def experiment(database_url: str) -> str:
    """The only one that has runs: those of `fill`."""
    with writing(database_url) as write:
        return str(write(fill))


def test_more_than_a_thousand_runs_are_counted_truly(
    write: Write, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    active, every = (
        get_conditions(
            AnyRunFilter, AnyRunFilter.model_validate({"experiment_id": experiment} | more)
        )
        for more in ({}, {"archived": None})
    )
    assert dict(write(groups.by_status, active).counts) == {"queued": 1_080, "cancelled": 108}
    assert dict(write(groups.by_status, every).counts) == {"queued": 1_080, "cancelled": 120}
    assert dict(write(groups.by_status_of, [experiment])[0]) == {"queued": 1_080, "cancelled": 108}
    assert write(counting.count, RUNS, active) == Count(MANY - 12)
    assert write(counting.count, RUNS, every) == Count(MANY)
    assert write(counting.counts, RUNS, "experiment_id", [experiment], active | {}) == [
        Count(MANY - 12)
    ]
    page = write(keyset.page, RUNS, active, Order("created_at"), Window(500))
    assert len(page.rows) == 500 and page.has_next

    models = dict(write(groups.facet, RunFacet.MODEL, every, "", 10))
    assert models == {"m0": 400, "m1": 400, "m2": 400}
    assert dict(write(groups.facet, RunFacet.TAG, every, "t1", 10)) == {"t1": 600}
    assert dict(write(groups.facet, RunFacet.OWNER, every, "", 10)) == {"ada": MANY}
    monkeypatch.setattr(groups, "NEWEST", 300)
    models = dict(write(groups.facet, RunFacet.MODEL, every, "", 10))
    assert sum(models.values()) == 300, "the newest alone are looked at"


@pytest.mark.parametrize("words", ["m1", "m", "common"])
def test_a_count_that_reads_rows_ends_at_its_bound_and_says_so(
    write: Write, experiment: str, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """A text that a third of the runs has, one of few letters, and one that all of them have."""
    every = {"experiment_id": experiment}
    filters = every | ({"search": words} if words != "common" else {"owner": "ada", "model": "m1"})
    number = MANY if words == "m" else MANY // 3
    monkeypatch.setattr(matching, "FEW", 0)
    monkeypatch.setattr(counting, "COUNTED", number)
    read = write(groups.by_status, filters)
    assert not read.is_lower_bound and sum(count for _, count in read.counts) == number
    assert write(counting.count, RUNS, filters) == Count(number)
    assert write(counting.counts, RUNS, "experiment_id", [experiment], filters) == [Count(number)]
    monkeypatch.setattr(counting, "COUNTED", number - 1)
    read = write(groups.by_status, filters)
    assert read.is_lower_bound and sum(count for _, count in read.counts) == number
    assert write(counting.count, RUNS, filters) == Count(number - 1, True)
    other = write(experiments.create, ExperimentRequest(name="other", task_type="t")).id
    ids = [experiment, other]
    without = {name: value for name, value in filters.items() if name != "experiment_id"}
    assert write(counting.counts, RUNS, "experiment_id", ids, without) == [
        Count(number - 1, True), Count(0),
    ]  # fmt: skip


@pytest.mark.parametrize("looked_at", [300, MANY - 1, MANY])
def test_a_usual_text_is_counted_among_the_newest_runs_of_a_long_list(
    write: Write, experiment: str, monkeypatch: pytest.MonkeyPatch, looked_at: int
) -> None:
    filters = {"experiment_id": experiment, "search": "m1"}
    monkeypatch.setattr(matching, "FEW", 0)
    monkeypatch.setattr(counting, "LOOKED_AT", looked_at)
    newest = sum(number % 3 == 1 for number in range(MANY - looked_at, MANY))
    assert write(counting.count, RUNS, filters) == Count(newest, looked_at < MANY)
    read = write(groups.by_status, filters)
    assert read.is_lower_bound == (looked_at < MANY)
    assert sum(count for _, count in read.counts) == newest
    assert write(counting.count, RUNS, {"search": "m1"}) == Count(newest, True), "of all runs"
    monkeypatch.setattr(groups, "NEWEST", 90)
    assert write(groups.facet, RunFacet.MODEL, filters, "", 10) == [("m1", 90)]


@pytest.mark.parametrize("text", ["m1", "m1\x1ft1"])
def test_a_text_that_many_older_runs_have_is_counted_up_to_some_of_them(
    write: Write, experiment: str, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    number = MANY // 3 if text == "m1" else MANY // 6
    filters = {"experiment_id": experiment, "search": text}
    monkeypatch.setattr(matching, "FEW", 0)
    monkeypatch.setattr(matching, "PEEKED", 0)
    monkeypatch.setattr(counting, "EXAMINED", number)
    assert write(counting.count, RUNS, filters) == Count(number)
    assert not write(groups.by_status, filters).is_lower_bound
    monkeypatch.setattr(counting, "EXAMINED", 100)
    assert write(counting.count, RUNS, filters) == Count(100, True)
    read = write(groups.by_status, filters)
    assert read.is_lower_bound and sum(count for _, count in read.counts) == 100
    assert write(groups.facet, RunFacet.MODEL, filters, "", 10) == [("m1", 100)]
    other = write(experiments.create, ExperimentRequest(name="other", task_type="t")).id
    assert write(counting.count, RUNS, {**filters, "experiment_id": other}) == Count(0, True)


@pytest.mark.parametrize("read", [300, MANY - 1, MANY])
def test_a_value_that_no_index_has_is_counted_among_the_newest_runs_of_a_long_list(
    write: Write, experiment: str, monkeypatch: pytest.MonkeyPatch, read: int
) -> None:
    """A model that few runs have was looked for in a million of them: a second and a half."""
    filters = {"experiment_id": experiment, "model": "m1"}
    monkeypatch.setattr(counting, "READ", read)
    newest = sum(number % 3 == 1 for number in range(MANY - read, MANY))
    expected = Count(newest, read < MANY)
    assert write(counting.count, RUNS, filters) == expected
    assert write(counting.count, RUNS, {"model": "m1"}) == expected, "of all runs"
    other = write(experiments.create, ExperimentRequest(name="other", task_type="t")).id
    counts = write(counting.counts, RUNS, "experiment_id", [experiment, other], {"model": "m1"})
    assert counts == [expected, Count(0)]
    by_status = write(groups.by_status, filters)
    assert by_status.is_lower_bound == expected.is_lower_bound
    assert sum(count for _, count in by_status.counts) == newest
    assert write(counting.count, RUNS, {**filters, "name": "n"}) == Count(0, read < MANY)
    assert write(counting.count, RUNS, {"name": "n", "model": "m1"}) == Count(0), "by its index"
    exact = {"experiment_id": experiment, "created_after": "2000"}
    assert write(counting.count, RUNS, exact) == Count(MANY), "by the index of the list"


@pytest.mark.parametrize("newest", [50, 250, MANY])
def test_values_of_runs_in_some_states_are_those_of_the_newest_of_them(
    write: Write, experiment: str, monkeypatch: pytest.MonkeyPatch, newest: int
) -> None:
    """Each state is read by itself: what is counted are the newest of all of them together."""
    monkeypatch.setattr(groups, "NEWEST", newest)
    if newest == 250:  # those of a long list that are archived are looked up first
        monkeypatch.setattr(counting, "READ", 100)
    cancelled = [number for number in range(MANY) if number % 10 == 0]
    queued = [number for number in range(MANY) if number % 10]
    archived = [number for number in range(MANY) if number % 100 == 0]
    cases: list[tuple[dict[str, object], list[int]]] = [
        ({"status": ["cancelled"]}, cancelled),
        ({"status": ["cancelled", "cancelled"]}, cancelled),
        ({"status": ["cancelled", "queued", "running"]}, list(range(MANY))),
        ({"status": ["running"]}, []),
        ({"status": ["queued"], "active": True}, queued),
        ({"archived": True}, archived),
        ({"archived": True, "status": ["cancelled", "queued"]}, archived),
    ]
    for more, numbers in cases:
        for of in ({"experiment_id": experiment}, {}):
            expected = Counter(f"m{number % 3}" for number in sorted(numbers)[-newest:])
            models = dict(write(groups.facet, RunFacet.MODEL, {**of, **more}, "", 10))
            assert models == expected, (of, more)
            tags = dict(write(groups.facet, RunFacet.TAG, {**of, **more}, "", 10))
            assert tags == Counter(f"t{number % 2}" for number in sorted(numbers)[-newest:])
    for states, number in ((["cancelled"], len(cancelled)), (["cancelled", "queued"], MANY)):
        since = {"status": states, "created_after": "2000"}
        own = {"experiment_id": experiment, **since}
        assert sum(count for _, count in write(groups.by_status, own).counts) == number
        assert write(counting.count, RUNS, own) == Count(number)
        counts = write(counting.counts, RUNS, "experiment_id", [experiment], since)
        assert counts == [Count(number)]


@sqlite_only
@pytest.mark.parametrize("of", [{}, {"status": ["running", "queued"]}], ids=str)
def test_what_is_counted_of_the_newest_runs_reads_no_others_on_sqlite(
    database_url: str, experiment: str, of: dict[str, list[str]]
) -> None:
    """It read the values of all runs for the keys of the newest 2,000, and all for a rare state."""
    path = database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ANALYZE")
        connection.execute("DELETE FROM sqlite_stat1")
        known = [  # as `PRAGMA optimize` leaves it
            ("metric_latest", "metric_latest", "243000 2 1"),
            ("metric_latest", "ix_metric_latest_value", "243000 48000 1 1"),
        ]
        connection.executemany("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", known)
    with closing(sqlite3.connect(path)) as connection:
        cursor = _Explaining(connection)
        groups.metric_keys(Tx(cursor, "sqlite"), of, "", 50)
        groups.facet(Tx(cursor, "sqlite"), RunFacet.TAG, of, "", 50)
    for plan in cursor.plans[-2:]:
        assert not any(step.startswith(("SCAN metric_latest", "SCAN run_tag")) for step in plan)
        assert not any("BLOOM FILTER" in step for step in plan), "made of all values"
        of_runs = [step for step in plan if step.split()[1] == "run"]
        index = "ix_run_status (status=?)" if of else "ix_run_created"
        assert of_runs and all(index in step for step in of_runs), plan


class _Explaining:
    """A cursor that also asks how each statement is read; a traced one would show its values."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.plans: list[list[str]] = []
        self._explained = connection.cursor()
        self._cursor = connection.cursor()
        self.fetchone, self.fetchall = self._cursor.fetchone, self._cursor.fetchall

    def execute(self, text: str, params: dict[str, object]) -> None:
        rows = self._explained.execute(f"EXPLAIN QUERY PLAN {text}", params)
        self.plans.append([row[3] for row in rows])
        self._cursor.execute(text, params)
