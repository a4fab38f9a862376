"""Who may come in: Host, Origin, tokens, and how large; the same for every route."""

import asyncio
import base64
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.server.exchange import REVOKED, Exchange
from tests.api.conftest import Api, running
from tests.api.paths import PARAMETERS
from tests.api.problem import problem

TOKEN = "an-api-token-of-some-length"
ALLOWED = (
    "gpu.example.com, exact.example.com:8443, rooted.example.com., *.cluster.local,"
    "*.ports.example.com:8443, 10.1.0.0/16, fd00::/8"
)
GOOD_HOSTS = [
    "127.0.0.1", "127.0.0.1:8000", "localhost", "localhost:1", "LOCALHOST:8000", "[::1]",
    "[::1]:8000", "gpu.example.com", "GPU.Example.com:443", "exact.example.com:8443",
    "localhost.", "gpu.example.com.:8000", "exact.example.com.:8443", "rooted.example.com",
    "rooted.example.com.:8000", "llm.team.svc.cluster.local", "LLM.cluster.local.:80",
    "a.ports.example.com:8443", "10.1.2.3", "10.1.2.3:8000", "[fd12:3456::1]:8000",
]  # fmt: skip
BAD_HOSTS = [
    "", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil-localhost",
    "localhost..", ".localhost", "localhost@evil.example", "evil@localhost",
    "localhost:80@evil.example", "evil.example:80@localhost", "localhost:", "localhost:x",
    "localhost:8000:1", "localhost, evil.example", "localhost/", "localhost#", "localhost\\",
    "http://localhost", " localhost", "[::1]evil.example", "[::1", "::1", "[::2]", "[::1%25lo]",
    "0.0.0.0", "127.1", "2130706433", "exact.example.com", "exact.example.com:8444", "*",
    "ｌocalhost", "null", "127.0.0.1.", "cluster.local", ".cluster.local", "evilcluster.local",
    "a.cluster.local.evil.example", "*.cluster.local", "a.ports.example.com", "10.2.0.1",
    "10.1.2.3.", "10.1.2.3.evil.example", "10.1.2", "0x0a.1.2.3", "010.1.2.3", "[fe80::1]",
    "[::ffff:10.2.0.1]", "10.1.2.3/16", "fd00::1",
]  # fmt: skip
BAD_ORIGINS = [
    "null", "", "file://", "file://localhost", "ftp://localhost", "chrome-extension://localhost",
    "localhost", "//localhost", "http:/localhost", "http://", "https://localhost/", "javascript:0",
    "http://localhost http://evil.example", "http://localhost:3000", "http://127.0.0.1",
    *(f"http://{host}" for host in BAD_HOSTS),
]  # fmt: skip


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("open"), allowed_hosts=ALLOWED) as api:
        yield api


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("closed"), api_token=TOKEN, allowed_hosts=ALLOWED) as api:
        yield api


def get(api: Api, headers: dict[str, str], path: str = "/") -> httpx.Response:
    raw = [(name.encode(), value.encode("utf-8")) for name, value in headers.items()]
    return api.send("GET", path, headers=raw)


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_a_host_that_is_allowed(api: Api, host: str) -> None:
    assert get(api, {"host": host}).status_code == 200
    for scheme in ("http", "https"):
        assert get(api, {"host": host, "origin": f"{scheme}://{host}"}).status_code == 200


def test_pages_of_a_host_that_the_operator_named_may_send_requests(api: Api) -> None:
    for origin in ("https://gpu.example.com", "http://GPU.example.com:99"):
        assert get(api, {"host": "localhost", "origin": origin}).status_code == 200
    assert get(api, {"origin": "https://exact.example.com:8443"}).status_code == 200


@pytest.mark.parametrize("host", BAD_HOSTS, ids=repr)
def test_a_host_that_only_looks_like_one(api: Api, host: str) -> None:
    assert "Host" in problem(get(api, {"host": host}), "forbidden")["detail"]


