"""Text search: whatever is part of a text is found, in short and long lists, and stops nobody."""

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import pytest

from app.db import counting, database, keyset, listing, matching
from app.db.connect import connect
from app.db.counting import Count
from app.db.cursors import Order, Window
from app.db.database import Database
from app.db.sql import Tx
from app.domain.ids import new_id
from app.domain.recipe_file import read_recipes
from app.domain.requests import ExperimentRequest, RunRequest, UpdateRunRequest
from app.domain.texts import fold
from app.errors import Timeout
from app.services import edits, experiments, runs
from tests.support.clock import is_soon
from tests.support.database import sqlite_only

pytestmark = pytest.mark.anyio

NOTES = [
    "Learning rate 1e-4, warm-up 10 %", "学习率太高，损失发散", "训练", "LoRA r=16 \"quoted\" it's",
    "über Größe", "u\u0308ber gro\u0308sse", "a_b\\c%d", "🦙🦙 llama", "x" * 10_000, "ab", "",
    "İstanbul", "line\nbreak", "NEAR AND OR NOT *", "xxb" + "x" * 500,
]  # fmt: skip
TERMS = [
    "learning", "RATE 1E", "1e-4", "%", "_", "\\", "a_b", "a_b\\c%d", "率", "学习", "学习率",
    "太高，损失", "训练", '"', 'r=16 "q', "'s", "über", "ÜBER", "größe", "🦙", "🦙🦙 l", "x" * 200,
    "x" * 199 + "b",
    "a", "ab", "abc", "nothing", "e\nb", "AND OR", "*", "model-1", "MODEL", "demo",
]  # fmt: skip
LONG = {"FEW": 0, "PEEKED": 0, "LOOKED_AT": 1}
"""Lists are long from the first row on: what is found is found by the index."""

COMMON = {"FEW": 0, "PEEKED": 0, "MATCHES": 2}
"""And what two rows have is common: the list is walked for it."""


def _story(tx: Tx) -> str:
    experiment = experiments.create(tx, ExperimentRequest(name="e", task_type="sft"))
    for number, notes in enumerate(NOTES):
        request = RunRequest(model=f"model-{number}", notes=notes, recipe="demo")
        runs.submit(tx, experiment.id, request, read_recipes(None))
    return experiment.id


async def _found(db: Database, term: str, **filters: Any) -> list[Any]:
    asked = {"search": term} | filters
    page = await db.search(keyset.page, listing.RUNS, asked, Order("created_at"), Window(100))
    assert Count(len(page.rows)) == await db.search(counting.count, listing.RUNS, asked)
    return page.rows


async def test_a_run_is_found_by_the_words_it_has_at_the_end_of_a_transaction(
    db: Database,
) -> None:
    """Also where they change in the one that submits it; and its index holds no others."""

    def submit(tx: Tx) -> list[str]:
        experiment = experiments.create(tx, ExperimentRequest(name="e", task_type="sft"))
        requests = (RunRequest(model="m", notes=notes) for notes in ("early word", "other"))
        ids = [runs.submit(tx, experiment.id, request, {}).id for request in requests]
        edits.update_run(tx, ids[0], UpdateRunRequest(notes="later word"))
        return ids

    first, second = await db.write(submit)
    assert await _found(db, "early") == []
    assert [run.id for run in await _found(db, "later")] == [first]
    await db.write(edits.update_run, second, UpdateRunRequest(notes="word of the other"))
    assert [run.id for run in await _found(db, "word")] == [second, first]
    await db.write(edits.update_run, first, UpdateRunRequest(notes=None, name="named"))
    assert [run.id for run in await _found(db, "word")] == [second]
    assert [run.id for run in await _found(db, "named")] == [first]


@pytest.mark.parametrize(
    "sizes", [{}, {"FEW": 0}, {"FEW": 0, "LOOKED_AT": 3}, LONG, COMMON], ids=str
)
async def test_every_part_of_a_text_is_found_in_either_case_and_any_script(
    db: Database, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int]
) -> None:
    for name, value in sizes.items():
        monkeypatch.setattr(matching, name, value)
    experiment = await db.write(_story)
    for term in TERMS:
        for filters in ({}, {"experiment_id": experiment}):
            found = await _found(db, term, **filters)
            texts = [fold(f"{row.model}\n{row.recipe}\n{row.notes}") for row in found]
            assert all(fold(term) in text for text in texts), term
            expected = [
                number
                for number, notes in enumerate(NOTES)
                if any(fold(term) in fold(each) for each in (f"model-{number}", "demo", notes))
            ]
            numbers = sorted(int(row.model.removeprefix("model-")) for row in found)
            assert numbers == expected, term
    (row,) = await _found(db, found[0].id) if found else await _found(db, "model-14")
    assert row.model


