"""The store of points against a dictionary: whatever comes, in whatever order, is there once."""

import math
from array import array
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text as text_

from app.db import chunk_ranges, chunks, repacking
from app.db.chunk_ranges import Range
from app.db.database import Database
from app.db.sql import Statement, Tx, columns, select_all
from app.db.tables import MetricChunk, MetricSeries
from app.domain import points
from app.domain.points import Column
from app.domain.reports import ReportRequest
from app.domain.requests import ExperimentRequest, RunRequest
from app.services import experiments, reports, runs
from tests.services.conftest import Write

steps = st.integers(0, 60) | st.sampled_from([10**9, points.MAX_STEP])
batches = st.lists(st.lists(st.tuples(steps, st.floats()), min_size=1, max_size=20), max_size=12)


def new_series(tx: Tx) -> int:
    """The id of an empty series (its first point taken away again)."""
    experiment = experiments.create(tx, ExperimentRequest(name="chunks", task_type="test"))
    run = runs.submit(tx, experiment.id, RunRequest(model="m"), {})
    reports.ingest(
        tx, run.id, ReportRequest.model_validate({"points": [{"key": "k", "step": 0, "value": 0}]})
    )
    found = tx.all(Statement(select_all(MetricSeries), MetricSeries))
    series_id = next(row.id for row in found if row.run_id == run.id)
    assert series_id is not None
    tx.run(chunks._drop, series=series_id, first=0)
    return series_id


def stored(tx: Tx, series_id: int) -> list[MetricChunk]:
    chunk = columns(MetricChunk)
    statement = Statement(
        select_all(MetricChunk).where(chunk.series_id == series_id).order_by(chunk.first_step),
        MetricChunk,
    )
    return tx.all(statement)


def text(column: Column) -> list[Any]:
    """Something that compares NaN as equal."""
    return [list(column.steps), list(map(repr, column.values))]


SIZES = [(4, 2, 256), (12, 3, 256), (40, 3, 9), (12, 2, 4), (1_024, 32, 256)]
ON_DATABASES = [("sqlite", *each) for each in SIZES] + [("postgresql", *each) for each in SIZES[3:]]