@pytest.mark.parametrize("origin", BAD_ORIGINS, ids=repr)
def test_an_origin_that_only_looks_like_one(api: Api, origin: str) -> None:
    told = problem(get(api, {"origin": origin, "host": "localhost"}), "forbidden")
    assert "Origin" in told["detail"]


def test_a_repeated_host_or_origin_is_refused(api: Api) -> None:
    for name in ("host", "origin"):
        value = "localhost" if name == "host" else "https://gpu.example.com"
        assert api.send("GET", "/", headers=[(name, value)]).status_code == 200
        problem(api.send("GET", "/", headers=[(name, value), (name, value)]), "forbidden")


@pytest.mark.parametrize("path", ["/", "/openapi.json", "/docs", "/v1/x", "/static/x", "/healthz/"])
def test_no_path_but_health_is_beyond_the_check_of_names(api: Api, path: str) -> None:
    problem(get(api, {"host": "evil.example"}, path), "forbidden")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("host", ["10.9.8.7:8000", "llm-train", "evil.example", ""])
def test_health_is_told_to_a_probe_whatever_name_it_uses(api: Api, path: str, host: str) -> None:
    assert get(api, {"host": host}, path).status_code == 200
    # A page elsewhere is no probe, and a name that is not allowed opens nothing but a read.
    problem(get(api, {"host": host, "origin": "http://evil.example"}, path), "forbidden")
    problem(api.send("POST", path, headers={"host": "evil.example"}), "forbidden")


def test_graphql_is_refused_in_its_own_form(api: Api) -> None:
    answer = api.send("POST", "/graphql", json={}, headers={"origin": "http://evil.example"})
    assert (answer.status_code, answer.json()["errors"][0]["extensions"]["code"]) == (
        403,
        "FORBIDDEN",
    )


CORS = "access-control-allow-origin"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,idempotency-key",
}


@pytest.mark.parametrize("origin", ["https://gpu.example.com", "http://rooted.example.com:3000"])
def test_a_page_of_a_host_that_the_operator_named_may_read_the_answers(
    closed: Api, origin: str
) -> None:
    # The browser asks first, without the token that the page will send.
    asked = closed.send("OPTIONS", "/v1/experiments", headers=PREFLIGHT | {"origin": origin})
    assert (asked.status_code, asked.headers[CORS]) == (204, origin)
    assert "POST" in asked.headers["access-control-allow-methods"]
    allowed = asked.headers["access-control-allow-headers"].lower().split(", ")
    assert {"authorization", "content-type", "idempotency-key"} <= set(allowed)

    token = {"authorization": f"Bearer {TOKEN}"}
    for path, headers in (("/", token), ("/v1/nothing", token), ("/v1/nothing", {})):
        answer = get(closed, headers | {"origin": origin}, path)
        assert answer.headers[CORS] == origin
        assert "Origin" in answer.headers["vary"]
        assert "access-control-allow-credentials" not in answer.headers


