"""Streams of somebody whose token is revoked, or who leaves a project, end without another word.

On PostgreSQL the revocation comes through another server than the one that streams.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
import websockets

from tests.support.database import Databases
from tests.support.graphql import Socket, connected
from tests.support.server import running_server, wait_until
from tests.support.tenants import API_TOKEN, Person, operator, person

Sends = Callable[..., httpx.Response]
EVENTS = """subscription ($id: ID!) {
    experimentEvents(experimentId: $id) { seq type run { id } }
}"""
CHANGED = "subscription { runsChanged(seconds: 0.1) { id } }"


@pytest.fixture(scope="module")
def servers(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    url = databases.migrated()
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                running_server(
                    tmp_path_factory.mktemp("home") if number else tmp_path_factory.mktemp("first"),
                    DATABASE_URL=url, API_TOKEN=API_TOKEN,
                )
            ).url
            for number in range(1 if url.startswith("sqlite") else 2)
        ]  # fmt: skip
    databases.drop(url)


def sender(url: str) -> Sends:
    def send(method: str, path: str, **more: Any) -> httpx.Response:
        return httpx.request(method, url + path, timeout=30, verify=False, **more)

    return send


async def ended(socket: Socket, secret: str) -> str:
    """Return how the stream ends: an error's code, or the code the connection closed with.

    What was on its way may come before that; nothing of `secret`, which came after.
    """
    while True:
        try:
            message = await socket.receive()
        except websockets.ConnectionClosed as closed:
            assert closed.rcvd is not None
            return str(closed.rcvd.code)
        assert secret not in str(message)
        payload = message["payload"]
        errors = payload if isinstance(payload, list) else payload.get("errors")
        if errors:
            return str(errors[0]["extensions"]["code"])


def two_people(servers: list[str], name: str) -> tuple[Person, Person, str]:
    """The operator at the last server, a member at the first one, and an experiment of hers."""
    admin = operator(sender(servers[-1]))
    member = person(admin, name, name)
    member.service = sender(servers[0])
    body = {"name": "e", "task_type": "t"}
    return admin, member, member.ok("POST", "/v1/experiments", body)["experiment_id"]


@pytest.mark.anyio
@pytest.mark.parametrize("query", [EVENTS, CHANGED], ids=["events", "changes"])
async def test_a_revoked_token_ends_its_websocket(servers: list[str], query: str) -> None:
    admin, alice, experiment = two_people(servers, f"alice{len(query)}")
    hello = {"Authorization": f"Bearer {alice.token}"}
    async with connected(servers[0], hello) as socket:
        await socket.ask(query, **({"id": experiment} if "$id" in query else {}))
        runs = f"/v1/experiments/{experiment}/runs"
        first = asyncio.ensure_future(socket.next())
        while not (first.done() and first.result()):
            # Nothing tells when the subscription is there: what comes before is not heard.
            alice.ok("POST", runs, {"model": "m"})
            first = asyncio.ensure_future(socket.next()) if first.done() else first
            await asyncio.wait({first}, timeout=1)
        (token,) = alice.ok("GET", "/v1/tokens")["tokens"]
        admin.ok("DELETE", f"/v1/tokens/{token['token_id']}")
        secret = admin.ok("POST", runs, {"model": "secret"})["run_id"]
        assert await ended(socket, secret) in ("4401", "UNAUTHORIZED")


@pytest.mark.anyio
@pytest.mark.parametrize("by", ["hello", "header"])
@pytest.mark.parametrize("how", ["revoke", "disable"])
async def test_an_idle_websocket_ends_with_its_token(servers: list[str], by: str, how: str) -> None:
    admin, eve, _ = two_people(servers, f"eve-{by}-{how}")
    token = {"Authorization": f"Bearer {eve.token}"}
    hello, headers = (token, {}) if by == "hello" else (None, token)
    async with connected(servers[0], hello, **headers) as socket:
        if how == "disable":
            admin.ok("PATCH", f"/v1/users/{eve.user_id}", {"disabled": True})
        else:
            (found,) = eve.ok("GET", "/v1/tokens")["tokens"]
            admin.ok("DELETE", f"/v1/tokens/{found['token_id']}")
        assert await ended(socket, "nothing") == "4401"


@pytest.mark.anyio
async def test_a_wrong_token_of_a_websocket_is_recorded(servers: list[str]) -> None:
    with pytest.raises(websockets.ConnectionClosed):
        async with connected(servers[0], {"Authorization": "Bearer llmt_wrong"}):
            pass
    admin = operator(sender(servers[-1]))
    wait_until(
        lambda: bool(admin.ok("GET", "/v1/audit?action=sign_in")["entries"]), "the entry of it"
    )


@pytest.mark.anyio
async def test_who_leaves_a_project_gets_no_more_of_its_history(servers: list[str]) -> None:
    admin, bob, experiment = two_people(servers, "bob")
    hello = {"Authorization": f"Bearer {bob.token}"}
    async with connected(servers[0], hello) as socket:
        await socket.ask(EVENTS.replace("(experimentId: $id)", "(experimentId: $id, afterSeq: 0)"),
                         id=experiment)  # fmt: skip
        assert (await socket.next())["type"] == "experiment.created"
        admin.ok("DELETE", f"/v1/projects/{bob.project_id}/members/{bob.user_id}")
        runs = f"/v1/experiments/{experiment}/runs"
        secret = admin.ok("POST", runs, {"model": "secret"})["run_id"]
        assert await ended(socket, secret) == "NOT_FOUND"
