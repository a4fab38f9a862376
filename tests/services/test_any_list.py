"""Lists of runs, of any filters, order and pages, are what plain Python makes of the tables.

The sizes from which a list is long are small here, so that every way to read one is taken.
"""

import math
import random
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.db import counting, keyset, matching
from app.db.cursors import Order, Window
from app.db.listing import RUNS
from app.db.sql import query, select_all
from app.db.tables import Experiment, MetricLatest, Run
from app.domain.filters import AnyRunFilter, conditions
from app.domain.lifecycle import TERMINAL, RunStatus
from app.domain.recipe_file import read_recipes
from app.domain.reports import ReportRequest
from app.domain.requests import ExperimentRequest, RunRequest, UpdateRunRequest
from app.domain.texts import fold
from app.services import edits, experiments, reports, runs
from tests.services.conftest import Write, writing

RUNS_IN_ALL = 40
MODELS, NAMES, TAGS = ("llama", "Qwen 训练"), ("first", "Second"), ("a", "b", "c")
OWNERS, KINDS, RECIPES = ("ann", "ben"), ("sft", "dpo"), (None, "demo")
VALUES = (0.0, 1.5, -2.0, "NaN", "Infinity")
PARAMS: tuple[dict[str, Any], ...] = (
    {}, {"lr": 1}, {"lr": 2.5, "optimizer": {"lr": 3}}, {"lr": "high"}, {"optimizer": {"lr": 1}},
)  # fmt: skip


class Known(NamedTuple):
    """What the tables say of one run."""

    run: Run
    experiment: Experiment
    tags: set[str]
    latest: dict[str, float | None]


class World(NamedTuple):
    """A database, and all runs that are in it."""

    write: Write
    runs: list[Known]


@query(Run)
def _every_run() -> Any:
    return select_all(Run)


@query(MetricLatest)
def _every_value() -> Any:
    return select_all(MetricLatest)