def test_a_frontend_elsewhere_is_let_in_by_its_whole_origin(tmp_path: Path) -> None:
    origin = "https://ui.example.org:8443"
    with running(tmp_path, allowed_origins=[origin], api_token=TOKEN) as api:
        asked = api.send("OPTIONS", "/v1/experiments", headers=PREFLIGHT | {"origin": origin})
        assert (asked.status_code, asked.headers[CORS]) == (204, origin)
        assert get(api, {"origin": origin, "authorization": f"Bearer {TOKEN}"}).status_code == 200
        for other in ("http://ui.example.org:8443", "https://ui.example.org", "null", ""):
            problem(get(api, {"origin": other}), "forbidden")
        # Its name is no name of the service.
        problem(get(api, {"host": "ui.example.org:8443"}), "forbidden")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://10.1.2.3", "https://a.cluster.local", "null"]
)
def test_no_other_site_is_let_in_by_cors(api: Api, origin: str) -> None:
    # A pattern names hosts that clients may use, and no pages.
    for answer in (
        get(api, {"origin": origin}),
        api.send("OPTIONS", "/v1/experiments", headers=PREFLIGHT | {"origin": origin}),
    ):
        problem(answer, "forbidden")
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_services_own_pages_need_no_cors(api: Api) -> None:
    for headers in ({}, {"origin": "http://127.0.0.1:8000"}):
        answer = get(api, headers)
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_compressed_body_is_refused_by_the_name_of_its_encoding(api: Api) -> None:
    body = gzip.compress(b'{"name": "a", "task_type": "b"}')
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = api.send("POST", "/v1/experiments", content=body, headers=headers)
    assert "gzip" in problem(answer, "unsupported_media_type")["detail"]
    assert answer.headers["accept-encoding"] == "identity"
    answer = api.send("POST", "/graphql", content=body, headers=headers)
    error = answer.json()["errors"][0]
    assert (answer.status_code, "gzip" in error["message"]) == (415, True)
    plain = headers | {"content-encoding": "identity"}
    answer = api.send("POST", "/v1/experiments", content=gzip.decompress(body), headers=plain)
    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/experiments", "POST"),
        ("PUT", "/", "GET, HEAD"),
        ("OPTIONS", "/healthz", "GET, HEAD"),
        ("TRACE", "/readyz", "GET, HEAD"),
        ("BREW", "/openapi.json", "GET, HEAD"),
        ("POST", "/static/icon.svg", "GET, HEAD"),
    ],
)
def test_a_method_that_a_path_does_not_know(api: Api, method: str, path: str, allow: str) -> None:
    answer = api.send(method, path)
    problem(answer, "method_not_allowed")
    assert set(allow.split(", ")) <= set(answer.headers["allow"].split(", "))


def test_head_is_get_without_a_body(api: Api) -> None:
    got, head = api.send("GET", "/"), api.send("HEAD", "/")
    assert (head.status_code, head.headers["content-length"]) == (
        200,
        got.headers["content-length"],
    )


@pytest.mark.parametrize(
    "path", ["/v2", "/v1", "/v1/", "/v1/experiments/", "//", "/..%2fetc", "/%00"]
)
def test_an_unknown_path_is_a_problem(api: Api, path: str) -> None:
    problem(api.send("GET", path.replace("//", "/%2f")), None)


def test_every_answer_says_how_a_browser_must_treat_it(api: Api, closed: Api) -> None:
    for answer in (
        get(api, {}),
        get(api, {}, "/nothing"),
        get(closed, {}),
        get(api, {"host": "x"}),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
    assert get(api, {}, "/static/icon.svg").headers["cache-control"] == "no-cache"


# With an API token.


def basic(password: str, user: str = "me") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


RIGHT = [
    f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN} ", basic(TOKEN), basic(TOKEN, ""),
    basic(TOKEN, "x y"), basic(TOKEN).replace("Basic", "basic"),
]  # fmt: skip
WRONG = [
    "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN.upper()}",
    TOKEN, f"Token {TOKEN}", f"Bearer {TOKEN}, Bearer {TOKEN}", f"Bearer\t{TOKEN}", "Bearer ✓",
    basic("wrong"), basic(""), "Basic", "Basic !!!",
    "Basic " + base64.b64encode(b"\xff:\xff").decode(),
    "Basic " + base64.b64encode(TOKEN.encode()).decode(), basic(f"{TOKEN}:"), basic(f"x:{TOKEN}"),
]  # fmt: skip


def routes(api: Api) -> list[tuple[str, str]]:
    """Every route but the agents', who have tokens of their own; ids filled in."""
    found = [
        (method.upper(), path.format(**PARAMETERS))
        for path, operations in api.app.openapi()["paths"].items()
        for method, operation in operations.items()
        if operation["tags"] != ["agents"]
    ]
    return [*found, ("GET", "/graphql"), ("POST", "/graphql"), ("GET", "/docs"),
            ("GET", "/openapi.json"), ("GET", "/static/icon.svg"), ("GET", "/nothing")]  # fmt: skip


