"""REST lists, and /detail of an experiment that outgrew one answer."""

import threading
from typing import Any

import pytest

from app.db import counting, matching
from app.graphql import curves
from app.rest import lists, routes
from app.rest.parameters import DirectRoute
from app.services import experiments, live_runs
from tests.api.conftest import Api
from tests.support.database import postgresql_heavy
from tests.support.graphql import Graph
from tests.support.story import Json, Story


@pytest.fixture(scope="module")
def story(api: Api) -> Story:
    """Twelve runs of three models; every third has reported, every fourth is cancelled."""
    story = Story(api.send)
    for number in range(12):
        trainer = story.submit(model=f"model-{number % 3}")
        if number % 3 == 0:
            trainer.report(points=[{"key": "loss", "step": number, "value": 12.0 - number}])
        if number % 4 == 0:
            story.ok("POST", f"{trainer.path}/cancel")
    return story


def paged(story: Story, name: str, **asked: object) -> list[Json]:
    """Every row, five to a page."""
    found: list[Json] = []
    page = story.get(f"/{name}", limit=5, **asked)
    found += page[name]
    while page["next"] is not None:
        page = story.get(f"/{name}", limit=5, after=page["next"], **asked)
        assert 1 <= len(page[name]) <= 5
        found += page[name]
    return found


@pytest.mark.parametrize(
    ("name", "key", "orders"),
    [
        ("runs", "run_id", ["created_at", "started_at", "finished_at", "step"]),
        ("checkpoints", "ckpt_path", ["created_at", "marked_at", "step"]),
        ("events", "seq", ["seq"]),
    ],
)
def test_pages_in_any_order_hold_every_row_once(
    story: Story, name: str, key: str, orders: list[str]
) -> None:
    everything = {row[key] for row in story.get("/detail")[name]}
    for order in orders:
        for direction in ("", "-"):
            rows = paged(story, name, order=direction + order)
            assert len(rows) == len(everything)
            assert {row[key] for row in rows} == everything
            values = [row[order] for row in rows if row.get(order) is not None]
            assert values == sorted(values, reverse=direction == "-")


def test_runs_are_filtered_and_carry_their_latest_metrics(story: Story) -> None:
    detail = {run["run_id"]: run for run in story.get("/detail")["runs"]}
    for asked in ({"status": "cancelled"}, {"status": ["queued", "running"]}, {"model": "model-1"}):
        wanted = {
            run_id: run
            for run_id, run in detail.items()
            if all(run[name] in value for name, value in asked.items())
        }
        assert 0 < len(wanted) < len(detail)
        assert {run["run_id"]: run for run in paged(story, "runs", **asked)} == wanted
    best = paged(story, "runs", order="metric", metric_key="loss")
    losses = [run["metrics"]["loss"]["value"] for run in best if run["metrics"]]
    assert len(best) == 12
    assert losses == sorted(losses)
    assert best[: len(losses)] == [run for run in best if run["metrics"]]