@pytest.mark.parametrize(
    ("databases", "size", "tail", "middle"), ON_DATABASES, indirect=["databases"]
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given=batches, low=steps, high=steps, limit=st.integers(1, 40))
def test_points_are_kept_once_and_the_last_value_of_a_step_wins(
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    tail: int,
    middle: int,
    given: list[list[tuple[int, float]]],
    low: int,
    high: int,
    limit: int,
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", size)
    monkeypatch.setattr(chunks, "TAIL", tail)
    monkeypatch.setattr(chunks, "MIDDLE", middle)
    model: dict[int, float] = {}
    series_id = write(new_series)
    for batch in given:
        batch_steps, values = map(list, zip(*batch, strict=True))
        column = Column(batch_steps, values, [math.nan] * len(batch))
        write(chunks.put, series_id, points.sort_column(column))
        model |= dict(batch)
    rows = write(stored, series_id)
    assert all(one.last_step < other.first_step for one, other in pairwise(rows))
    assert all(row.count == len(points.unpack(row.data).steps) <= size for row in rows)
    whole = Column(sorted(model), [model[step] for step in sorted(model)], ())
    assert text(points.join_columns(points.unpack(row.data) for row in rows)) == text(whole)
    page = write(chunk_ranges.page, [Range(series_id, low, high)], limit)
    wanted = points.select_steps(whole._replace(wall_times=whole.values), low, high).cut(0, limit)
    assert text(page) == text(wanted)


def test_points_that_come_backwards_fill_chunks_all_the_same(write: Write) -> None:
    series_id = write(new_series)

    def backwards(tx: Tx) -> None:
        for step in range(999, -1, -1):
            chunks.put(tx, series_id, Column([step], [0.0], [0.0]))

    write(backwards)
    assert len(write(stored, series_id)) <= 4


@pytest.mark.parametrize(("each", "rewritten"), [(1, 24), (1_000, 1)])
def test_points_that_come_in_order_fill_chunks_and_seldom_rewrite_them(
    write: Write, monkeypatch: pytest.MonkeyPatch, each: int, rewritten: int
) -> None:
    series_id, written, put = write(new_series), 0, chunks._put

    def counting(tx: Tx, series_id: int, column: Column) -> None:
        nonlocal written
        written += len(column.steps)
        put(tx, series_id, column)

    def forwards(tx: Tx) -> None:
        for step in range(0, 2_000, each):
            steps = range(step, step + each)
            chunks.put(tx, series_id, Column(steps, [0.0] * each, [0.0] * each))

    monkeypatch.setattr(chunks, "_put", counting)
    write(forwards)
    assert written <= 2_000 * rewritten
    counts = [row.count for row in write(stored, series_id)]
    assert sum(counts) == 2_000
    assert counts[0] == chunks.CHUNK // each * each
    assert len(counts) <= 5


@pytest.mark.parametrize("each", [20, 512, 1_024])  # sketches of small chunks hold every point
def test_an_overview_says_that_points_are_left_out_exactly_when_they_are(
    write: Write, monkeypatch: pytest.MonkeyPatch, each: int
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", each)
    monkeypatch.setattr(chunk_ranges, "SKETCHED", 0)
    series_id = write(new_series)
    write(chunks.put, series_id, Column(range(4 * each), [0.0] * 4 * each, [0.0] * 4 * each))
    for low in (0, each - 1, each, 2 * each):
        for high in (low, low + 1, low + each, low + 2 * each):
            column, downsampled = write(
                chunk_ranges.read_overview, [Range(series_id, low, high)], 1_000
            )
            points_there = min(high, 4 * each - 1) - low + 1
            assert downsampled == (len(column.steps) < points_there), (low, high)


def test_an_overview_of_a_long_series_comes_from_its_sketches_and_keeps_a_spike(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    series_id = write(new_series)
    values = [0.0] * 100_000
    values[54_321], values[77_777] = 9.0, math.nan
    write(chunks.put, series_id, Column(range(100_000), values, values))
    read: list[int] = []
    load = chunks.load

    def counting(tx: Tx, series_id: int, first: int, last: int) -> Column:
        column = load(tx, series_id, first, last)
        read.append(len(column.steps))
        return column

    monkeypatch.setattr(chunks, "load", counting)
    column, downsampled = write(chunk_ranges.read_overview, [Range(series_id, 10, 99_990)], 200)
    assert downsampled
    assert len(column.steps) <= 200
    assert (column.steps[0], column.steps[-1]) == (10, 99_990)
    assert {54_321, 77_777} <= set(column.steps)
    assert sum(read) <= 2 * chunks.CHUNK, "only the two ends are read in full"


def test_chunks_that_are_not_half_full_have_no_sketch_and_lose_no_spike(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_ranges, "SKETCHED", 0)
    series_id, first = write(new_series), 0
    for count in (300, 900) * 4:
        put = column(first, count, value=0.0)
        put.values[count // 2] = float(first + 1)  # type: ignore[index]
        write(chunks.put, series_id, put)
        first += count
    rows = write(stored, series_id)
    assert [row.count for row in rows] == [300, 900] * 4
    assert [row.sketch == b"" for row in rows] == [True, False] * 4
    drawn, downsampled = write(chunk_ranges.read_overview, [Range(series_id, 0, first)], 400)
    assert downsampled
    assert sum(value > 0 for value in drawn.values) == 8


@pytest.mark.anyio
async def test_points_of_earlier_versions_are_packed_in_place(db: Database) -> None:
    """Also those that get new points just when they are packed."""

    def fill(tx: Tx) -> int:
        series_id = new_series(tx)
        for first in range(0, 2_000, 400):
            chunks.put(tx, series_id, column(first, 400))
        for chunk in stored(tx, series_id):
            plain = plain_bytes(points.unpack(chunk.data))
            tx.run(
                _AS_BEFORE, series=series_id, first=chunk.first_step, data=plain,
                sketch=plain_bytes(points.unpack(chunk.sketch)),
            )  # fmt: skip
        return series_id

    series_id = await db.write(fill)
    old = await db.read(stored, series_id)
    assert sum(len(each.data) for each in old) == 24 * 2_000
    first = await db.scan(repacking.list_plain, (-1, -1), 2)
    await db.write(chunks.put, series_id, column(400, 1, value=-1.0))
    await db.write(repacking.pack_again, first)
    rest = await db.scan(repacking.list_plain, (first[1].series_id, first[1].first_step), 100)
    await db.write(repacking.pack_again, rest)
    assert await db.scan(repacking.list_plain, (-1, -1), 100) == []
    packed = await db.read(stored, series_id)
    assert sum(len(each.data) for each in packed) < 10 * 2_000
    whole = await db.read(lambda tx: chunk_ranges.page(tx, [Range(series_id, 0, 10**6)], 10**6))
    assert list(whole.steps) == list(range(2_000))
    assert whole.values[400] == -1.0
    assert list(whole.values[401:]) == [float(step) for step in range(401, 2_000)]


def column(first: int, count: int, value: float | None = None) -> Column:
    steps = range(first, first + count)
    values = [float(step) if value is None else value for step in steps]
    return Column(steps, values, [1.7e9 + step / 3 for step in steps])


def plain_bytes(of: Column) -> bytes:
    steps, values, wall_times = of
    return b"".join((array("q", steps), array("d", values), array("d", wall_times)))


_AS_BEFORE = Statement[Any](
    text_(
        "UPDATE metric_chunk SET data = :data, sketch = :sketch"
        " WHERE series_id = :series AND first_step = :first"
    )
)