def test_every_route_but_health_needs_the_token(closed: Api) -> None:
    tried = 0
    for method, path in routes(closed):
        answer = closed.send(method, path)
        if path in ("/healthz", "/readyz"):
            assert answer.status_code == 200
            continue
        tried += 1
        assert answer.status_code == 401, path
        if not path.endswith(("/reports", "/spec")):
            challenges = answer.headers.get_list("www-authenticate")
            assert challenges == ["Bearer"]
        right = closed.send(method, path, headers={"authorization": RIGHT[0]})
        assert right.status_code != 401, path
    assert tried > 15


@pytest.mark.parametrize("authorization", RIGHT)
def test_the_token_is_taken(closed: Api, authorization: str) -> None:
    assert get(closed, {"authorization": authorization}).status_code == 200


@pytest.mark.parametrize("authorization", WRONG, ids=repr)
def test_another_token_is_not(closed: Api, authorization: str) -> None:
    problem(get(closed, {"authorization": authorization}), "unauthorized")


def test_a_repeated_token_is_not_taken(closed: Api) -> None:
    headers = [("authorization", RIGHT[0]), ("authorization", RIGHT[0])]
    problem(closed.send("GET", "/", headers=headers), "unauthorized")


@pytest.mark.parametrize(
    "path", ["/healthz/", "/healthz%2f..", "/%68ealthz/x", "//healthz", "/HEALTHZ"]
)
def test_what_only_looks_like_health_needs_the_token(closed: Api, path: str) -> None:
    assert closed.send("GET", "http://127.0.0.1:8000" + path).status_code == 401


# Websockets.


def knock(api: Api, path: str, headers: dict[str, str]) -> dict[str, Any]:
    """Return what a websocket's handshake is answered with first."""
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if any(each["type"] == "websocket.accept" for each in answers):
            return {"type": "websocket.disconnect", "code": 1000}
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        answers.append(message)

    told = {"host": "localhost", "sec-websocket-protocol": "graphql-transport-ws"} | headers
    scope = {
        "type": "websocket", "asgi": {"version": "3.0"}, "scheme": "ws", "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "state": {},
        "headers": [(name.encode(), value.encode()) for name, value in told.items()],
        "subprotocols": ["graphql-transport-ws"], "extensions": {"websocket.http.response": {}},
    }  # fmt: skip
    asyncio.run(api.app(scope, receive, send))
    return answers[0]


def test_a_websocket_from_elsewhere_is_refused_before_it_opens(api: Api) -> None:
    assert knock(api, "/graphql", {})["type"] == "websocket.accept"
    for origin in ("http://localhost", "https://gpu.example.com"):
        assert knock(api, "/graphql", {"origin": origin})["type"] == "websocket.accept"
    for wrong in (
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:1"},
        {"host": "evil.example"},
    ):
        answer = knock(api, "/graphql", wrong)
        assert (answer["type"], answer["status"]) == ("websocket.http.response.start", 403)


def test_a_websocket_without_a_token_gets_as_far_as_the_question_for_one(closed: Api) -> None:
    assert knock(closed, "/graphql", {})["type"] == "websocket.accept"
    assert knock(closed, "/graphql", {"authorization": RIGHT[0]})["type"] == "websocket.accept"
    for path in ("/", "/graphql/", "/v1/runs/x/reports", "/healthz"):
        answer = knock(closed, path, {})
        assert (answer["type"], answer["status"]) == ("websocket.http.response.start", 401)


# The token of one run.