async def test_a_search_goes_with_every_order_filter_and_page(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "FEW", 0)
    experiment = await db.write(_story)
    orders = [Order(field, down, "loss" if field == "metric" else None)
              for field, down in product(listing.RUNS.orders, (True, False))]  # fmt: skip
    for looked_at, order, backward in product((1, 4, 2000), orders, (False, True)):
        monkeypatch.setattr(matching, "LOOKED_AT", looked_at)
        filters = {"search": "demo", "status": ["queued"], "model": "model-3"}
        page = await db.search(
            keyset.page, listing.RUNS, filters, order, Window(2, backward=backward)
        )
        assert [row.model for row in page.rows] == ["model-3"], order
        seen: list[str] = []
        cursor = None
        while True:
            window = Window(4, before=cursor) if backward else Window(4, cursor)
            window = window._replace(backward=backward)
            page = await db.search(keyset.page, listing.RUNS, {"search": "demo"}, order, window)
            seen += [row.id for row in page.rows]
            if not (page.has_previous if backward else page.has_next):
                break
            cursor = page.cursor(0 if backward else len(page.rows) - 1)
        assert len(seen) == len(set(seen)) == len(NOTES), (looked_at, order, backward)
    ids = [experiment, new_id("exp")]
    both = await db.search(
        keyset.read_pages, listing.RUNS, "experiment_id", ids, {"search": "demo"},
        Order("created_at"), Window(50),
    )  # fmt: skip
    assert [len(page.rows) for page in both] == [len(NOTES), 0]
    counts = await db.search(
        counting.counts, listing.RUNS, "experiment_id", ids, {"search": "demo"}
    )
    assert counts == [Count(len(NOTES)), Count(0)]


HOSTILE = ("x" * 199 + "b", "b" + "x" * 199)
"""Each is compared at every place of a text of x's, nearly to its end."""


@pytest.fixture(scope="module")
def hostile_url(module_database_url: str) -> str:
    """A database of 1,000 runs whose notes have all trigrams of the hostile searches.

    None of the notes has one of their texts. PostgreSQL takes 8 ms to index each.
    """
    request = RunRequest(model="m", notes="xxb bxx " + "x" * 9_990)

    def submit(tx: Tx, experiment: str) -> None:
        for _ in range(200):
            runs.submit(tx, experiment, request, {})

    async def fill() -> None:
        db = connect(module_database_url)
        await db.start()
        experiment = await db.write(_story)
        for _ in range(5):
            await db.write(submit, experiment)
        await db.stop()

    asyncio.run(fill())
    return module_database_url


@pytest.fixture
async def hostile(
    hostile_url: str, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Database]:
    """The database of hostile runs, whose lists are long."""
    for name, value in LONG.items():
        monkeypatch.setattr(matching, name, value)
    db = connect(hostile_url)
    await db.start()
    yield db
    await db.stop()


def quick(tx: Tx) -> int:
    return 1


async def test_a_hostile_search_holds_up_neither_the_loop_nor_other_reads(
    hostile: Database,
) -> None:
    """Four of them held every scanner for 170 s, when they were of 2,000 runs."""
    searches = [
        asyncio.create_task(hostile.search(counting.count, listing.RUNS, {"search": term}))
        for term in HOSTILE * 4
    ]
    await asyncio.sleep(0.1)
    slowest = 0.0
    for _ in range(20):
        start = time.perf_counter()
        assert await hostile.scan(quick) == 1
        slowest = max(slowest, time.perf_counter() - start)
    assert is_soon(slowest, 1)
    for search in searches:
        search.cancel()
    await asyncio.gather(*searches, return_exceptions=True)