def fill(write: Write) -> list[Known]:
    """Make runs of every kind in four experiments."""
    chance, of = random.Random(1), dict[str, Experiment]()
    for number in range(4):
        request = ExperimentRequest(
            name=f"e{number}", task_type=KINDS[number % 2], owner=OWNERS[number // 2],
            tags=chance.sample(TAGS, number % 3),
        )  # fmt: skip
        made = write(experiments.create, request)
        of[made.id] = made
    for number in range(RUNS_IN_ALL):
        fields = {
            "model": chance.choice(MODELS), "name": chance.choice((None, *NAMES)),
            "tags": chance.sample(TAGS, chance.randrange(3)), "hyperparams": chance.choice(PARAMS),
            "notes": chance.choice((None, "warm-up", "Größe")), "recipe": chance.choice(RECIPES),
        }  # fmt: skip
        asked = RunRequest.model_validate(fields)
        run = write(runs.submit, list(of)[number % 4], asked, read_recipes(None))
        if run.recipe is None and chance.random() < 0.7:
            points = [{"key": key, "step": 1, "value": chance.choice(VALUES)}
                      for key in chance.sample(("loss", "acc"), chance.randrange(3))]  # fmt: skip
            body = {"step": chance.randrange(4), "points": points}
            write(reports.ingest, run.id, ReportRequest.model_validate(body))
        if chance.random() < 0.5:
            ended = write(runs.cancel, run.id).run
            if RunStatus(ended.status) in TERMINAL and chance.random() < 0.5:
                write(edits.update_run, run.id, UpdateRunRequest(archived=True))
    latest: dict[str, dict[str, float | None]] = {}
    for value in write(lambda tx: tx.all(_every_value)):
        latest.setdefault(value.run_id, {})[value.key] = value.value
    return [
        Known(run, of[run.experiment_id], set(orjson.loads(run.tags)), latest.get(run.id, {}))
        for run in write(lambda tx: tx.all(_every_run))
    ]


@pytest.fixture(scope="module")
def world(module_database_url: str) -> Iterator[World]:
    with writing(module_database_url) as write:
        yield World(write, fill(write))


def param(run: Run, name: str) -> float | None:
    """Return a hyperparameter's number; of a nested object, dotted."""
    given = orjson.loads(run.hyperparams)
    value = given.get(name)
    if not isinstance(value, int | float):
        value = given
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
    return value if isinstance(value, int | float) else None


def is_in(value: float | None, least: float | None, most: float | None) -> bool:
    if value is None or math.isnan(value):
        return False
    return (least is None or value >= least) and (most is None or value <= most)


def passes(known: Known, wanted: Mapping[str, Any]) -> bool:
    """Return True if a run meets all conditions of a filter."""
    run, experiment, tags, latest = known
    own = {name: getattr(experiment, name) for name in ("task_type", "owner", "project_id")}
    own["archived"] = run.archived_at is not None
    texts = (run.model, run.recipe, run.name, run.notes, *tags)
    for name, value in wanted.items():
        match name:
            case "ids":
                met = run.id in value
            case "id_ends":
                met = run.id.endswith(value)
            case "status":
                met = run.status in value
            case "tags":
                met = set(value) <= tags | set(orjson.loads(experiment.tags))
            case "search":
                met = value == run.id or any(fold(value) in fold(text or "") for text in texts)
            case "created_after":
                met = run.created_at >= value
            case "created_before":
                met = run.created_at < value
            case "metric":
                met = is_in(latest.get(value), wanted.get("metric_min"), wanted.get("metric_max"))
            case "hyperparam":
                bounds = wanted.get("hyperparam_min"), wanted.get("hyperparam_max")
                met = is_in(param(run, value), *bounds)
            case "metric_min" | "metric_max" | "hyperparam_min" | "hyperparam_max":
                met = True
            case "archived" if value == "any":
                met = True
            case _:
                met = (own[name] if name in own else getattr(run, name)) == value
        if not met:
            return False
    return True


def in_order(world: World, wanted: Mapping[str, Any], order: Order) -> list[str]:
    """Return the ids of the runs of a list; those that lack its order's value are last."""

    def value(known: Known) -> Any:
        if order.field == "metric":
            return known.latest.get(order.metric_key or "")
        return getattr(known.run, order.field)

    found = [known for known in world.runs if passes(known, wanted)]
    valued = [known for known in found if value(known) is not None]
    lacking = [known for known in found if value(known) is None]
    valued.sort(key=lambda known: (value(known), known.run.id), reverse=order.descending)
    lacking.sort(key=lambda known: known.run.id, reverse=order.descending)
    return [known.run.id for known in valued + lacking]


def walk(world: World, asked: dict[str, Any], order: Order, window: Window) -> list[str]:
    """Return the ids of a list as a client reads it, page by page."""
    pages: list[list[str]] = []
    cursor = None
    while len(pages) < 3 * RUNS_IN_ALL:
        at = window._replace(before=cursor) if window.backward else window._replace(after=cursor)
        page = world.write(keyset.page, RUNS, asked, order, at)
        pages.append([row.id for row in page.rows])
        assert len(page.rows) <= window.size
        if not (page.has_previous if window.backward else page.has_next):
            whole = pages[::-1] if window.backward else pages
            return [id for ids in whole for id in ids]
        cursor = page.start_cursor() if window.backward else page.end_cursor()
    raise AssertionError("the list has no end")


def filters(world: World) -> st.SearchStrategy[dict[str, Any]]:
    """Return filters as a client writes them, with few conditions or many."""
    a_run = st.sampled_from(world.runs)
    number = st.sampled_from((-2.0, 0.0, 1.0, 2.5, 3.0))
    one_of = {
        "ids": st.lists(a_run.map(lambda known: known.run.id), min_size=1, max_size=20),
        "id_ends": a_run.flatmap(lambda k: st.integers(4, 8).map(lambda n: k.run.id[-n:])),
        "name": st.sampled_from(NAMES), "model": st.sampled_from(MODELS),
        "recipe": st.just("demo"), "task_type": st.sampled_from(KINDS),
        "owner": st.sampled_from(OWNERS), "archived": st.sampled_from((True, "any")),
        "project_id": a_run.map(lambda known: known.experiment.project_id),
        "experiment_id": a_run.map(lambda known: known.experiment.id),
        "root_run_id": a_run.map(lambda known: known.run.id),
        "parent_run_id": a_run.map(lambda known: known.run.id),
        "status": st.lists(st.sampled_from(("queued", "running", "cancelled")), min_size=1),
        "tags": st.lists(st.sampled_from(TAGS), min_size=1, max_size=2),
        "search": st.sampled_from(("a", "qwen", "训练", "GRÖSSE", "demo", "warm", "seco", "zz")),
        "created_after": a_run.map(lambda known: known.run.created_at),
        "created_before": a_run.map(lambda known: known.run.created_at),
    }  # fmt: skip
    ranges = [
        st.fixed_dictionaries(
            {name: st.sampled_from(keys)}, optional={f"{name}_min": number, f"{name}_max": number}
        )
        for name, keys in (("metric", ("loss", "acc")), ("hyperparam", ("lr", "optimizer.lr")))
    ]
    chosen = st.lists(st.sampled_from(sorted(one_of)), max_size=4, unique=True)
    alone = chosen.flatmap(lambda names: st.fixed_dictionaries({n: one_of[n] for n in names}))
    nothing: st.SearchStrategy[dict[str, Any]] = st.just({})
    of_one = nothing | st.fixed_dictionaries({"experiment_id": one_of["experiment_id"]})
    return st.tuples(alone, of_one, nothing | ranges[0], nothing | ranges[1]).map(
        lambda parts: {"archived": False} | parts[0] | parts[1] | parts[2] | parts[3]
    )


ORDERS = st.builds(
    lambda field, down, key: Order(field, down, key if field == "metric" else None),
    st.sampled_from((*sorted(RUNS.orders), "metric", "metric")), st.booleans(),
    st.sampled_from(("loss", "acc")),
)  # fmt: skip
WINDOWS = st.builds(
    lambda size, backward: Window(size, backward=backward),
    st.sampled_from((1, 3, 7, 100)), st.booleans(),
)  # fmt: skip
USUAL: dict[str, int] = {}
SMALL = {"READ": 5, "FEW": 0, "LOOKED_AT": 4, "MATCHES": 20, "PEEKED": 3, "SORTED": 1}
SMALLEST = {
    "READ": 5,
    "FEW": 0,
    "LOOKED_AT": 2,
    "MATCHES": 3,
    "PEEKED": 3,
    "SORTED": 0,
}
SIZE_OF = {"READ": counting, "SORTED": counting}


@pytest.mark.parametrize("lists", [50, pytest.param(500, marks=pytest.mark.heavy)])
def test_every_list_of_runs_is_what_the_tables_say(world: World, lists: int) -> None:
    sizes = st.sampled_from((SMALL, SMALLEST, USUAL))

    @settings(max_examples=lists)
    @given(filters(world), ORDERS, WINDOWS, sizes)
    def compare(
        wanted: dict[str, Any], order: Order, window: Window, sizes: dict[str, int]
    ) -> None:
        asked = conditions(AnyRunFilter, AnyRunFilter.model_validate(wanted))
        expected = in_order(world, wanted, order)
        with pytest.MonkeyPatch.context() as patch:
            for name, size in sizes.items():
                patch.setattr(SIZE_OF.get(name, matching), name, size)
            assert walk(world, asked, order, window) == expected
            count = world.write(counting.count, RUNS, asked)
        assert count.number <= len(expected)
        assert count.is_lower_bound or count.number == len(expected)

    compare()