@postgresql_heavy  # what is meant is decided before a database is asked
@pytest.mark.parametrize(
    "query",
    [
        "", "limit=5", "limit=5&limit=7", "limit=%36", "limit=x", "limit=", "limit=0", "unknown=1",
        "status=queued&status=cancelled", "status=", "status=odd", "model=model-1&model=model-2",
        "model=model%2D1", "model=", "archived=any", "archived=1", "archived=maybe",
        "created_before=2020-01-01T01:00:00%2B01:00", "created_before=now", "keys=loss&keys=other",
        "order=-step", "order=odd", "order=metric", "run_id=x", "metric_max=1", "points=20&raw=1",
        "raw=odd", "after_step=3", "after_step=3&points=20", "limit=5;unknown=1", "limit=5&&",
    ],
)  # fmt: skip
def test_a_query_means_what_fastapi_takes_it_for(
    api: Api, story: Story, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    run_id = story.get("/runs", limit=1)["runs"][0]["run_id"]
    paths = [f"{story.path}/{name}" for name in ("runs", "checkpoints", "events")]
    paths += ["/v1/experiments", "/v1/runs", f"{story.path}/runs/{run_id}/metrics"]
    paths.append(f"{story.path}/metrics?run_ids={run_id}&")
    for path in paths:
        asked = f"{path}{'' if '?' in path else '?'}{query}"
        answer = api.send("GET", asked)
        with monkeypatch.context() as patch:
            patch.setattr(DirectRoute, "parse", lambda self, request: None)
            by_fastapi = api.send("GET", asked)
        assert (answer.status_code, answer.text) == (by_fastapi.status_code, by_fastapi.text)


@pytest.mark.parametrize(
    ("asked", "filter"),
    [
        ({"metric": "loss", "metric_min": 6.0}, {"metric": {"key": "loss", "min": 6.0}}),
        (
            {"metric": "loss", "metric_min": 4.0, "metric_max": 9.0},
            {"metric": {"key": "loss", "min": 4.0, "max": 9.0}},
        ),
        ({"tags": ["zh", "sft"]}, {"tags": ["zh", "sft"]}),
        ({"tags": ["zh", "en"]}, {"tags": ["zh", "en"]}),
        ({"task_type": "sft"}, {"taskType": "sft"}),
        ({"owner": "nobody"}, {"owner": "nobody"}),
        ({"created_after": "2020-01-01T00:00:00Z"}, {"createdAfter": "2020-01-01T00:00:00Z"}),
        (
            {"created_before": "2020-01-01T01:00:00+01:00"},
            {"createdBefore": "2020-01-01T01:00:00+01:00"},
        ),
        ({"model": "model-1", "search": ""}, {"model": "model-1", "search": ""}),
    ],
)
def test_rest_and_graphql_find_the_same_runs(
    api: Api, asked: dict[str, Any], filter: dict[str, Any]
) -> None:
    story = Story(api.send, tags=["sft", "zh"], task_type="sft")
    for number in range(4):
        trainer = story.submit(model=f"model-{number % 2}")
        point = {"key": "loss", "step": number, "value": 10.0 - 2 * number}
        trainer.report(points=[point])
    query = "query($f: RunFilter) { runs(filter: $f) { nodes { id } } }"
    nodes = Graph(api.send).data(query, f=filter | {"experimentId": story.id})
    found = [run["run_id"] for run in story.get("/runs", **asked)["runs"]]
    assert found == [node["id"] for node in nodes["runs"]["nodes"]]
    none = asked.keys() & {"created_before", "owner"} or asked.get("tags") == ["zh", "en"]
    assert bool(found) is not bool(none)


@pytest.mark.parametrize(
    ("asked", "filter"),
    [
        ({"owner": "x" * 201}, {"owner": "x" * 201}),
        ({"model": ""}, {"model": ""}),
        ({"tags": ["x"] * 51}, {"tags": ["x"] * 51}),
        ({"metric": "a\nb"}, {"metric": {"key": "a\nb"}}),
        ({"created_after": "yesterday"}, {"createdAfter": "yesterday"}),
        ({"created_after": "2020-01-01T00:00:00"}, {"createdAfter": "2020-01-01T00:00:00"}),
    ],
)
def test_rest_and_graphql_refuse_the_same_filters(
    api: Api, story: Story, asked: dict[str, Any], filter: dict[str, Any]
) -> None:
    answer = api.send("GET", f"/v1/experiments/{story.id}/runs", params=asked)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    query = "query($f: RunFilter) { runs(filter: $f) { nodes { id } } }"
    code = Graph(api.send).code(query, f=filter)
    assert code in ("BAD_USER_INPUT", "GRAPHQL_VALIDATION_FAILED")


def test_a_range_without_its_metric_is_refused(story: Story) -> None:
    answer = story.send("GET", f"{story.path}/runs", params={"metric_max": 0})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "metric_max"


def test_runs_of_many_metrics_are_not_listed_on_the_event_loop(
    api: Api, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, scanned = api.app.state.db.scan, []

    async def counted(use_case: Any, *args: Any) -> Any:
        if use_case is not live_runs.list_external:  # the supervisor's, at any time
            scanned.append(use_case)
        return await scan(use_case, *args)

    monkeypatch.setattr(api.app.state.db, "scan", counted)
    few = story.get("/runs")
    assert scanned == []
    monkeypatch.setattr(lists, "FEW_METRICS", 3)  # of the four that there are
    assert story.get("/runs") == few
    assert len(scanned) == 1
    query = f'{{ experiment(id: "{story.id}") {{ runs {{ nodes {{ metrics {{ key }} }} }} }} }}'
    found = story.ok("POST", "/graphql", json={"query": query})["data"]["experiment"]["runs"]
    assert sum(len(each["metrics"]) for each in found["nodes"]) == 4
    assert curves.latest in [getattr(each, "func", None) for each in scanned]


def test_runs_are_listed_with_the_metrics_that_are_named(story: Story) -> None:
    shown = paged(story, "runs", keys=["loss", "none"])
    whole = paged(story, "runs")
    assert [run["run_id"] for run in shown] == [run["run_id"] for run in whole]
    for some, all in zip(shown, whole, strict=True):
        assert some["metrics"] == {k: v for k, v in all["metrics"].items() if k == "loss"}


@pytest.mark.parametrize(("limit", "most"), [("METRICS", 3), ("MOST_BYTES", 2_000), ("PART", 1)])
def test_a_page_that_would_be_too_large_ends_early_and_says_where_to_go_on(
    story: Story, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    """1,000 runs with 10,000 metrics each are ten million values: nobody gets them at once."""
    whole = story.get("/runs")["runs"]
    monkeypatch.setattr(lists, "FEW_METRICS", 3)  # of the four that there are
    monkeypatch.setattr(lists, "PART", 2)
    monkeypatch.setattr(lists, limit, most)
    first = story.get("/runs", limit=1000)
    assert (first["next"] is None) == (limit != "MOST_BYTES"), "parts are put together"
    assert first["runs"] == whole[: len(first["runs"])]
    seen, after = first["runs"], first["next"]
    while after is not None:
        page = story.get("/runs", limit=1000, after=after)
        seen, after = seen + page["runs"], page["next"]
    assert seen == whole


def test_a_page_of_rows_that_have_to_be_read_ends_early_in_both_apis(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that hardly any of 600,000 runs had took a second of a core."""
    whole = [run["run_id"] for run in story.get("/runs", model="model-1")["runs"]]
    assert len(whole) == 4
    for module, name in ((matching, "LOOKED_AT"), (matching, "MATCHES"), (counting, "READ")):
        monkeypatch.setattr(module, name, 2)
    page = story.get("/runs", limit=1000, model="model-1")
    seen, sizes = [run["run_id"] for run in page["runs"]], [len(page["runs"])]
    while page["next"] is not None:
        page = story.get("/runs", limit=1000, after=page["next"], model="model-1")
        seen += [run["run_id"] for run in page["runs"]]
        sizes.append(len(page["runs"]))
    assert seen == whole
    assert max(sizes) == 1 and 0 in sizes, "each is of the runs that were looked at for it"
    query = """query ($id: ID!, $after: String) { experiment(id: $id) { runs(
        first: 50, after: $after, filter: {model: "model-1"}
    ) { nodes { id } pageInfo { hasNextPage endCursor } } } }"""
    graph, found = Graph(story.send), list[str]()
    info = {"hasNextPage": True, "endCursor": None}
    while info["hasNextPage"]:
        answer = graph.data(query, id=story.id, after=info["endCursor"])
        info = answer["experiment"]["runs"]["pageInfo"]
        found += [run["id"] for run in answer["experiment"]["runs"]["nodes"]]
    assert found == whole


def test_texts_are_never_searched_on_the_event_loop(
    api: Api, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """6,000 runs with long notes blocked even /healthz for 9.6 s."""
    db = api.app.state.db
    search, searched = db.search, []

    async def counted(use_case: Any, *args: Any) -> Any:
        def elsewhere(tx: Any, *args: Any) -> Any:
            searched.append(threading.current_thread().name)
            return use_case(tx, *args)

        return await search(elsewhere, *args)

    monkeypatch.setattr(db, "search", counted)
    assert len(story.get("/runs", search="MODEL-1")["runs"]) == 4
    pages = 'runs(filter: {search: "model-1"}) { totalCount nodes { id } }'
    query = f'{{ experiment(id: "{story.id}") {{ {pages} }} {pages} }}'
    found = story.ok("POST", "/graphql", json={"query": query})["data"]
    assert found["experiment"]["runs"]["totalCount"] == 4
    assert len(found["experiment"]["runs"]["nodes"]) == 4
    assert len(searched) >= 5
    assert all(name.startswith("scanner") for name in searched), searched


@pytest.mark.parametrize("length", [201, 49_999, 50_001])
def test_a_search_has_a_longest_text_alike_in_rest_and_graphql(api: Api, length: int) -> None:
    graph = Graph(api.send)
    for listed, kind in (("runs", "RunFilter"), ("experiments", "ExperimentFilter")):
        query = f"query ($f: {kind}) {{ {listed}(filter: $f) {{ totalCount }} }}"
        assert graph.code(query, f={"search": "x" * length}) == "BAD_USER_INPUT"
        assert graph.data(query, f={"search": "x" * 200})[listed]["totalCount"] == 0
    answer = api.send("GET", "/v1/experiments", params={"search": "x" * length})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


def test_experiments_are_listed_by_what_describes_them(api: Api) -> None:
    for owner in ("ada", "alan"):
        body = {"name": f"of {owner}", "task_type": "sft", "owner": owner, "tags": [owner, "both"]}
        api.post("/v1/experiments", body)

    def names(**asked: object) -> list[str]:
        answer = api.send("GET", "/v1/experiments", params={"order": "name", **asked})
        assert answer.status_code == 200, answer.text
        return [row["name"] for row in answer.json()["experiments"]]

    assert names(owner="ada") == ["of ada"]
    assert names(tags=["both"]) == ["of ada", "of alan"]
    assert names(tags=["both", "alan"]) == ["of alan"]
    assert names(search="f ADA") == ["of ada"]


@pytest.mark.parametrize(
    "asked",
    ["limit=0", "limit=1001", "order=loss", "state=ready", "after=x", "order=metric",
     "metric_key=loss", "status=done"],
)  # fmt: skip
def test_what_a_list_does_not_know_is_refused(story: Story, asked: str) -> None:
    answer = story.send("GET", f"{story.path}/runs?{asked}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


def test_the_lists_of_no_experiment_are_not_found(api: Api, story: Story) -> None:
    nowhere = story.path[:-1] + ("0" if story.path[-1] != "0" else "1")
    for name in ("runs", "checkpoints", "events", "metrics?run_ids=run_" + "0" * 26):
        assert story.send("GET", f"{nowhere}/{name}").status_code == 404


def test_detail_of_a_large_experiment_is_its_newest_part_with_links_to_the_rest(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = story.get("/detail")
    assert whole["totals"] == {name: len(whole[name]) for name in ("runs", "checkpoints", "events")}
    monkeypatch.setattr(routes, "MOST_IN_DETAIL", 4)
    part = story.get("/detail")
    assert part["totals"] == whole["totals"]
    for name in ("runs", "checkpoints", "events"):
        assert part[name] == whole[name][-4:]
        rows = story.ok("GET", part["links"][name], params={"limit": 1000})[name]
        assert len(rows) == whole["totals"][name]


def test_detail_of_runs_with_many_metrics_is_of_fewer_runs(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = story.get("/detail")
    monkeypatch.setattr(experiments, "MOST_VALUES", 4)  # as many as there are
    assert story.get("/detail") == whole
    monkeypatch.setattr(experiments, "MOST_VALUES", 3)
    part = story.get("/detail")
    assert part["runs"] == whole["runs"][1:], "the oldest has the one too many"
    assert part["totals"] == whole["totals"]