@pytest.fixture(params=["open", "closed"])
def told(
    request: pytest.FixtureRequest, api: Api, closed: Api
) -> tuple[Api, str, dict[str, Any], str]:
    """A service with or without an API token, an experiment, its run, and a foreign run's id."""
    chosen = {"open": api, "closed": closed}[request.param]
    key = {"authorization": f"Bearer {TOKEN}"} if chosen is closed else {}
    experiment = chosen.post("/v1/experiments", {"name": "a", "task_type": "b"}, **key)[
        "experiment_id"
    ]
    path = f"/v1/experiments/{experiment}/runs"
    run, other = (chosen.post(path, {"model": "m"}, **key) for _ in range(2))
    return chosen, experiment, run, other["run_id"]


def test_a_run_token_reports_on_its_own_run_only(
    told: tuple[Api, str, dict[str, Any], str],
) -> None:
    api, _, run, other = told
    key = {"authorization": f"Bearer {run['run_token']}"}
    report = {"session": "s"}
    mine, theirs = f"/v1/runs/{run['run_id']}/reports", f"/v1/runs/{other}/reports"
    before = api.digest()
    for path, headers in (
        (theirs, key),
        (mine, {}),
        (mine, {"authorization": f"Bearer {run['run_token']}x"}),
        (mine, {"authorization": basic(run["run_token"])}),
        (mine, {"authorization": run["run_token"]}),
        ("/v1/runs/run_0cc4q1x3h7p2n4s6v8y0c1e3gj/reports", key),
    ):
        answer = api.send("POST", path, json=report, headers=headers)
        problem(answer, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert api.digest() == before
    assert api.send("POST", mine, json=report, headers=key).status_code == 200


def test_a_run_token_opens_nothing_else(closed: Api) -> None:
    api_key = {"authorization": f"Bearer {TOKEN}"}
    made = closed.post("/v1/experiments", {"name": "a", "task_type": "b"}, **api_key)
    run = closed.post(f"/v1/experiments/{made['experiment_id']}/runs", {"model": "m"}, **api_key)
    key = {"authorization": f"Bearer {run['run_token']}"}
    for method, path in routes(closed):
        if path not in ("/healthz", "/readyz"):
            path = path.replace(PARAMETERS["experiment_id"], made["experiment_id"])
            answer = closed.send(method, path, headers=key, json={} if method == "POST" else None)
            assert answer.status_code == 401, path
    spec = closed.send("GET", f"/v1/runs/{run['run_id']}/spec", headers=key)
    assert (spec.status_code, spec.json()["model"]) == (200, "m")
    assert closed.send("HEAD", f"/v1/runs/{run['run_id']}/spec", headers=key).status_code == 200
    mine = f"/v1/runs/{run['run_id']}/reports"
    assert closed.send("GET", mine, headers=key).status_code == 401
    assert closed.send("GET", f"{mine}/x", headers=key).status_code == 401


def test_the_operator_may_report_on_any_run(closed: Api) -> None:
    key = {"authorization": f"Bearer {TOKEN}"}
    made = closed.post("/v1/experiments", {"name": "a", "task_type": "b"}, **key)
    run = closed.post(f"/v1/experiments/{made['experiment_id']}/runs", {"model": "m"}, **key)
    closed.post(f"/v1/runs/{run['run_id']}/reports", {"session": "s"}, **key)


@pytest.mark.anyio
async def test_a_message_that_was_ready_when_the_token_was_revoked_is_not_sent() -> None:
    """Seen red: without the look before each message, the one between two others went out."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def hear() -> None:  # of which nobody is told
        await asyncio.Event().wait()

    revoked: list[str] = []
    exchange = Exchange(receive, send, {}, 0)
    exchange.end_with(lambda: bool(revoked), hear())
    try:
        await exchange.send({"type": "websocket.send", "text": "first"})
        revoked.append("tok_1")
        for text in ("second", "third"):
            await exchange.send({"type": "websocket.send", "text": text})
    finally:
        exchange.stop()
    assert [message.get("text", message.get("code")) for message in sent] == ["first", REVOKED]