async def test_a_search_that_is_given_up_ends_in_the_database_before_it_is_through(
    hostile: Database,
) -> None:
    """Seen red: with a search that nobody stops, all of its rows are looked through."""
    begun, ended = asyncio.Event(), asyncio.Event()
    ends: list[str] = []
    loop = asyncio.get_running_loop()

    def look(tx: Tx) -> None:
        loop.call_soon_threadsafe(begun.set)
        try:
            for _ in range(40):  # one may take less than the pause below
                counting.count(tx, listing.RUNS, {"search": HOSTILE[0]})
            ends.append("through")
        except BaseException:
            ends.append("stopped")
            raise
        finally:
            loop.call_soon_threadsafe(ended.set)

    for _ in range(3):
        begun.clear()
        ended.clear()
        search = asyncio.create_task(hostile.search(look))
        async with asyncio.timeout(60):
            await begun.wait()
            await asyncio.sleep(0.05)
            search.cancel()
            await ended.wait()
    assert ends == ["stopped"] * 3
    assert await hostile.search(quick) == 1, "those that were given up have left their place"


async def test_a_search_that_takes_too_long_ends_and_says_so(
    hostile: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "SEARCH_SECONDS", 0.01)
    with pytest.raises(Timeout, match=r"longer than 0\.01 s"):
        await hostile.search(counting.count, listing.RUNS, {"search": HOSTILE[0]})
    monkeypatch.undo()
    assert await hostile.search(quick) == 1


@sqlite_only
@pytest.mark.parametrize("field", ["created_at", "started_at", "finished_at"])
async def test_a_rare_text_is_not_looked_for_in_every_run_of_an_experiment(
    db: Database, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    for name, value in LONG.items():
        monkeypatch.setattr(matching, name, value)
    texts: list[str] = []

    def plans(tx: Tx) -> list[str]:
        experiment = experiments.create(tx, ExperimentRequest(name="e", task_type="sft"))
        runs.submit(tx, experiment.id, RunRequest(model="m"), {})
        asked = {"search": "zebrafish", "experiment_id": experiment.id, "active": True}
        execute = tx._execute

        def explain(statement: Any, args: Any, params: Any) -> None:
            compiled = statement.compiled(tx.dialect)
            whole = compiled.bind({**statement(*args, **params)})
            rows = tx._cursor.execute("EXPLAIN QUERY PLAN " + compiled.text, whole).fetchall()
            texts.extend(row[3] for row in rows)
            execute(statement, args, params)

        monkeypatch.setattr(tx, "_execute", explain)
        keyset.page(tx, listing.RUNS, asked, Order(field), Window(50))
        counting.count(tx, listing.RUNS, asked)
        return texts

    every = await db.write(plans)
    assert "SCAN run_search" not in every, "the index of texts comes first"
    steps = [step for step in every if step.split()[1] == "run" and "(rowid=?)" not in step]
    looked_up = {step for step in every if "(rowid=?)" in step and step.split()[1] == "run"}
    assert all("LEFT-JOIN" in step for step in looked_up), "in the order in which they are walked"
    assert looked_up
    found_by_text = [step for step in steps if "(id=?)" in step]
    assert len(found_by_text) >= 2, steps
    # For the page and for the number: whether the list is short, and its first rows. The page looks
    # also for where these end, and at those that lack the value by which it is sorted.
    walks = 5 if field == "created_at" else 7
    assert len(steps) - len(found_by_text) == walks, "only what looks at the first rows walks"


@pytest.mark.parametrize("term", ["q", "zq", "蒸", "馏", "蒸馏", "\U0010ffff", "'", "\\", '"'])
async def test_a_short_text_is_found_wherever_it_stands(
    db: Database, monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    """Also at the very end, behind which no gram can begin, and of the last character there is."""
    for name, value in LONG.items():
        monkeypatch.setattr(matching, name, value)

    def fill(tx: Tx) -> list[str]:
        made = experiments.create(tx, ExperimentRequest(name="e", task_type="sft"))
        texts: tuple[dict[str, Any], ...] = (
            {"notes": f"{term}ab"},
            {"notes": f"ab{term}cd"},
            {"tags": [f"ab{term}"]},
            {},
        )
        return [
            runs.submit(tx, made.id, RunRequest.model_validate({"model": "m", **fields}), {}).id
            for fields in texts
        ]

    *wanted, _ = await db.write(fill)
    assert {row.id for row in await _found(db, term)} == set(wanted)
