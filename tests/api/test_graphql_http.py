"""/graphql before strangers: everything odd is a clear refusal, quickly, and nothing changes."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from graphql import get_introspection_query

from app.graphql import limits
from app.services import verification
from app.services.verification import VerificationResult
from app.storage.base import CheckpointStorage
from tests.api.conftest import Api, running
from tests.support.graphql import Graph

JSON = {"Content-Type": "application/json"}
MODERN = "application/graphql-response+json"
TYPENAME = '{"query": "{__typename}"'


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("http")) as api:
        Graph(api.send).experiment()
        yield api


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, module_database_url: str) -> Iterator[Graph]:
    """On both databases, with a run."""
    with running(tmp_path_factory.mktemp("stored"), database_url=module_database_url) as api:
        graph = Graph(api.send)
        graph.run(graph.experiment())
        yield graph


def post(api: Api, content: bytes | str, content_type: str = "application/json") -> Any:
    return api.send("POST", "/graphql", content=content, headers={"Content-Type": content_type})


@pytest.mark.parametrize("kind", ["APPLICATION/JSON", "Application/Json; Charset=UTF-8"])
def test_a_media_type_means_the_same_in_any_case(api: Api, kind: str) -> None:
    answer = post(api, TYPENAME + "}", kind)
    assert (answer.status_code, answer.json()["data"]) == (200, {"__typename": "Query"})
    accept = {"accept": "Application/GraphQL-Response+JSON"}
    answer = api.send("POST", "/graphql", json={"query": "{ nothing }"}, headers=accept)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b'{"query": "{__typename}\xff"}', "application/json", 400),
        (TYPENAME + ', "variables": {"a": ' + "9" * 5000 + "}}", "application/json", 400),
        (TYPENAME + ', "variables": {"a": ' + "[" * 10**5 + "]" * 10**5 + "}}",
         "application/json", 400),
        (TYPENAME + ', "variables": {"a": NaN}}', "application/json", 400),
        (TYPENAME + ', "variables": {"a": "\\ud800"}}', "application/json", 400),
        (TYPENAME + ', "variables": [1]}', "application/json", 400),
        (TYPENAME + ', "variables": "{}"}', "application/json", 400),
        (TYPENAME + ', "extensions": []}', "application/json", 400),
        (TYPENAME + ', "operationName": 5}', "application/json", 400),
        (TYPENAME + ', "operationName": "Other"}', "application/json", 400),
        ('{"query": 5}', "application/json", 400),
        ('{"query": ""}', "application/json", 400),
        ("{}", "application/json", 400),
        ("", "application/json", 400),
        ("null", "application/json", 400),
        (f"[{TYPENAME}}}]", "application/json", 400),
        (TYPENAME + "}", "text/plain", 415),
        (TYPENAME + "}", "text/plain; application/json", 415),
        (TYPENAME + "}", "", 415),
        ("query={__typename}", "application/x-www-form-urlencoded", 415),
        ('--b\r\nContent-Disposition: form-data; name="operations"\r\n\r\n{}\r\n--b--\r\n',
         "multipart/form-data; boundary=b", 415),
        (b'{"query": "' + b"a" * 9_000_000 + b'"}', "application/json", 413),
        (b'{"query": "#' + b"a" * 300_000 + b'\\n{__typename}"}', "application/json", 400),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(
    api: Api, content: Any, content_type: str, status: int
) -> None:
    before = api.digest()
    answer = post(api, content, content_type)
    assert answer.status_code == status
    (error,) = answer.json()["errors"]
    assert error["extensions"]["code"]
    assert api.digest() == before


CREATE = 'mutation { createExperiment(input: {name: "a", taskType: "t"}) { replayed } }'


def test_mutations_come_by_post_only_and_never_from_a_form(api: Api) -> None:
    before = api.digest()
    for query in (CREATE, "query A { __typename } " + CREATE.replace("mutation", "mutation B")):
        for name in (None, "B"):
            params = {"query": query} | ({"operationName": name} if name else {})
            answer = api.send("GET", "/graphql", params=params)
            assert "errors" in answer.json()
            if name or query == CREATE:
                assert answer.status_code in (400, 405)
    refused = api.send("GET", "/graphql", params={"query": CREATE})
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    stream = {"Accept": "text/event-stream"}
    streamed = api.send("GET", "/graphql", params={"query": CREATE}, headers=stream)
    assert "not allowed" in streamed.text
    assert api.digest() == before
    found = api.send("GET", "/graphql", params={"query": "{__typename}"})
    assert found.json()["data"] == {"__typename": "Query"}


def test_several_operations_need_a_name(api: Api) -> None:
    graph, query = Graph(api.send), "query A { __typename } " + CREATE.replace("{ c", "B { c", 1)
    before = api.digest()
    (error,) = graph.ask(query)["errors"]
    assert "operationName" in error["message"]
    body = {"query": query, "operationName": "A"}
    assert api.send("POST", "/graphql", json=body).json()["data"] == {"__typename": "Query"}
    assert api.digest() == before


def _doubling(count: int, on: str, inner: str) -> str:
    """Fragments of which each holds the next one twice."""
    fragments = " ".join(
        f"fragment F{i} on {on} {{ {inner.replace('X', f'...F{i + 1}')} }}" for i in range(count)
    )
    return f"{fragments} fragment F{count} on {on} {{ __typename }}"


PAGES = "experiments(first: N) { nodes { runs(first: N) { nodes { children(first: N) { nodes { id }"
CLOSE = " } } } } } }"
TOO_COMPLEX = {
    "tokens": "{" + "__typename " * 5_000 + "}",
    "aliases": "{" + " ".join(f"a{i}: __typename" for i in range(60)) + "}",
    "10 k aliases": "{" + " ".join(f"a{i}: __typename" for i in range(10_000)) + "}",
    "fields": "{" + " ".join("experiments { nodes { id name goal } }" for _ in range(300)) + "}",
    "repetitions": "{" + " ".join("experiments { nodes { id } }" for _ in range(150)) + "}",
    "depth": '{ run(id: "x") ' + "{ parent " * 25 + "{ id }" + "}" * 26,
    "syntax depth": "{ a " * 1_500,
    "pages": "{" + PAGES.replace("N", "100") + CLOSE,
    "pages by variables": "query ($n: Int) {" + PAGES.replace("N", "$n") + CLOSE,
    "pages by defaults": "query ($n: Int = 100) {" + PAGES.replace("N", "$n").replace("$n", "$n")
    + CLOSE,
    "edges": "{" + PAGES.replace("N", "100").replace("nodes {", "edges { node {", 1)
    + CLOSE + " }",
    "doubled": "{ ...F0 } " + _doubling(40, "Query", "X X"),
    "doubled below": '{ run(id: "x") { ...F0 } } '
    + _doubling(12, "Run", "parent { X } root { X }"),
    "unused fragments": "{ __typename } fragment F on Query {"
    + "experiments { nodes { id } } " * 200 + "}",
    "deep literal": "mutation { createExperiment(input: {paramConfig: " + "[" * 900 + "]" * 900
    + "}) { replayed } }",
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_COMPLEX)
def test_what_costs_too_much_is_refused_before_it_costs(api: Api, name: str) -> None:
    body: dict[str, Any] = {"query": TOO_COMPLEX[name]}
    if name == "pages by variables":
        body["variables"] = {"n": 100}
    start = time.process_time()
    answer = api.send("POST", "/graphql", json=body)
    spent = time.process_time() - start
    errors = answer.json()["errors"]
    assert "data" not in answer.json()
    assert errors[0]["extensions"]["code"] in ("TOO_COMPLEX", "GRAPHQL_PARSE_FAILED"), errors
    if not name.startswith(("tokens", "10 k", "syntax", "deep literal")):  # refused by the parser
        assert errors[0]["extensions"]["code"] == "TOO_COMPLEX", errors
    assert spent < 1, f"{spent:.2f} s of CPU"


def test_a_limit_leaves_room_for_what_people_ask(api: Api) -> None:
    graph = Graph(api.send)
    found = graph.ask(get_introspection_query(input_value_deprecation=True))
    assert "errors" not in found
    page = "experiments(first: 10) { nodes { runs(first: 20) { nodes { checkpoints(first: 20) {"
    found = graph.ask("{" + page + " nodes { id } } } } } } }")
    assert found["extensions"]["cost"] == {
        "nodes": 10 * (1 + 20 * (1 + 20)), "maximum": limits.NODES,
    }  # fmt: skip


@pytest.mark.parametrize(
    "query",
    [
        "{ runs(first: 0) { totalCount } }",
        "{ runs(first: 501) { totalCount } }",
        "{ runs(first: 1, last: 1) { totalCount } }",
        '{ runs(after: "x") { nodes { id } } }',
        "{ runs(orderBy: {field: METRIC}) { nodes { id } } }",
        '{ runs(filter: {search: "\\u0000"}) { nodes { id } } }',
        '{ runs(filter: {experimentId: "\\u0000"}) { nodes { id } } }',
        '{ runs(filter: {tags: ["\\u0000"]}) { nodes { id } } }',
        '{ runs(filter: {metric: {key: "\\u0000"}}) { nodes { id } } }',
        '{ experiments(filter: {createdAfter: "tomorrow"}) { totalCount } }',
        '{ experiments(filter: {createdAfter: "2026-01-01T00:00:00"}) { totalCount } }',
        '{ experiments(filter: {createdAfter: "0001-01-01T00:00:00+14:00"}) { totalCount } }',
        "{ runs(first: " + "9" * 5000 + ") { totalCount } }",
        'query ($a: Int = 5, $a: Int = 6) { run(id: "x") { id } }',
        "{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }",
        "{ __typename @skip }",
        "subscription { __typename }",
    ],
)
def test_a_wrong_argument_is_the_clients_error(
    api: Api, query: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = api.send("POST", "/graphql", json={"query": query}).json()
    codes = {error["extensions"]["code"] for error in answer["errors"]}
    assert codes <= {"BAD_USER_INPUT", "BAD_REQUEST", "GRAPHQL_VALIDATION_FAILED"}
    assert not answer.get("data")
    assert not caplog.records


def test_whatever_an_id_is_it_finds_nothing(api: Api) -> None:
    graph = Graph(api.send)
    for id in ("", "\\u0000", "run_", "run_" + "é" * 26, "../x", "x" * 10_000, "exp_:1", ":1"):
        query = f'{{ node(id: "{id}") {{ id }} run(id: "{id}") {{ id }} }}'
        assert graph.data(query) == {"node": None, "run": None}
        payload = graph.data(
            f'mutation {{ cancelRun(input: {{runId: "{id}"}}) {{ userErrors {{ code }} }} }}'
        )["cancelRun"]
        assert payload["userErrors"][0]["code"] in ("not_found", "invalid_input")


def test_the_root_below_a_payload_answers_as_the_root_does(api: Api) -> None:
    """Seen red: a list below it was taken for one of a row, and a bug was told."""
    graph = Graph(api.send)
    lists = " ".join(
        f"{name} {{ totalCount totalCountIsLowerBound nodes {{ id }} }}"
        for name in ("experiments", "runs", "checkpoints")
    )
    root = f"{{ {lists} runCounts {{ status count }} webhooks {{ id }} projects {{ name }} }}"
    made = graph.data(
        'mutation { createExperiment(input: {name: "a", taskType: "sft"})'
        f" {{ userErrors {{ code }} query {root} }} }}"
    )["createExperiment"]
    assert made["userErrors"] == [] and made["query"]["experiments"]["nodes"]
    assert made["query"] == graph.data(root)


def test_the_modern_media_type_tells_by_status_that_nothing_was_executed(api: Api) -> None:
    for accept, query, status in (
        (MODERN, "{ __typename }", 200),
        (MODERN, "{ nothing }", 400),
        (MODERN, "{", 400),
        (MODERN, "{ runs(first: 0) { totalCount } }", 200),
        ("application/json", "{ nothing }", 200),
        ("*/*", "{ nothing }", 200),
        (f"text/event-stream, {MODERN}, multipart/mixed", "{ __typename }", 200),
    ):
        headers = {"Accept": accept}
        answer = api.send("POST", "/graphql", json={"query": query}, headers=headers)
        assert answer.status_code == status, (accept, query)
        kind = MODERN if MODERN in accept else "application/json"
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert ("data" in answer.json()) == (status == 200 and "nothing" not in query)


def test_the_schema_can_be_kept_to_oneself(tmp_path: Path) -> None:
    with running(tmp_path, introspection=False) as api:
        graph = Graph(api.send)
        errors = graph.ask("{ __schema { types { name } } }")["errors"]
        assert all("introspection" in error["message"] for error in errors)
        (error,) = graph.ask("{ expriments { totalCount } }")["errors"]
        assert "experiments" not in error["message"]
        assert graph.data("{ __typename }") == {"__typename": "Query"}


SEEN = "replayed checkpoint { state reason }"


@pytest.fixture
def declared(api: Api) -> str:
    """The path of a checkpoint of an external run, whose files are here."""
    experiment = api.post("/v1/experiments", {"name": "a", "task_type": "b"})["experiment_id"]
    run = api.post(f"/v1/experiments/{experiment}/runs", {"model": "m"})["run_id"]
    path = f"/ckpts/{experiment}/{run}/a"
    marked = {"run_id": run, "ckpt_path": path, "tag_type": "candidate"}
    api.post(f"/v1/experiments/{experiment}/checkpoints/mark", marked)
    (api.settings.data_dir / path.lstrip("/")).mkdir(parents=True)
    return path


def test_reading_a_checkpoint_may_take_longer_and_under_a_key_happens_once(
    api: Api, declared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def slow(storage: CheckpointStorage, path: Any, expected: str | None) -> VerificationResult:
        time.sleep(0.5)
        read.append(str(path))
        return VerificationResult(path, expected, "It is torn.")

    monkeypatch.setattr(limits, "SECONDS", 0.2)
    monkeypatch.setattr(verification, "verify_files", slow)
    graph = Graph(api.send)
    wanted = {"ckptPath": declared, "idempotencyKey": "graphql"}
    for replayed in (False, True):
        answer = graph.do("verifyCheckpoint", SEEN, **wanted)
        assert answer["checkpoint"] == {"state": "LOST", "reason": "It is torn."}
        assert (answer["replayed"], read) == (replayed, [declared])

    path = f"/v1/experiments/{declared.split('/')[2]}/checkpoints/verify"
    for number in range(2):
        headers = {"Idempotency-Key": "rest"}
        answer = api.send("POST", path, json={"ckpt_path": declared}, headers=headers)
        assert answer.json()["lost"] == 1
        assert (len(read), "idempotent-replayed" in answer.headers) == (2, number == 1)


@pytest.mark.parametrize("path", ["/ckpts/exp_a/run_b/c", "/etc/passwd", "a\0"])
def test_what_is_no_checkpoint_is_not_read(api: Api, path: str) -> None:
    answer = Graph(api.send).do("verifyCheckpoint", SEEN, ckptPath=path)
    assert answer["checkpoint"] is None and len(answer["userErrors"]) == 1


def test_an_answer_stored_by_another_version_is_replayed(api: Api) -> None:
    def create() -> Any:
        return Graph(api.send).do(
            "createExperiment", "replayed experiment { id name goal }",
            name="n", taskType="t", goal="g", idempotencyKey="of another version",
        )  # fmt: skip

    first = create()["experiment"]
    with closing(sqlite3.connect(api.settings.database_url.removeprefix("sqlite:///"))) as database:
        database.execute(
            "UPDATE idempotency_key SET body = json_set(json_remove(body, '$.experiment.goal'),"
            " '$.experiment.of_a_later_version', 1) WHERE key = 'of another version'"
        )
        database.commit()
    again = create()
    assert (again["replayed"], again["experiment"]) == (True, first | {"goal": None})


HOSTILE = ["\0", "\0:1", "exp_\0:1", ":1", "run_\0", "\ud800:1", "a\0b"]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_text_from_outside_is_a_bug_of_the_service(stored: Graph, text: str) -> None:
    """NUL, which PostgreSQL does not take, and lone surrogates, wherever a text may stand."""
    literal = json.dumps(text)
    for query in (
        f"node(id: {literal}) {{ id }}",
        f"nodes(ids: [{literal}]) {{ id }}",
        f"experiment(id: {literal}) {{ id }}",
        f"run(id: {literal}) {{ id }}",
        f"checkpoint(id: {literal}) {{ id }}",
        f"experiments(filter: {{taskType: {literal}}}) {{ totalCount }}",
        f"experiments(filter: {{tags: [{literal}]}}) {{ totalCount }}",
        f"experiments(filter: {{search: {literal}}}) {{ totalCount }}",
        f"experiments(after: {literal}) {{ totalCount nodes {{ id }} }}",
        f"runs(filter: {{experimentId: {literal}}}) {{ totalCount }}",
        f"runs(filter: {{parentRunId: {literal}}}) {{ totalCount }}",
        f"runs(filter: {{metric: {{key: {literal}, min: 1}}}}) {{ totalCount }}",
        f"runs(orderBy: {{field: METRIC, metricKey: {literal}}}) {{ nodes {{ id }} }}",
        f"runs {{ nodes {{ metricSeries(keys: [{literal}]) {{ key }} }} }}",
        f"checkpoints(filter: {{runId: {literal}}}) {{ totalCount }}",
    ):
        body = '{"query": ' + json.dumps("{ " + query + " }") + "}"
        answer = stored.send(
            "POST", "/graphql", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (200, 400), answer.text
        codes = {each["extensions"]["code"] for each in answer.json().get("errors", ())}
        assert codes <= {"BAD_USER_INPUT", "GRAPHQL_PARSE_FAILED", "BAD_REQUEST"}, (query, codes)
