"""Lists of runs, of any filters, order and pages, are what plain Python makes of the tables.

The sizes from which a list is long are small here, so that every way to read one is taken. A user
who is a member of one of two projects finds there what the tables say of that one.

Seen red: with the condition of a seen experiment for one that is not, with the lists of all
experiments of a user but one, with these merged by the order of creation for that of another field,
with one of their numbers left out of a count, and without those lists. Of a user of many
experiments: with the runs of all but one, without the searched text, and with the first experiments
taken for all of them. Of the values that runs have: with the oldest runs, and without a list.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.db import count_statements, counting, groups, keyset, list_statements, matching, seen
from app.db.current_principal import acting_as
from app.db.cursors import Order, Window
from app.db.groups import Counted, RunFacet
from app.db.list_statements import Shape
from app.db.listing import RUNS
from app.db.sql import query, select_all
from app.db.tables import Experiment, MetricLatest, Run
from app.domain.filters import AnyRunFilter, get_conditions
from app.domain.lifecycle import TERMINAL, RunStatus
from app.domain.permissions import Role
from app.domain.principals import SUPERVISOR, Principal
from app.domain.recipe_file import read_recipes
from app.domain.reports import ReportRequest
from app.domain.requests import ExperimentRequest, RunRequest, UpdateRunRequest
from app.domain.team import MemberRequest, ProjectRequest, TokenRequest, UserRequest, new_token
from app.domain.texts import fold
from app.services import api_tokens, edits, experiments, projects, reports, runs, users
from tests.services.conftest import Write, writing

RUNS_IN_ALL = 40
MODELS, NAMES, TAGS = ("llama", "Qwen 训练"), ("first", "Second"), ("a", "b", "c")
PROJECTS, SEEN = ("others", "own"), ("e1", "e2", "cyd0", "dan2")
SPARSE = {"cyd": 0, "dan": 2}
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
    """A database, all runs that are in it, and a user who does not see all of them."""

    write: Write
    runs: list[Known]
    alice: Principal


@query(Run)
def _every_run() -> Any:
    return select_all(Run)


@query(MetricLatest)
def _every_value() -> Any:
    return select_all(MetricLatest)


def fill(write: Write) -> list[Known]:
    """Make runs of every kind in four experiments of two projects."""
    chance, of = random.Random(1), dict[str, Experiment]()
    for name in PROJECTS:
        write(projects.create, ProjectRequest(name=name))
    for number in range(4):
        request = ExperimentRequest(
            name=f"e{number}", task_type=KINDS[number % 2], owner=OWNERS[number // 2],
            tags=chance.sample(TAGS, number % 3),
            project=PROJECTS[number in (1, 2)],
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
        if number % 3 == 0 and (now := write(runs.get, run.id)).status == RunStatus.RUNNING:
            write(runs.move, now, chance.choice((RunStatus.FAILED, RunStatus.QUEUED)))
        elif chance.random() < 0.5:
            ended = write(runs.cancel, run.id).run
            if RunStatus(ended.status) in TERMINAL and chance.random() < 0.5:
                write(edits.update_run, run.id, UpdateRunRequest(archived=True))
    for owner, place in SPARSE.items():  # of three experiments one has a run
        for number in range(3):
            named = f"{owner}{number}"
            request = ExperimentRequest(name=named, task_type="t", owner=owner, project="own")
            made = of[made.id] = write(experiments.create, request)
            if number == place:
                write(runs.submit, made.id, RunRequest(model=MODELS[0]), {})
    latest: dict[str, dict[str, float | None]] = {}
    for value in write(lambda tx: tx.all(_every_value)):
        latest.setdefault(value.run_id, {})[value.key] = value.value
    return [
        Known(run, of[run.experiment_id], set(orjson.loads(run.tags)), latest.get(run.id, {}))
        for run in write(lambda tx: tx.all(_every_run))
    ]


def a_member(write: Write, project_id: str) -> Principal:
    """Make a user who is a member of a project."""
    write(users.create, UserRequest(name="alice"))
    secret = new_token()
    write(api_tokens.create, TokenRequest(user="alice"), secret)
    write(projects.set_member, project_id, MemberRequest(user="alice", role=Role.VIEWER))
    principal: Principal = write(api_tokens.find, secret).principal
    return principal


@pytest.fixture(scope="module")
def world(module_database_url: str) -> Iterator[World]:
    with writing(module_database_url) as write:
        known = fill(write)
        (own,) = {row.experiment.project_id for row in known if row.experiment.name in SEEN}
        yield World(write, known, a_member(write, own))


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
        "status": st.lists(st.sampled_from(("queued", "running", "failed")), min_size=1),
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
    st.sampled_from((*sorted(RUNS.orders), "step", "metric", "metric")), st.booleans(),
    st.sampled_from(("loss", "acc")),
)  # fmt: skip
WINDOWS = st.builds(
    lambda size, backward: Window(size, backward=backward),
    st.sampled_from((1, 3, 7, 100)), st.booleans(),
)  # fmt: skip
USUAL: dict[str, int] = {}
SMALL = {"READ": 5, "PASSED": 5, "FEW": 0, "LOOKED_AT": 4, "MATCHES": 20, "PEEKED": 3, "SORTED": 1}
SMALLEST = {
    "READ": 5, "PASSED": 0, "FEW": 0, "LOOKED_AT": 2, "MATCHES": 3, "PEEKED": 3, "SORTED": 0,
}  # fmt: skip
AT_ONCE = {"PASSED": 0, "MERGED": 1}
FOUND_FIRST = {"PASSED": 0, "MERGED": 0, "AT_ONCE": 0}
TOO_MANY = FOUND_FIRST | {"FOUND": 1, "STEP": 2}
MANY_RUNS = FOUND_FIRST | {"FOUND": 10, "STEP": 2}
"""A user sees fewer experiments than may be found, and more runs."""
SIZE_OF = {"READ": counting, "SORTED": counting} | dict.fromkeys(
    ("PASSED", "MERGED", "AT_ONCE", "FOUND", "STEP"), seen
)
FACETS: dict[RunFacet | None, Callable[[Known], Iterable[str]]] = {
    RunFacet.MODEL: lambda known: [known.run.model],
    RunFacet.OWNER: lambda known: [known.experiment.owner or ""],
    RunFacet.TAG: lambda known: orjson.loads(known.run.tags),
    None: lambda known: known.latest,
}
"""The values that runs have. None: the keys of their metrics."""


def read_values(world: World, field: RunFacet | None, asked: dict[str, Any]) -> list[Counted]:
    """Return the values that the runs of a list have, and how many have each."""
    if field is None:
        return world.write(groups.metric_keys, asked, "", 100)  # type: ignore[no-any-return]
    return world.write(groups.facet, field, asked, "", 100)  # type: ignore[no-any-return]


def compare(
    world: World, wanted: dict[str, Any], order: Order, window: Window, sizes: dict[str, int]
) -> None:
    """Compare a list and its numbers, as who acts gets them, with what the tables say."""
    asked = get_conditions(AnyRunFilter, AnyRunFilter.model_validate(wanted))
    expected = in_order(world, wanted, order)
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(SIZE_OF.get(name, matching), name, size)
        assert walk(world, asked, order, window) == expected
        count = world.write(counting.count, RUNS, asked)
        by_status = world.write(groups.by_status, asked)
        values = {field: Counter(dict(read_values(world, field, asked))) for field in FACETS}
    for number, is_lower_bound in (
        count,
        (sum(number for _, number in by_status.counts), by_status.is_lower_bound),
    ):
        assert number <= len(expected)
        assert is_lower_bound or number == len(expected)
    # Triggers count the runs of an owner, also where no more than the newest ones are read.
    is_whole = not by_status.is_lower_bound and wanted.keys().isdisjoint(seen.OF_EXPERIMENT)
    if asked.keys() <= seen.OF_NEWEST and sizes.items() >= MANY_RUNS.items():
        is_whole = False  # some of each experiment are read
    listed = [known for known in world.runs if known.run.id in expected]
    for field, values_of in FACETS.items():
        every = Counter(value for known in listed for value in values_of(known))
        assert values[field] == every if is_whole else values[field] <= every


def of_member(world: World) -> World:
    """Return what is seen by the user."""
    own = world._replace(runs=[known for known in world.runs if known.experiment.name in SEEN])
    assert 0 < len(own.runs) < len(world.runs)
    return own


@pytest.mark.parametrize("lists", [50, pytest.param(250, marks=pytest.mark.heavy)])
def test_every_list_of_runs_is_what_the_tables_say(world: World, lists: int) -> None:
    sizes = st.sampled_from(
        (SMALL, SMALLEST, USUAL, AT_ONCE, FOUND_FIRST, SMALL | FOUND_FIRST, MANY_RUNS)
    )
    own = of_member(world)

    @settings(max_examples=lists)
    @given(filters(world), ORDERS, WINDOWS, sizes, st.booleans())
    def compare_any(
        wanted: dict[str, Any], order: Order, window: Window, sizes: dict[str, int], by_user: bool
    ) -> None:
        with acting_as(world.alice if by_user else SUPERVISOR):
            compare(own if by_user else world, wanted, order, window, sizes)

    compare_any()


@pytest.mark.parametrize(
    "sizes",
    [
        SMALL,
        SMALLEST,
        {"PASSED": 0},
        AT_ONCE,
        FOUND_FIRST,
        SMALL | AT_ONCE,
        TOO_MANY,
        MANY_RUNS,
        SMALLEST | MANY_RUNS,
    ],
)
def test_a_user_lists_the_runs_of_its_projects_alone(world: World, sizes: dict[str, int]) -> None:
    own = of_member(world)
    of = sorted({known.experiment.id for known in world.runs})
    of_project = sorted({known.experiment.project_id for known in world.runs})
    lists: list[dict[str, Any]] = [
        {}, {"model": MODELS[0]}, {"status": ["queued", "cancelled"]}, {"search": "qwen"},
        *({"owner": owner} for owner in (*OWNERS, *SPARSE)),
        *({"experiment_id": id} for id in of), *({"project_id": id} for id in of_project),
    ]  # fmt: skip
    by_loss, by_step = Order("metric", False, "loss"), Order("step")
    orders = (by_loss, by_step, Order("finished_at"), Order("created_at"))
    with acting_as(world.alice):
        for wanted, order in product(lists, orders):
            compare(own, {"archived": "any"} | wanted, order, Window(3), sizes)


@pytest.mark.parametrize("sizes", [{"PASSED": 0}, {"PASSED": 0, "MERGED": 1}])
def test_a_user_gets_the_values_of_its_newest_runs(
    world: World, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int]
) -> None:
    for name, size in sizes.items():
        monkeypatch.setattr(seen, name, size)
    for name in ("NEWEST", "NEWEST_REPORTING"):
        monkeypatch.setattr(groups, name, 7)
    own, order = of_member(world), Order("created_at")
    with acting_as(world.alice):
        for wanted in ({}, {"archived": True}, {"status": ["cancelled", "queued"]}):
            every = {"archived": "any"} | wanted
            asked = get_conditions(AnyRunFilter, AnyRunFilter.model_validate(every))
            newest = in_order(own, every, order)[:7]
            for field, values_of in FACETS.items():
                runs = [known for known in own.runs if known.run.id in newest]
                values = Counter(value for known in runs for value in values_of(known))
                assert dict(read_values(world, field, asked)) == values


@pytest.mark.parametrize(
    ("by", "sizes"),
    [("experiment_id", {"PASSED": 0}), ("experiment_id", AT_ONCE), ("found", FOUND_FIRST)],
)
def test_no_walk_of_a_user_passes_the_runs_of_others(
    world: World, monkeypatch: pytest.MonkeyPatch, by: str, sizes: dict[str, int]
) -> None:
    """Each statement names an experiment or runs that the user sees, or finds nothing."""
    walked: list[frozenset[str]] = []

    def page_statement(shape: Shape) -> Any:
        walked.append(shape.filters | {shape.parent or ""})
        return list_statements.page_statement(shape)

    def scope(*asked: Any) -> counting.Scope:
        read = list_scope(*asked)
        walked.append(read.names)
        return read

    list_scope = counting.scope
    monkeypatch.setattr(keyset, "page_statement", page_statement)
    monkeypatch.setattr(counting, "scope", scope)
    for name, size in sizes.items():
        monkeypatch.setattr(seen, name, size)
    with acting_as(world.alice):
        for field in RUNS.orders:
            order = Order(field, False, "loss" if field == "metric" else None)
            assert world.write(keyset.page, RUNS, {}, order, Window(3)).rows
        for facet in FACETS:
            assert read_values(world, facet, {"active": True})
        assert world.write(counting.count, RUNS, {"model": MODELS[0]}).number
        assert world.write(groups.by_status, {"model": MODELS[0]}).counts
    assert len(walked) > len(RUNS.orders) + len(FACETS) + 2
    assert all(names & {by, "found"} for names in walked)


def test_no_number_of_a_user_of_many_experiments_is_read_among_the_runs_of_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of the newest runs of each are counted, at most `FOUND`, and nothing is walked."""
    read: list[counting.Scope] = []
    walks: list[bool] = []

    def scope(*asked: Any) -> counting.Scope:
        read.append(list_scope(*asked))
        return read[-1]

    def counted(*shape: Any) -> Any:
        walks.append(shape[-1])
        return count_statement(*shape)

    list_scope, count_statement = counting.scope, count_statements.count_statement
    monkeypatch.setattr(counting, "scope", scope)
    monkeypatch.setattr(counting, "count_statement", counted)
    monkeypatch.setattr(counting, "USUAL", 0)  # any text is one
    for name, size in (SMALLEST | MANY_RUNS).items():
        monkeypatch.setattr(SIZE_OF.get(name, matching), name, size)
    with acting_as(world.alice):
        for facet in FACETS:
            assert read_values(world, facet, {"active": True})
        for filters in ({"model": MODELS[0]}, {"search": "qwen"}):
            assert world.write(counting.count, RUNS, filters).is_lower_bound
            assert world.write(groups.by_status, filters).is_lower_bound
    assert len(read) == len(FACETS) + 4
    assert not any(walks)
    for each in read:
        assert not each.newest
        assert 0 < len(orjson.loads(each.params["found"])) <= seen.FOUND
