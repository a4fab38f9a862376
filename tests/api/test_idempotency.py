"""Idempotency-Key on every POST, on both databases: one effect, and the first answer again."""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from app.db.database import Database
from app.domain.ids import timestamp
from app.domain.permissions import DEFAULT_PROJECT
from app.services import idempotency
from app.services.idempotency import StoredResponse
from tests.support.database import Databases, dsn
from tests.support.server import running_server, wait_until

Json = dict[str, Any]


@dataclass
class Servers:
    """Every server that shares the database: two on PostgreSQL, one on SQLite."""

    urls: list[str]
    database_url: str
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30))

    def post(self, path: str, body: Any, key: str | None = None, server: int = 0) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.http.post(f"{self.urls[server]}/v1{path}", json=body, headers=headers)

    def get(self, path: str) -> Any:
        return self.http.get(f"{self.urls[0]}/v1{path}").raise_for_status().json()


@pytest.fixture(scope="module")
def servers(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    home, url = tmp_path_factory.mktemp("home"), databases.migrated()
    with ExitStack() as stack:
        started = [
            stack.enter_context(running_server(home, DATABASE_URL=url))
            for _ in range(1 if url.startswith("sqlite") else 2)
        ]
        found = Servers([server.url for server in started], url)
        with found.http:
            yield found
    databases.drop(url)


@pytest.fixture
def experiment(servers: Servers) -> str:
    body = {"name": "a", "task_type": "sft"}
    return str(servers.post("/experiments", body).raise_for_status().json()["experiment_id"])


def submit(servers: Servers, experiment: str) -> Json:
    """An external run: nothing moves it but this test."""
    answer = servers.post(f"/experiments/{experiment}/runs", {"model": "tiny"})
    found: Json = answer.raise_for_status().json()
    return found


# Every POST: its path, a body, and another body that it would also accept.
POSTS: dict[str, tuple[Json, Json]] = {
    "/experiments": ({"name": "b", "task_type": "sft"}, {"name": "c", "task_type": "sft"}),
    "/experiments/{experiment_id}/runs": ({"model": "b"}, {"model": "c"}),
    "/experiments/{experiment_id}/runs/{run_id}/cancel": ({}, {}),  # differs by its bytes
    "/experiments/{experiment_id}/runs/{run_id}/resume": (
        {"ckpt_path": "/ckpts/{experiment_id}/{run_id}/a"},
        {"ckpt_path": "/ckpts/{experiment_id}/{run_id}/b"},
    ),
    "/experiments/{experiment_id}/checkpoints/mark": (
        {"run_id": "{run_id}", "ckpt_path": "/ckpts/{experiment_id}/{run_id}/a",
         "tag_type": "candidate"},
        {"run_id": "{run_id}", "ckpt_path": "/ckpts/{experiment_id}/{run_id}/b",
         "tag_type": "candidate"},
    ),
    "/experiments/{experiment_id}/checkpoints/verify": ({}, {"run_id": "{run_id}"}),
    "/experiments/{experiment_id}/verifications": ({}, {"run_id": "{run_id}"}),
    "/experiments/{experiment_id}/runs/{run_id}/rerun": ({}, {}),
    "/experiments/{experiment_id}/runs/{run_id}/redact": ({"notes": True}, {"metrics": ["a"]}),
    "/webhooks": ({"url": "https://a.example.com"}, {"url": "https://b.example.com"}),
    "/webhooks/{webhook_id}/test": ({}, {}),
    "/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": ({}, {}),
    "/alert-rules": ({"kind": "run_failed"}, {"kind": "run_stalled"}),
    "/projects": ({"name": "p-{unique}"}, {"name": "q-{unique}"}),
    "/projects/{project_id}/members": (
        {"user": "{user}", "role": "viewer"}, {"user": "{user}", "role": "member"},
    ),
    "/users": ({"name": "p-{unique}"}, {"name": "q-{unique}"}),
    "/tokens": ({"user": "{user}"}, {"user": "{user}", "name": "n"}),
    "/runs/{run_id}/reports": ({"attempt": 1, "step": 3}, {"attempt": 1, "step": 4}),
}  # fmt: skip


@dataclass
class Post:
    """One POST, filled in for a run of its own."""

    servers: Servers
    path: str
    body: Json
    other_body: Json
    experiment: str
    headers: dict[str, str]
    run: str
    webhook: str

    def __call__(self, key: str, body: Json | None = None, server: int = 0) -> httpx.Response:
        return self.servers.http.post(
            f"{self.servers.urls[server]}/v1{self.path}",
            content=json.dumps(self.body) if body is None else json.dumps(body, indent=1) + "\n",
            headers={"Content-Type": "application/json", "Idempotency-Key": key, **self.headers},
        )

    def world(self) -> Any:
        """Everything that a second effect would show in."""
        status = f"/experiments/{self.experiment}/runs/{self.run}/status"
        with closing(connection(self.servers.database_url)) as found:
            (experiments,) = found.execute("SELECT count(*) FROM experiment").fetchone()
        return (
            self.servers.get(f"/experiments/{self.experiment}/detail"),
            self.servers.get(status),
            experiments,
            # Not their states: to those that are not paused something is sent at any time.
            [webhook["webhook_id"] for webhook in self.servers.get("/webhooks")["webhooks"]],
            self.servers.get(f"/webhooks/{self.webhook}/deliveries"),
            *(
                self.servers.get(path)
                for path in ("/projects", "/users", "/tokens", "/alert-rules")
            ),
            self.servers.get(f"/projects/{DEFAULT_PROJECT}/members"),
        )


@pytest.fixture(params=POSTS)
def post(request: pytest.FixtureRequest, servers: Servers, experiment: str) -> Post:
    run = submit(servers, experiment)
    webhook = servers.post("/webhooks", {"url": "https://a.example.com"}).json()["webhook_id"]
    servers.http.patch(f"{servers.urls[0]}/v1/webhooks/{webhook}", json={"paused": True})
    delivery = servers.post(f"/webhooks/{webhook}/test", {}).json()["delivery_id"]
    fill = {
        "experiment_id": experiment,
        "run_id": run["run_id"],
        "webhook_id": webhook,
        "delivery_id": delivery,
        "project_id": DEFAULT_PROJECT,
        "unique": run["run_id"][4:],
        "user": f"u-{run['run_id']}",
    }
    servers.post("/users", {"name": fill["user"]}).raise_for_status()
    body, other = (
        {
            name: value.format(**fill) if isinstance(value, str) else value
            for name, value in each.items()
        }
        for each in POSTS[request.param]
    )
    headers = {"Authorization": f"Bearer {run['run_token']}"} if "reports" in request.param else {}
    path = request.param.format(**fill)
    return Post(servers, path, body, other, experiment, headers, run["run_id"], webhook)


def connection(url: str) -> Any:
    if url.startswith("sqlite"):
        return sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    return psycopg.connect(dsn(url), autocommit=True)


def test_every_post_is_tested_here(servers: Servers) -> None:
    paths = servers.http.get(f"{servers.urls[0]}/openapi.json").json()["paths"]
    posts = {
        path.removeprefix("/v1"): each["post"] for path, each in paths.items() if "post" in each
    }
    # An agent's own routes may be repeated without a key: tests/api/test_attempts.py.
    people = {path for path, post in posts.items() if post["tags"] != ["agents"]}
    assert people == set(POSTS), f"add {people - set(POSTS)} to POSTS"


def replayable(answer: httpx.Response) -> bytes:
    """An answer without a token, which is shown once."""
    return re.sub(rb',"token":[^}]*', b"", answer.content)


def test_the_same_again_is_the_first_answer_and_changes_nothing(post: Post) -> None:
    key = str(uuid4())
    first = post(key)
    assert first.status_code < 300, first.text
    assert "idempotent-replayed" not in first.headers
    world = post.world()

    for server in range(len(post.servers.urls)):
        for form in (key, f'"{key}"'):
            again = post(form, server=server)
            assert (again.status_code, replayable(again)) == (first.status_code, replayable(first))
            assert again.headers["idempotent-replayed"] == "true"
    assert post.world() == world


def test_another_body_under_the_key_is_refused_and_changes_nothing(post: Post) -> None:
    key = str(uuid4())
    post(key).raise_for_status()
    world = post.world()

    refused = post(key, post.other_body)

    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert post.world() == world


def test_32_at_once_have_one_effect(post: Post) -> None:
    key = str(uuid4())
    with ThreadPoolExecutor(32) as pool:
        servers = islice(cycle(range(len(post.servers.urls))), 32)
        answers = list(pool.map(lambda server: post(key, server=server), servers))
    first = post(key)
    assert first.headers["idempotent-replayed"] == "true"

    done = [each for each in answers if each.status_code != 409]
    assert {(each.status_code, replayable(each)) for each in done} == {
        (first.status_code, replayable(first))
    }
    assert sum("idempotent-replayed" not in each.headers for each in done) == 1
    for each in answers:
        if each.status_code == 409:
            assert each.json()["code"] == "idempotency_key_in_flight"
            assert each.headers["retry-after"] == "1"
    makes_a_run = post.path.endswith(("/runs", "/resume", "/rerun"))
    assert len(post.world()[0]["runs"]) == 1 + makes_a_run


@contextmanager
def nobody_writes(servers: Servers, experiment: str) -> Iterator[None]:
    """Every write of this experiment waits until the block ends."""
    with closing(connection(servers.database_url)) as found:
        if servers.database_url.startswith("sqlite"):
            found.execute("BEGIN IMMEDIATE")
        else:
            found.execute("BEGIN")
            found.execute("SELECT 1 FROM experiment WHERE id = %s FOR UPDATE", (experiment,))
        yield
        found.execute("COMMIT")


def test_while_one_is_under_way_the_others_are_told_to_wait(
    servers: Servers, experiment: str
) -> None:
    path, body, key = f"/experiments/{experiment}/runs", {"model": "tiny"}, str(uuid4())
    with ThreadPoolExecutor() as pool:
        with nobody_writes(servers, experiment):
            calls = [
                pool.submit(servers.post, path, body, key, server)
                for server in 2 * list(range(len(servers.urls)))
            ]
            wait_until(lambda: sum(call.done() for call in calls) == len(calls) - 1, "all but one")
            refused = [call.result() for call in calls if call.done()]
        answers = {call.result().status_code: call.result() for call in calls}

    assert {each.json()["code"] for each in refused} == {"idempotency_key_in_flight"}
    assert answers.keys() == {201, 409}
    for server in range(len(servers.urls)):
        again = servers.post(path, body, key, server)
        assert again.headers["idempotent-replayed"] == "true"
        assert again.content == answers[201].content


def test_a_key_belongs_to_one_route(servers: Servers, experiment: str) -> None:
    key, body = str(uuid4()), {"model": "tiny"}
    elsewhere = servers.post("/experiments", {"name": "b", "task_type": "sft"}, key).json()
    answers = [
        servers.post(f"/experiments/{each}/runs", body, key)
        for each in (experiment, elsewhere["experiment_id"])
    ]
    assert [each.status_code for each in answers] == [201, 201]
    assert not any("idempotent-replayed" in each.headers for each in answers)


def test_an_error_is_not_the_first_answer(servers: Servers, experiment: str) -> None:
    key, path = str(uuid4()), f"/experiments/{experiment}/runs"
    assert servers.post(path, {"model": "tiny", "recipe": "none"}, key).status_code == 422
    assert servers.post(path, {"model": "tiny"}, key).status_code == 201


@pytest.mark.parametrize(
    ("key", "accepted"),
    [("k" * 255, True), (f'"{"q" * 255}"', True), ("k" * 256, False), ('""', False), ("", False),
     ("ké", False), ("a b", True)],
)  # fmt: skip
def test_a_key_has_1_to_255_printable_characters(
    servers: Servers, experiment: str, key: str, accepted: bool
) -> None:
    answer = servers.http.post(
        f"{servers.urls[0]}/v1/experiments/{experiment}/runs",
        json={"model": "tiny"},
        headers=httpx.Headers({"Idempotency-Key": key}, encoding="utf-8"),
    )
    assert answer.status_code == (201 if accepted else 422), answer.text
    assert accepted or answer.json()["errors"][0]["header"] == "Idempotency-Key"


def test_a_mutation_keeps_the_same_promise(servers: Servers) -> None:
    mutation = """mutation($input: CreateExperimentInput!) {
        createExperiment(input: $input) { experiment { id } replayed userErrors { code } } }"""
    chosen = {"name": "a", "taskType": "sft", "idempotencyKey": str(uuid4())}

    def create(server: int, **fields: str) -> Any:
        body = {"query": mutation, "variables": {"input": chosen | fields}}
        answer = servers.http.post(f"{servers.urls[server]}/graphql", json=body).json()
        return answer["data"]["createExperiment"]

    first = create(0)
    assert not first["replayed"]
    for server in range(len(servers.urls)):
        assert create(server) == first | {"replayed": True}
    assert create(0, name="b")["userErrors"][0]["code"] == "idempotency_key_reused"


@pytest.mark.anyio
async def test_keys_are_kept_for_a_day_at_least_and_not_for_ever(db: Database) -> None:
    def ask(hours_ago: float) -> Callable[..., StoredResponse]:
        keyed = idempotency.parse_key("local", "POST", "/x", f"{hours_ago}", b"")
        at = timestamp(datetime.now(UTC) - timedelta(hours=hours_ago))

        def work(tx: Any) -> StoredResponse:
            tx.now = at
            return StoredResponse(200, "{}")

        return lambda tx: idempotency.run_once(tx, keyed, work)

    for hours in (23, 25, 24 * 30):
        await db.write(ask(hours))
    await db.write(idempotency.expire)

    assert (await db.write(ask(23))).replayed
    assert not (await db.write(ask(24 * 30))).replayed
