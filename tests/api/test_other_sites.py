"""A page of another site cannot use the session of a browser, on any route and in any form.

The browser brings its cookie wherever a page tells it to ask; `SameSite=Strict` keeps it from other
sites, not from other ports of this machine. What a page can send: any method with an Origin of its
own, and a GET without one (an image, a script), whose answer it cannot read.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import websockets
from fastapi.routing import APIRoute
from websockets.typing import Subprotocol

from app.mlflow import endpoints as mlflow
from app.wandb import endpoints as wandb
from tests.api.conftest import Api, running, serving
from tests.api.paths import PARAMETERS
from tests.support.graphql import PROTOCOL

TOKEN = "an-api-token-of-some-length"
HERE = {"origin": "http://127.0.0.1:8000"}
ELSEWHERE: list[dict[str, str]] = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:3000"},
    {"origin": "http://127.0.0.1:8000.evil.example"},
    {"origin": "http://evil.example", "host": "evil.example"},
]
MUTATION = 'mutation { createExperiment(input: {name: "x", taskType: "t"}) { experiment { id } } }'
FORMS = [
    ("application/json", json.dumps({"query": MUTATION})),
    ("text/plain", json.dumps({"query": MUTATION})),
    ("application/x-www-form-urlencoded", f"query={MUTATION}"),
    ("multipart/form-data; boundary=b",
     '--b\r\nContent-Disposition: form-data; name="operations"\r\n\r\n'
     + json.dumps({"query": MUTATION}) + "\r\n--b--\r\n"),
]  # fmt: skip


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("sites"), api_token=TOKEN) as api:
        yield api


@pytest.fixture(scope="module")
def cookie(api: Api) -> dict[str, str]:
    """The session of an administrator, who may do everything."""
    answer = api.send("POST", "/session", json={"token": TOKEN}, headers=HERE)
    return {"cookie": answer.headers["set-cookie"].partition(";")[0]}


@pytest.fixture(scope="module")
def ids(api: Api) -> dict[str, str]:
    """Return what there is to change."""
    key = {"authorization": f"Bearer {TOKEN}"}
    made = api.post("/v1/experiments", {"name": "a", "task_type": "b"}, **key)["experiment_id"]
    run = api.post(f"/v1/experiments/{made}/runs", {"model": "m"}, **key)["run_id"]
    return PARAMETERS | {"experiment_id": made, "run_id": run}


def operations(api: Api, ids: dict[str, str]) -> list[tuple[str, str]]:
    """Every route of the API, of the trackers' clients and of the session, with its methods."""
    found = [
        (method.upper(), path.format_map(ids))
        for path, methods in api.app.openapi()["paths"].items()
        for method in methods
    ]
    found += [("POST", "/session"), ("DELETE", "/session"), ("POST", "/session/code")]
    for route in (*mlflow.make_app().routes, *wandb.make_app().routes):
        assert isinstance(route, APIRoute)
        path = route.path.replace(":path}", "}").format_map(defaultdict(lambda: "a", ids))
        found += [(method, path) for method in route.methods or ()]
    return found


def test_no_route_does_anything_for_a_page_of_another_site(
    api: Api, cookie: dict[str, str], ids: dict[str, str]
) -> None:
    before, tried = api.digest(), 0
    for method, path in operations(api, ids):
        for page in ELSEWHERE:
            answer = api.send(method, path, json={}, headers=cookie | page)
            assert answer.status_code == 403, (method, path, page, answer.text)
            tried += 1
        if method != "GET" and path != "/session":
            answer = api.send(method, path, json={}, headers=cookie)  # which no browser sends
            assert answer.status_code == 403, (method, path, answer.text)
    assert tried > 600
    assert api.digest() == before


def test_no_form_of_graphql_does_anything_for_a_page_of_another_site(
    api: Api, cookie: dict[str, str]
) -> None:
    before = api.digest()
    for page in [*ELSEWHERE, {}]:
        for kind, content in FORMS:
            headers = cookie | page | {"content-type": kind}
            for accept in ("application/json", "text/event-stream", "multipart/mixed"):
                asked = headers | {"accept": accept}
                answer = api.send("POST", "/graphql", content=content, headers=asked)
                assert answer.status_code == 403, (page, kind, accept, answer.text)
    for accept in ("application/json", "text/event-stream"):
        answer = api.send(
            "GET", "/graphql", params={"query": MUTATION}, headers=cookie | {"accept": accept}
        )
        assert answer.status_code == 405 or "mutations are not allowed" in answer.text
        for page in ELSEWHERE:
            asked = cookie | page | {"accept": accept}
            query = {"query": "{ experiments { totalCount } }"}
            answer = api.send("GET", "/graphql", params=query, headers=asked)
            assert answer.status_code == 403, (page, accept, answer.text)
    assert api.digest() == before
    made = api.send("POST", "/graphql", json={"query": MUTATION}, headers=cookie | HERE)
    assert made.json()["data"]["createExperiment"]["experiment"]["id"], "the own page may"


def test_what_an_image_or_a_script_asks_for_changes_nothing_and_is_nobodys_to_read(
    api: Api, cookie: dict[str, str], ids: dict[str, str]
) -> None:
    """A GET without an Origin: a page at another port has the browser send it, cookie and all."""
    before, read = api.digest(), 0
    for method, path in operations(api, ids):
        if method == "GET" and not path.endswith("/watch"):
            answer = api.send(method, path, headers=cookie)
            assert answer.headers["cross-origin-resource-policy"] == "same-origin", path
            assert answer.headers["x-content-type-options"] == "nosniff", path
            assert not [name for name in answer.headers if name.startswith("access-control")], path
            read += answer.status_code == 200
    assert read > 20
    assert api.digest() == before


def test_no_websocket_opens_for_a_page_of_another_site(api: Api, cookie: dict[str, str]) -> None:
    async def first_answer(url: str, headers: dict[str, Any]) -> Any:
        """Return the status of a refused handshake, or what a subscription is answered with."""
        opening = websockets.connect(
            f"{url.replace('http', 'ws')}/graphql",
            additional_headers=cookie | headers,
            subprotocols=[Subprotocol(PROTOCOL)],
        )
        try:
            async with opening as socket:
                await socket.send('{"type": "connection_init"}')
                return json.loads(await socket.recv())["type"]
        except websockets.InvalidStatus as refused:
            return refused.response.status_code
        except websockets.ConnectionClosed as closed:
            return closed.rcvd and closed.rcvd.code

    with serving(api) as url:
        for page in ELSEWHERE[:-1]:
            assert asyncio.run(first_answer(url, page)) == 403, page
        assert asyncio.run(first_answer(url, {})) == 4403, "no browser's: it needs a token"
        assert asyncio.run(first_answer(url, {"origin": url})) == "connection_ack"
