"""Clients that people use, unmodified, against a running server."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from gql import Client, gql
from gql.transport.httpx import HTTPXAsyncTransport
from gql.transport.websockets import WebsocketsTransport

from tests.support.node import npm_packages, run_module
from tests.support.server import Server

URQL = Path(__file__).with_name("urql.mjs")


@pytest.fixture(scope="module")
def experiment(server: Server) -> dict[str, Any]:
    """An experiment with five external runs; the first has a declared checkpoint."""
    with httpx2.Client(base_url=server.url) as http:

        def post(path: str, **body: object) -> Any:
            return http.post(path, json=body).raise_for_status().json()

        created = post("/v1/experiments", name="clients", task_type="pretrain")["experiment_id"]
        runs = [post(f"/v1/experiments/{created}/runs", model="m")["run_id"] for _ in range(5)]
        path = f"/ckpts/{created}/{runs[0]}/step-1"
        mark = {"run_id": runs[0], "ckpt_path": path, "tag_type": "candidate"}
        post(f"/v1/experiments/{created}/checkpoints/mark", **mark)
    return {"id": created, "runs": runs, "ckpt_path": path}


def test_urqls_normalised_cache_pages_and_sees_a_mutation(
    server: Server, experiment: dict[str, Any]
) -> None:
    packages = npm_packages(
        "@urql/core@6.0.3", "@urql/exchange-graphcache@9.0.2", "graphql@16.15.0"
    )
    runs, path = experiment["runs"], experiment["ckpt_path"]
    seen = run_module(packages, URQL, f"{server.url}/graphql", experiment["id"], runs[0], path)
    assert [len(page) for page in seen["pages"]] == [2, 4, 5]
    assert sorted(seen["pages"][-1]) == sorted(runs)
    assert seen["tags"] == {path: "release"}
    assert seen["complaints"] == []


def test_gql_queries_with_the_schema_it_fetched(server: Server, experiment: dict[str, Any]) -> None:
    query = gql("query Q($id: ID!) { experiment(id: $id) { id runs(first: 3) { totalCount } } }")

    async def ask() -> dict[str, Any]:
        transport = HTTPXAsyncTransport(url=f"{server.url}/graphql")
        client = Client(transport=transport, fetch_schema_from_transport=True)
        async with client as session:
            query.variable_values = {"id": experiment["id"]}
            answer: dict[str, Any] = await session.execute(query)
            return answer

    found = asyncio.run(ask())["experiment"]
    assert found == {"id": experiment["id"], "runs": {"totalCount": 5}}


def test_gql_subscribes_over_websockets(server: Server, experiment: dict[str, Any]) -> None:
    run = experiment["runs"][0]
    subscription = gql("subscription S($id: ID!) { run(id: $id) { id status } }")
    subscription.variable_values = {"id": run}

    async def first() -> dict[str, Any]:
        transport = WebsocketsTransport(url=f"{server.url.replace('http', 'ws')}/graphql")
        async with Client(transport=transport) as session, asyncio.timeout(60):
            answer: dict[str, Any]
            async for answer in session.subscribe(subscription):
                return answer
        raise AssertionError("the subscription ended without a word")

    assert asyncio.run(first())["run"]["id"] == run


def test_gqls_command_prints_the_schema(server: Server) -> None:
    gql_cli = str(Path(sys.executable).with_name("gql-cli"))
    command = [gql_cli, f"{server.url}/graphql", "--print-schema"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert printed.returncode == 0, printed.stderr
    assert "type Experiment implements Node {" in printed.stdout
